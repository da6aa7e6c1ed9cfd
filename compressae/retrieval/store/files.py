"""The files of a catalogue: segments and removals, written once and opened as maps."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressae.retrieval.codes import Codes
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.postings import list_arrays, open_segment
from compressae.retrieval.index.segments import Build, Pages, Segment
from compressae.retrieval.io.artifacts import (
    checksum,
    load_artifact,
    read_config,
    save_artifact,
    write_tensors,
)
from compressae.retrieval.io.atomic import replacing
from compressae.retrieval.io.plain import open_plain
from compressae.retrieval.io.schema import Positive, checked
from compressae.retrieval.io.tensorfile import map_tensors, places_in
from compressae.retrieval.store.metadata import Metadata, write_table
from compressae.retrieval.store.names import Names
from compressae.retrieval.store.version import RemovalRecord, SegmentRecord

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENTS, REMOVALS = "segments", "removals"
_METADATA = "metadata.parquet"
_KIND = "segment"
_CURE = "copy the catalogue again"


@dataclass(frozen=True)
class _Settings:
    rows: Positive


@dataclass(frozen=True, eq=False)
class Stored:
    """A segment of a version as it lies on disk.

    Attributes:
        record: names its folder.
        segment: mapped, with the rows that the version removes marked.
        names: its rows' ids where they are texts.
        metadata: columns of its rows where the catalogue has some.
    """

    record: SegmentRecord
    segment: Segment
    names: Names | None
    metadata: Metadata | None

    @property
    def whole(self) -> "Stored":
        """The same with all rows present."""
        return replace(self, segment=replace(self.segment, alive=None))


def write_segment(
    catalogue: Path,
    name: str,
    segment: Segment,
    names: Names | None,
    metadata: "pa.Table | None",
) -> SegmentRecord:
    """Write a segment's folder; removed rows are written like the others.

    Args:
        catalogue: its folder.
        name: of the segment.
        segment: n rows.
        names: of the n rows where ids are texts.
        metadata: n rows of columns where the catalogue has some.

    Raises:
        InputError: the disk failed.
    """
    folder = catalogue / SEGMENTS / name
    tensors = {"rows": segment.codes.row_arrays(), "lists": list_arrays(segment)}
    if names is not None:
        tensors["names"] = names.arrays()
    tensors = {stem: arrays for stem, arrays in tensors.items() if arrays}
    rows = len(segment.codes)
    others: dict[str, Callable[[Path], None]] = {}
    if metadata is not None:
        others[_METADATA] = partial(write_table, table=metadata)
    save_artifact(folder, _KIND, {"rows": rows}, tensors, others)
    config = read_config(folder)
    return SegmentRecord(name, rows, config.bytes, checksum(folder / "config.json"))


def open_stored(
    catalogue: Path,
    record: SegmentRecord,
    like: Codes,
    texts: bool,
    columns: dict[str, str] | None,
    verify: bool = False,
    threads: int | None = None,
) -> Stored:
    """Map a segment, all rows present. Nothing but headers, bounds and ids is read.

    Lists of an older format are built again, which reads the codes.

    Args:
        catalogue: its folder.
        record: of the version.
        like: codes that share all but the rows; see ``Codes.with_rows``.
        texts: ids are texts.
        columns: names and Arrow types of the metadata; None if rows have none.
        verify: compare files with their checksums, which reads them.
        threads: processors to use.

    Raises:
        InputError: files are missing, damaged, or do not fit.
    """
    folder = catalogue / SEGMENTS / record.name
    config = folder / "config.json"
    if checksum(config) != record.config:
        raise InputError(f"{config}: another than the version names; {_CURE}")
    artifact = load_artifact(folder, _KIND, verify)
    rows = checked(artifact.settings, _Settings, str(folder), _CURE).rows
    tensors = artifact.tensors
    if rows != record.rows:
        raise InputError(f"{folder}: {rows} rows; expected {record.rows}; {_CURE}")
    # As plain arrays: numba takes longer to look at a memory map than to search it.
    row_arrays = {key: np.asarray(array) for key, array in tensors.get("rows", {}).items()}
    codes = like.with_rows(rows, row_arrays)
    segment = open_segment(codes, tensors.get("lists", {}), str(folder), threads)
    names = Names.from_arrays(tensors.get("names", {}), rows, str(folder)) if texts else None
    metadata = None
    if columns is not None:
        if _METADATA not in artifact.files:
            raise InputError(f"{folder}: no {_METADATA}; {_CURE}")
        metadata = Metadata(folder / _METADATA, rows, columns)
    return Stored(record, replace(segment, pages=Pages()), names, metadata)


def verify_lists(stored: Stored, build: Build, folder: Path) -> None:
    """Build a segment's lists again from its codes, and compare.

    Raises:
        InputError: the stored ones differ.
    """
    segment = stored.segment
    again = build(segment.codes, segment.ids)
    stored_arrays, built_arrays = list_arrays(segment), list_arrays(again)
    for name, array in built_arrays.items():
        if name not in stored_arrays or not np.array_equal(stored_arrays[name], array):
            raise InputError(
                f"{folder / SEGMENTS / stored.record.name}: {name} are not those of the codes; "
                f"{_CURE}, or compact it"
            )
    if stored.names is not None:
        ascending = stored.names.take(stored.names.order)
        if (ascending[1:] <= ascending[:-1]).any():
            raise InputError(f"{folder / SEGMENTS / stored.record.name}: ids out of order; {_CURE}")


def write_removals(catalogue: Path, name: str, removed: dict[str, np.ndarray]) -> RemovalRecord:
    """Write removed rows {segment: row numbers, ascending}.

    Raises:
        InputError: the disk failed.
    """
    path = catalogue / REMOVALS / name
    with replacing(path) as file:
        write_tensors(file, {key: rows.astype(np.uint32) for key, rows in removed.items()})
    rows = sum(map(len, removed.values()))
    return RemovalRecord(name, rows, path.stat().st_size, checksum(path))


def read_removals(catalogue: Path, record: RemovalRecord) -> dict[str, np.ndarray]:
    """Removed rows {segment: row numbers}.

    Raises:
        InputError: the file is missing, damaged or another.
    """
    path = catalogue / REMOVALS / record.name
    with open_plain(path, _CURE) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
            raise InputError(f"{path}: another than the version names; {_CURE}")
        tensors = map_tensors(file, places_in(file, path))
    for rows in tensors.values():
        if rows.dtype != np.uint32 or rows.ndim != 1:
            raise InputError(f"{path}: {rows.dtype} of shape {rows.shape}; {_CURE}")
    return {segment: rows.astype(np.int64) for segment, rows in tensors.items()}


def without_removals(
    catalogue: Path, stored: Sequence[Stored], records: Sequence[RemovalRecord]
) -> list[Stored]:
    """Stored segments with the rows of removal files marked.

    Args:
        catalogue: its folder.
        stored: with all rows present.
        records: of the version.

    Raises:
        InputError: see ``read_removals``; or rows that a segment lacks.
    """
    rows: dict[str, list[np.ndarray]] = {}
    for record in records:
        for segment, removed in read_removals(catalogue, record).items():
            rows.setdefault(segment, []).append(removed)
    marked = []
    for part in stored:
        removed_rows = rows.get(part.record.name)
        if removed_rows is None:
            marked.append(part)
            continue
        gone = np.concatenate(removed_rows)
        if int(gone.max(initial=0)) >= part.record.rows:
            raise InputError(
                f"{catalogue}: row {gone.max()} of segment {part.record.name} is removed, which "
                f"has {part.record.rows}; {_CURE}"
            )
        marked.append(replace(part, segment=part.segment.without(gone)))
    return marked
