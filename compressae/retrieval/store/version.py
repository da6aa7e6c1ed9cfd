"""Versions of a catalogue: which segments and removals make up each, one JSON file a version."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import SearchSettings
from compressae.retrieval.io.atomic import replacing
from compressae.retrieval.io.plain import read_plain
from compressae.retrieval.io.schema import Count, Pattern, Positive, Sha256, checked, from_json

FOLDER = "versions"
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
        file.write_text(json.dumps({"sha256": _digest(content), "version": content}) + "\n")


def read_version(catalogue: Path, number: int) -> Version:
    """Read a version and check it.

    Raises:
        InputError: there is no such version, or its file is damaged.
    """
    path = path_of(catalogue, number)
    cure = "roll back to an older version, or copy the catalogue again"
    if not path.exists():
        raise InputError(f"{path}: no such version")
    file = from_json(read_plain(path, cure), _File, str(path), cure)
    if _digest(file.version) != file.sha256:
        raise InputError(f"{path}: damaged (its checksum differs); {cure}")
    version = checked(file.version, Version, str(path), cure)
    names = [segment.name for segment in version.segments]
    if version.number != number or not names or len(set(names)) < len(names):
        raise InputError(f"{path}: damaged or not of compressae; {cure}")
    return version


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
