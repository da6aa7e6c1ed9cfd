"""Units of work: row ranges of the files of a table, at the bounds of row groups in .parquet.

This module does not import torch, so that a process learns of its work before it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import open_embeddings
from compressae.retrieval.io.parquet import ParquetColumn
from compressae.retrieval.io.remote import RemotePath
from compressae.retrieval.io.schema import Sha256
from compressae.retrieval.store.shards import IdKind, ShardRecord, source_identity

#: Rows of a unit, at most, where a file or its row groups are larger.
UNIT_ROWS = 1_000_000


@dataclass(frozen=True)
class Unit:
    """Rows of one file, which become one shard.

    Attributes:
        number: of the unit, in the order of the table's rows.
        source: the file.
        first_row, rows: its rows.
        row_groups: the first and one past the last row group of a .parquet; None for other files.
        source_bytes: size of the file.
        source_version: time of its last change in nanoseconds; of a URL what its store says.
    """

    number: int
    source: str
    first_row: int
    rows: int
    row_groups: tuple[int, int] | None
    source_bytes: int
    source_version: str

    @property
    def name(self) -> str:
        """Name of the shard's folder."""
        return f"part-{self.number:05d}"


@dataclass(frozen=True)
class Job:
    """What all units of a table share; paths must be there on every machine.

    Attributes:
        model, quantizer: folders of the model, and of the quantiser or codes to match.
        output: folder of the shards.
        column: of vectors in .parquet files.
        id_column: of ids in .parquet files; rows are called by their numbers when None.
        beam, device, threads: see ``compress``; threads of one unit.
        source, key: the table, and SHA-256 of what decides the shards; set by ``encode_shards``.
    """

    model: str
    quantizer: str
    output: str
    column: str | None = None
    id_column: str | None = None
    beam: int = 1
    device: str = "cpu"
    threads: int | None = 1
    source: str = ""
    key: str = ""


@dataclass(frozen=True)
class Failure:
    """A unit whose input is at fault.

    Attributes:
        unit: the unit.
        message: one line that names the file and the row.
    """

    unit: Unit
    message: str


@dataclass(frozen=True)
class FinishedUnit:
    """What stands beside a shard that is made."""

    job: Sha256
    record: ShardRecord
    ids: IdKind


def plan_units(
    path: str | Path | RemotePath,
    column: str | None = None,
    most: int = UNIT_ROWS,
    id_column: str | None = None,
) -> list[Unit]:
    """Cut a table into units by what its files' headers say; no row is read.

    Args:
        path: a file or folder, or its URL; see ``open_embeddings``.
        column: of .parquet files.
        most: rows of a unit. A larger row group is a unit of its own.
        id_column: a column that all files with rows must have.

    Raises:
        InputError: no such table, fewer than 1 row a unit, or a file without the ids' column.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.ones((5, 2), np.float32))
    ...     np.save(f"{folder}/b.npy", np.ones((2, 2), np.float32))
    ...     [(unit.name, unit.first_row, unit.rows) for unit in plan_units(folder, most=3)]
    [('part-00000', 0, 3), ('part-00001', 3, 2), ('part-00002', 0, 2)]
    """
    if most < 1:
        raise InputError(f"{most} rows a shard: expected 1 or more")
    units: list[Unit] = []
    for shard in open_embeddings(path, column).shards:
        vectors = shard.source
        assert not isinstance(vectors, np.ndarray)
        file = vectors.path
        size, version = source_identity(file)
        names = vectors.names if isinstance(vectors, ParquetColumn) else []
        if id_column is not None and id_column not in names:
            raise InputError(f"{file}: no column {id_column!r}; expected ids in each .parquet")
        if isinstance(vectors, ParquetColumn):
            groups = vectors.row_groups
            starts = np.concatenate([[0], np.cumsum(groups)])
            ranges: list[tuple[int, int, tuple[int, int] | None]] = [
                (int(starts[a]), int(starts[b]), (a, b)) for a, b in _grouped(groups, most)
            ]
        else:
            n = shard.shape[0]
            ranges = [(a, min(a + most, n), None) for a in range(0, n, most)]
        for start, stop, row_groups in ranges:
            if start < stop:
                number, rows = len(units), stop - start
                units.append(Unit(number, str(file), start, rows, row_groups, size, version))
    return units


def _grouped(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs of row groups of at most ``most`` rows together, or of one group.

    >>> _grouped([2, 2, 5, 1], most=4)
    [(0, 2), (2, 3), (3, 4)]
    """
    runs, first, rows = [], 0, 0
    for group, size in enumerate(sizes):
        if group > first and rows + size > most:
            runs.append((first, group))
            first, rows = group, 0
        rows += int(size)
    return [*runs, (first, len(sizes))] if len(sizes) else runs
