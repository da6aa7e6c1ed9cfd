"""Parquet and Arrow files: a row an item, of sparse vectors and metadata."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.export.rows import ExportRows, RowBatch
from compressae.retrieval.export.signs import Signs
from compressae.retrieval.io.atomic import check_new_file, check_writable, replacing
from compressae.retrieval.io.parquet import require_pyarrow
from compressae.retrieval.io.remote import REMOTE_OUTPUT, local_path
from compressae.retrieval.store.catalogue import Catalogue

if TYPE_CHECKING:
    import pyarrow as pa

#: Key of the description in a file's schema metadata.
KEY = b"compressae"
#: Columns of the export's own.
_OWN = ("id", "indices", "values", "packed")
_PART = "part-{:05d}.parquet"
#: Rows of a row group of a parquet file.
_GROUP = 1 << 16


def to_parquet(
    catalogue: Catalogue,
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    packed: bool = False,
    signs: Signs = "both",
    shard_rows: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> int:
    """Write a parquet file of a row for each item, or a folder of such files.

    Columns: ``id`` (int64 or string), ``indices`` (list of int32: latents, ascending), ``values``
    (list of float32, as rows are scored), ``packed`` if asked for, and the metadata's. What the
    rows are of is JSON under "compressae" in the schema's metadata.

    Args:
        catalogue: the version that it has open is written.
        path: the file or, with ``shard_rows``, the folder.
        columns: names of the metadata columns that go along; all when None.
        packed: add a column ``packed`` (binary): the rows' bytes, residual codes included.
        signs: "halves" for values without signs, with indices below 2h; see ``ExportRows``.
        shard_rows: rows of a file; one file of all rows when None.
        overwrite: replace what stands at the path: a file, or a folder of such files.
        progress: called with (rows done, rows).

    Returns:
        Rows written.

    Raises:
        InputError: columns that do not fit, something else at the path, or the disk failed. What
            was there is unchanged.
        MissingExtraError: pyarrow is not installed.
    """
    path = local_path(path, REMOTE_OUTPUT)
    rows = ExportRows(catalogue, columns, packed, _OWN, signs)
    schema = _schema(rows, packed)
    if shard_rows is None:
        check_new_file(path, overwrite)
        with replacing(path) as file, parquet_writer(file, schema) as write:
            for batch in rows.batches(progress):
                write(_table(batch, schema))
        return len(rows)
    if shard_rows < 1:
        raise InputError(f"{shard_rows} rows a file: expected at least 1")
    _check_new_folder(path, overwrite)
    with replacing(path, folder=True) as folder:
        _write_shards(rows, folder, schema, shard_rows, progress)
    return len(rows)


def to_arrow(
    catalogue: Catalogue,
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    packed: bool = False,
    signs: Signs = "both",
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> int:
    """Write an Arrow IPC file of the columns of ``to_parquet``, which may be memory-mapped.

    Args:
        catalogue: the version that it has open is written.
        path: the file.
        columns, packed, signs, overwrite, progress: see ``to_parquet``.

    Returns:
        Rows written.

    Raises:
        InputError: see ``to_parquet``.
        MissingExtraError: pyarrow is not installed.
    """
    path = local_path(path, REMOTE_OUTPUT)
    rows = ExportRows(catalogue, columns, packed, _OWN, signs)
    schema = _schema(rows, packed)
    check_new_file(path, overwrite)
    pa = pyarrow()
    with replacing(path) as file, pa.ipc.new_file(str(file), schema) as writer:
        for batch in rows.batches(progress):
            writer.write_table(_table(batch, schema))
    return len(rows)


def described(schema: "pa.Schema", rows: ExportRows, layout: str) -> "pa.Schema":
    """A schema with the description of its rows in its metadata."""
    return schema.with_metadata({KEY: json.dumps(rows.description | {"layout": layout})})


def id_type(rows: ExportRows) -> "pa.DataType":
    """Arrow type of the ids."""
    pa = pyarrow()
    return pa.string() if rows.has_text_ids else pa.int64()


@contextmanager
def parquet_writer(
    file: Path, schema: "pa.Schema", sorted_by: int | None = None
) -> Iterator[Callable[["pa.Table"], None]]:
    """Yield a function that appends tables to a parquet file.

    Args:
        file: to write.
        schema: of the tables.
        sorted_by: number of the column by which rows ascend.
    """
    import pyarrow.parquet as pq

    sorting = None if sorted_by is None else [pq.SortingColumn(sorted_by)]
    with pq.ParquetWriter(file, schema, compression="zstd", sorting_columns=sorting) as writer:
        yield lambda table: writer.write_table(table, row_group_size=_GROUP)


def pyarrow() -> Any:
    """The library; see ``require_pyarrow``."""
    return require_pyarrow("export to parquet")


def _schema(rows: ExportRows, packed: bool) -> "pa.Schema":
    pa = pyarrow()
    fields = [
        pa.field("id", id_type(rows), nullable=False),
        pa.field("indices", pa.list_(pa.int32()), nullable=False),
        pa.field("values", pa.list_(pa.float32()), nullable=False),
    ]
    if packed:
        fields.append(pa.field("packed", pa.binary(), nullable=False))
    return described(pa.schema([*fields, *(rows.schema or [])]), rows, "rows")


def _table(batch: RowBatch, schema: "pa.Schema") -> "pa.Table":
    """A batch as a table."""
    pa = pyarrow()
    bounds = pa.array(batch.bounds.astype(np.int32))
    arrays = [
        pa.array(batch.ids, schema.field("id").type),
        pa.ListArray.from_arrays(bounds, pa.array(batch.latents)),
        pa.ListArray.from_arrays(bounds, pa.array(batch.values)),
    ]
    if batch.packed is not None:
        ends = pa.py_buffer(batch.packed.bounds.astype(np.int32))
        data = pa.py_buffer(np.ascontiguousarray(batch.packed.data))
        arrays.append(pa.Array.from_buffers(pa.binary(), len(batch), [None, ends, data]))
    if batch.metadata is not None:
        arrays += batch.metadata.columns
    return pa.Table.from_arrays(arrays, schema=schema)


def _write_shards(
    rows: ExportRows,
    folder: Path,
    schema: "pa.Schema",
    shard_rows: int,
    progress: Callable[[int, int], Any] | None,
) -> None:
    """Write files of ``shard_rows`` rows, the last one of the rest; one of no row if there is
    none."""
    tables = (_table(batch, schema) for batch in rows.batches(progress))
    table = next(tables, schema.empty_table())
    for number in range(max(1, -(-len(rows) // shard_rows))):
        with parquet_writer(folder / _PART.format(number), schema) as write:
            left = min(shard_rows, len(rows) - number * shard_rows)
            while left:
                if not len(table):
                    table = next(tables)
                write(table.slice(0, left))
                left, table = left - min(left, len(table)), table.slice(left)


def _check_new_folder(path: Path, overwrite: bool) -> None:
    """Refuse a path where no folder of an export can be written."""
    check_writable(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path}: a file stands there; expected a new folder; choose another name")
    names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for number, name in enumerate(names) if name != _PART.format(number)]
    if foreign:
        raise InputError(
            f"{path}: holds {foreign[0]}, which is of no export and would be lost; choose another "
            "name"
        )
    if names and not overwrite:
        raise InputError(
            f"{path}: an older export is there; overwrite it (--overwrite), or choose another name"
        )
