"""Versions of a catalogue: which segments and removals make up each, one JSON file a version."""

import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import SearchSettings
from compressae.retrieval.io.artifacts import json_checksum
from compressae.retrieval.io.atomic import replacing
from compressae.retrieval.io.plain import read_plain
from compressae.retrieval.io.schema import Count, Pattern, Positive, Sha256, checked, from_json

FOLDER = "versions"
#: A file that notes a number: no version that is older is the newest.
NEWEST = "newest"
_CURE = "roll back to an older version, or copy the catalogue again"
#: What tells a catalogue from another that takes its place: random, in hexadecimal.
Identity = Annotated[str, Pattern("[0-9a-f]{32}")]


@dataclass(frozen=True)
class SegmentRecord:
    """A segment as a version names it.

    Attributes:
        name: of its folder.
        rows: rows in it, removed ones included.
        bytes: of its files.
        config: SHA-256 of its ``config.json``, which holds the checksums of its files.
    """

    name: Annotated[str, Pattern(r"[0-9]{10}-[0-9]+")]
    rows: Positive
    bytes: Count
    config: Sha256


@dataclass(frozen=True)
class RemovalRecord:
    """A file of removed rows as a version names it.

    Attributes:
        name: of the file.
        rows: rows in it.
        bytes, sha256: of the file.
    """

    name: Annotated[str, Pattern(r"[0-9]{10}\.safetensors")]
    rows: Positive
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Version:
    """A version of a catalogue.

    Attributes:
        catalogue: which catalogue it is of.
        number: grows with every change.
        created: time in UTC, ISO 8601.
        change: what made it, in words.
        rows: rows that are not removed.
        next_id: number of the next row that is added without an id.
        segments: in the order of their making; the first is the largest as a rule.
        removals: removed rows of the segments.
        search: settings of a search of dense queries; None where there is no model.
    """

    catalogue: Identity
    number: Positive
    created: str
    change: str
    rows: Count
    next_id: Count
    segments: tuple[SegmentRecord, ...]
    removals: tuple[RemovalRecord, ...]
    search: SearchSettings | None

    @property
    def bytes(self) -> int:
        """Bytes of the segments and removals."""
        parts: tuple[SegmentRecord | RemovalRecord, ...] = (*self.segments, *self.removals)
        return sum(part.bytes for part in parts)


@dataclass(frozen=True)
class _File:
    sha256: Sha256
    version: dict


def numbers(catalogue: Path) -> list[int]:
    """Numbers of the versions in a catalogue's folder, ascending.

    Raises:
        InputError: there is none.
    """
    try:
        names = [entry.name for entry in (catalogue / FOLDER).iterdir()]
    except OSError as error:
        raise InputError(
            f"{catalogue}: no versions ({error.strerror}); no whole catalogue"
        ) from error
    found = sorted(int(name[:10]) for name in names if len(name) == 15 and name[:10].isdecimal())
    if not found:
        raise InputError(f"{catalogue}: no versions; no whole catalogue; copy it again")
    return found


def newest(catalogue: Path) -> int:
    """Number of the newest version.

    It is the largest number of a version's file, unless a larger one is noted. A writer notes a
    number after the version is in place, so that one that is killed leaves the older number, which
    is as good. The note is read first: what it says was there before the folder is listed.

    Raises:
        InputError: there is no version; or the file of the newest one is lost.
    """
    for _ in range(2):  # Another catalogue may take its place between the two.
        at_least, largest = noted(catalogue), numbers(catalogue)[-1]
        if largest >= at_least or path_of(catalogue, at_least).exists():
            return max(largest, at_least)
    raise InputError(
        f"{path_of(catalogue, at_least)}: missing, and it was the newest version; {_CURE}"
    )


def noted(catalogue: Path) -> int:
    """The number in the note of a catalogue's folder; 0 without one, as in older catalogues.

    Raises:
        InputError: the note is damaged.
    """
    path = catalogue / NEWEST
    if not os.path.lexists(path):
        return 0
    raw = read_plain(path, "delete it")
    if re.fullmatch(rb"[1-9][0-9]{0,18}\n", raw) is None:
        raise InputError(f"{path}: damaged; delete it")
    return int(raw)


def path_of(catalogue: Path, number: int) -> Path:
    """The file of a version."""
    return catalogue / FOLDER / f"{number:010d}.json"


def write_version(catalogue: Path, version: Version) -> None:
    """Write a version, whole or not at all; readers see it from then on.

    Raises:
        InputError: the disk failed.
    """
    path = path_of(catalogue, version.number)
    if path.exists():
        raise InputError(f"{path}: another process wrote this version; nothing was changed")
    content = asdict(version)
    with replacing(path) as file:
        file.write_text(json.dumps({"sha256": json_checksum(content), "version": content}) + "\n")
    # The version is in place: a note that cannot be written takes nothing back.
    with suppress(InputError), replacing(catalogue / NEWEST) as file:
        file.write_text(f"{version.number}\n")


def read_version(catalogue: Path, number: int) -> Version:
    """Read a version and check it.

    Raises:
        InputError: there is no such version, or its file is damaged.
    """
    path = path_of(catalogue, number)
    if not path.exists():
        raise InputError(f"{path}: no such version")
    file = from_json(read_plain(path, _CURE), _File, str(path), _CURE)
    if json_checksum(file.version) != file.sha256:
        raise InputError(f"{path}: damaged (its checksum differs); {_CURE}")
    version = checked(file.version, Version, str(path), _CURE)
    names = [segment.name for segment in version.segments]
    if version.number != number or not names or len(set(names)) < len(names):
        raise InputError(f"{path}: damaged or not of compressae; {_CURE}")
    return version


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
