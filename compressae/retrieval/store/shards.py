"""Codes of one table in many shards: each an ordinary artifact, and a manifest that names them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np

from compressae.retrieval.codes import KIND, Codes, open_codes
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.segments import check_ids
from compressae.retrieval.io.artifacts import (
    checksum,
    json_checksum,
    load_artifact,
    save_artifact,
)
from compressae.retrieval.io.atomic import replacing
from compressae.retrieval.io.plain import read_plain
from compressae.retrieval.io.remote import RemotePath, as_path
from compressae.retrieval.io.schema import Count, Pattern, Positive, Sha256, checked, from_json
from compressae.retrieval.store.names import LONGEST, decoded, encoded

MANIFEST = "manifest.json"
_FORMAT = 1
_CURE = "encode the table again"
T = TypeVar("T")
PART = r"part-[0-9]{5,9}"
ShardName = Annotated[str, Pattern(PART)]
#: What rows of shards are called.
IdKind = Literal["row numbers", "integers", "texts"]


@dataclass(frozen=True)
class ShardRecord:
    """A shard as a manifest names it.

    Attributes:
        name: of its folder.
        source: the file of its embeddings.
        source_bytes: size of the file.
        source_version: time of its last change in nanoseconds; of a URL what its store says.
        first_row: number of the shard's first row in the file.
        rows: number of rows.
        row_groups: the first and one past the last row group of a .parquet; None for other files.
        config: SHA-256 of its ``config.json``, which holds the checksums of its files.
    """

    name: ShardName
    source: str
    source_bytes: Count
    source_version: str
    first_row: Count
    rows: Positive
    row_groups: tuple[Count, Count] | None
    config: Sha256


@dataclass(frozen=True)
class Manifest:
    """Shards of one table, in the order of its rows.

    Attributes:
        model_id: fingerprint of the model that made the codes.
        quantizer: SHA-256 of the quantiser that they share.
        ids: what rows are called: by their numbers in the whole table, or by ids in the shards.
        shards: the shards.
    """

    model_id: str | None
    quantizer: Sha256
    ids: IdKind
    shards: tuple[ShardRecord, ...]

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def first_ids(self) -> list[int]:
        """Number of each shard's first row in the whole table."""
        ends = np.cumsum([0, *(shard.rows for shard in self.shards)])
        return [int(end) for end in ends[:-1]]


@dataclass(frozen=True)
class _File:
    format: Positive
    sha256: Sha256
    content: dict


def write_signed(path: Path, content: Any) -> None:
    """Write a dataclass as JSON with a checksum, whole or not at all.

    Raises:
        InputError: the disk failed.
    """
    entries = asdict(content)
    file = {"format": _FORMAT, "sha256": json_checksum(entries), "content": entries}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(file, indent=1) + "\n")


def read_signed(path: Path, kind: type[T], cure: str) -> T:
    """Read what ``write_signed`` wrote, not trusted.

    Args:
        path: the file.
        kind: the dataclass.
        cure: what to do where it is damaged.

    Raises:
        InputError: it is missing, damaged or of a newer format.
    """
    file = from_json(read_plain(path, cure), _File, str(path), cure)
    if file.format != _FORMAT:
        raise InputError(f"{path}: format {file.format}; expected {_FORMAT}; upgrade compressae")
    if json_checksum(file.content) != file.sha256:
        raise InputError(f"{path}: damaged (its checksum differs); {cure}")
    return checked(file.content, kind, str(path), cure)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder of shards.

    Raises:
        InputError: there is none, as while shards are still made; or it is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(
            f"{folder}: no {MANIFEST}: not all shards are made; run the same encode command again"
        )
    manifest = read_signed(path, Manifest, _CURE)
    names = [shard.name for shard in manifest.shards]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path}: damaged or not of compressae; {_CURE}")
    return manifest


def is_sharded(folder: Path) -> bool:
    """Whether a path is a folder of codes in shards, all of them made."""
    return (folder / MANIFEST).is_file()


def source_identity(file: Path | RemotePath) -> tuple[int, str]:
    """Size of a file, and what tells its content from what stood there before."""
    if isinstance(file, RemotePath):
        return file.size, file.version
    status = file.stat()
    return status.st_size, str(status.st_mtime_ns)


def source_files(folder: Path) -> list[Path | RemotePath]:
    """The files that shards were made of, in the order of the rows.

    Raises:
        InputError: one is missing, or changed since.
    """
    sources = {}
    for shard in read_manifest(folder).shards:
        sources[shard.source] = shard.source_bytes, shard.source_version
    for source, identity in sources.items():
        file = as_path(source)
        if not file.exists() or source_identity(file) != identity:
            raise InputError(
                f"{source}: missing, or changed since it was encoded to {folder}; encode it again"
            )
    return [as_path(source) for source in sources]


def save_shard(path: Path, codes: Codes, ids: np.ndarray | None) -> None:
    """Write codes with the ids of their rows.

    Args:
        path: a folder, which ``load_codes`` opens too.
        codes: n rows.
        ids: (n,) whole numbers or texts; None where rows are called by their numbers.

    Raises:
        InputError: no ids of n rows; or the disk failed.
    """
    tensors = {codes.stem: codes.arrays()}
    if ids is not None:
        if len(ids) != len(codes):
            raise InputError(f"{path}: {len(ids)} ids for {len(codes)} rows; expected one a row")
        if ids.dtype.kind in "iu":
            tensors["ids"] = {"numbers": check_ids(ids, len(codes))}
        else:
            flat = encoded(ids)
            texts = np.ascontiguousarray(flat).view(np.uint8).reshape(len(flat), -1)
            tensors["ids"] = {"texts": texts}
    save_artifact(path, KIND, codes.artifact_settings(), tensors)


def load_shard(path: Path, verify: bool = True) -> tuple[Codes, np.ndarray | None]:
    """Open codes and the ids of their rows; None where they were saved without.

    Raises:
        InputError: no whole codes.
    """
    artifact = load_artifact(path, KIND, verify)
    tensors = dict(artifact.tensors)
    arrays = tensors.pop("ids", None)
    stems: dict[str, Any] = dict.fromkeys(tensors, artifact.settings)
    codes = open_codes(stems, tensors, path)
    if arrays is None:
        return codes, None
    numbers, texts = arrays.get("numbers"), arrays.get("texts")
    if numbers is not None and (numbers.dtype, numbers.shape) == (np.int64, (len(codes),)):
        return codes, np.asarray(numbers)
    if (
        texts is None
        or texts.dtype != np.uint8
        or texts.ndim != 2
        or len(texts) != len(codes)
        or not 1 <= texts.shape[1] <= LONGEST
    ):
        raise InputError(f"{path}: its ids do not fit {len(codes)} rows; {_CURE}")
    return codes, decoded(np.array(texts).view(f"S{texts.shape[1]}").reshape(-1))


def id_kind(ids: np.ndarray | None) -> IdKind:
    """What rows with such ids are called."""
    if ids is None:
        return "row numbers"
    return "integers" if ids.dtype.kind in "iu" else "texts"


def open_shards(folder: Path) -> list[tuple[Codes, np.ndarray]]:
    """Open the shards that a manifest names, each checked against it.

    Returns:
        Codes and ids of each; ids are row numbers of the whole table where none were given.

    Raises:
        InputError: a shard is missing, damaged, or another than the manifest names.
    """
    manifest = read_manifest(folder)
    opened: list[tuple[Codes, np.ndarray]] = []
    for shard, first in zip(manifest.shards, manifest.first_ids, strict=True):
        path = folder / shard.name
        if checksum(path / "config.json") != shard.config:
            raise InputError(f"{path}: another shard than {MANIFEST} names; {_CURE}")
        codes, ids = load_shard(path)
        if len(codes) != shard.rows or id_kind(ids) != manifest.ids:
            raise InputError(f"{path}: does not fit {MANIFEST}; {_CURE}")
        opened.append((codes, np.arange(first, first + shard.rows) if ids is None else ids))
    for (codes, _), shard in zip(opened, manifest.shards, strict=True):
        try:
            opened[0][0].check_compatible(codes)
        except InputError as error:
            raise InputError(f"{folder / shard.name}: {error}") from error
    return opened


def merge_shards(folder: Path) -> tuple[Codes, np.ndarray]:
    """Join the codes of all shards, byte for byte those of one encoding, and their ids (n,).

    Raises:
        InputError: see ``open_shards``; or two rows have one id.
    """
    opened = open_shards(folder)
    ids = check_distinct_ids(folder, opened)
    parts = [codes for codes, _ in opened]
    return parts[0].join(parts[1:]), ids


def check_distinct_ids(folder: Path, opened: Sequence[tuple[Codes, np.ndarray]]) -> np.ndarray:
    """Ids (n,) of all shards.

    Raises:
        InputError: two rows have one id; the message names it and its shards.
    """
    ids = np.concatenate([ids for _, ids in opened])
    order = np.argsort(ids, kind="stable")
    repeated = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(repeated):
        ends = np.cumsum([len(codes) for codes, _ in opened])
        rows = order[repeated[0] : repeated[0] + 2]
        names = [shard.name for shard in read_manifest(folder).shards]
        first, second = (names[i] for i in np.searchsorted(ends, rows, "right"))
        raise InputError(
            f"{folder}: id {str(ids[rows[0]])!r} is given more than once, in {first} and {second}; "
            "expected distinct ids"
        )
    return ids
