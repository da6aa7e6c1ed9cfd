"""Vectors in a column of a parquet file, or of an Arrow table: lists of d floats a row."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.io.remote import AHEAD, HEADER_AHEAD, RemotePath

if TYPE_CHECKING:
    import pyarrow as pa

#: Names of columns that hold vectors, where several columns could.
_NAMES = ("embedding", "embeddings", "vector")
#: Numbers that a scan decodes at a time (16 MiB of float32).
_DECODED = 1 << 22
#: Scans of one file that may go on where they stopped: a thread each.
_SCANS = 64
_DTYPES = {"halffloat": "float16", "float": "float32", "double": "float64"}
_CURE = "write or copy it again"


class KeptGroups:
    """Decoded row groups of a table's files, of which those used last are kept.

    Args:
        most_bytes: of the groups that are kept.
    """

    def __init__(self, most_bytes: int = 1 << 30) -> None:
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._bytes = 0

    def get(self, file: int, group: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """A row group (m, d), decoded if it is not kept.

        Args:
            file, group: what it is known by.
            decode: reads it.
        """
        key = file, group
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
        rows = decode()
        with self._lock:
            if key not in self._groups:
                self._groups[key] = rows
                self._bytes += rows.nbytes
            while self._bytes > self.most_bytes:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return rows


class ParquetColumn:
    """Rows (n, d) of a column of lists of floats, read by slices or row numbers.

    Slices that follow each other are decoded once, a few MiB at a time, whatever the size of a row
    group. Rows by number are taken from row groups that are decoded whole and kept; larger groups
    are scanned. Threads may read at once.

    Args:
        path: a ``.parquet`` file, or one behind a URL.
        column: name of the column; the only one of lists of floats when None, or the one that is
            named embedding, embeddings or vector.
        kept: decoded row groups for rows by number, which the files of a table share.

    Attributes:
        names: of all columns of the file.
        row_groups: rows of each row group.
        shape: (n, d); d is 0 where lists of any length have no rows.
        dtype_name: "float16", "float32" or "float64".

    Raises:
        InputError: it is no parquet file, or has no such column.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(
        self, path: Path | RemotePath, column: str | None = None, kept: KeptGroups | None = None
    ) -> None:
        pyarrow = require_pyarrow(str(path))
        self.path, self._kept = path, kept or KeptGroups()
        with damage_named(path, pyarrow):
            with self._open(ahead=HEADER_AHEAD) as file:
                self._metadata, schema = file.metadata, file.schema_arrow
            groups = range(self._metadata.num_row_groups)
            sizes: list[int] = [self._metadata.row_group(g).num_rows for g in groups]
        if any(size < 0 for size in sizes) or sum(sizes) != self._metadata.num_rows:
            raise InputError(f"{path}: row groups of {sizes[:8]} rows; {_CURE}")
        self.names: list[str] = schema.names
        self.row_groups = sizes
        self.column = pick_column(schema, column, str(path))
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        kind = schema.field(self.column).type
        self.dtype_name = _DTYPES[str(kind.value_type)]
        self._lock = threading.Lock()
        self._scans: OrderedDict[int, Iterator[np.ndarray]] = OrderedDict()
        width = getattr(kind, "list_size", None)
        if width is None:
            width = self._first_width() if len(self) else 0
        self.shape = (len(self), width)

    def __reduce__(self) -> tuple[type, tuple]:
        """Another process opens the file again."""
        return type(self), (self.path, self.column)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Read rows (m, d) of the stored dtype.

        Args:
            rows: a slice with both ends, or row numbers (m,) in any order.

        Raises:
            InputError: a row is null, has a null in it or another width; or the file is damaged.
        """
        if isinstance(rows, slice):
            return self._slice(rows.start, rows.stop)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        out = np.empty((len(rows), self.shape[1]), self.dtype_name)
        bounds = np.searchsorted(ascending, self._starts)
        for group in np.flatnonzero(np.diff(bounds)):
            own = slice(bounds[group], bounds[group + 1])
            first, last = int(self._starts[group]), int(self._starts[group + 1])
            if (last - first) * self.shape[1] * out.itemsize <= self._kept.most_bytes:
                whole = self._kept.get(id(self), int(group), partial(self._slice, first, last))
                out[order[own]] = whole[ascending[own] - first]
                continue
            # The group is too large to be kept: scan it, from where the last call stopped.
            step = max(1, _DECODED // self.shape[1])
            begin = int(ascending[own.start])
            for start in range(begin, int(ascending[own.stop - 1]) + 1, step):
                stop = min(start + step, last, int(ascending[own.stop - 1]) + 1)
                part = slice(*np.searchsorted(ascending, [start, stop]))
                out[order[part]] = self._slice(start, stop)[ascending[part] - start]
        return out

    def _slice(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop, by the scan that stopped at start, or else a new one."""
        if stop <= start:
            return np.empty((0, self.shape[1]), self.dtype_name)
        with self._lock:
            scan = self._scans.pop(start, None)
        if scan is None:
            scan = self._scan(start)
        parts: list[np.ndarray] = []
        count = stop - start
        while count:
            try:
                part = next(scan)
            except StopIteration:
                raise InputError(
                    f"{self.path}: ends before row {stop - count}; expected {len(self)} rows; "
                    f"{_CURE}"
                ) from None
            parts.append(part[:count])
            count -= len(parts[-1])
            if len(part) > len(parts[-1]):
                scan = _resumed(part[len(parts[-1]) :], scan)
        with self._lock:
            self._scans[stop] = scan
            while len(self._scans) > _SCANS:
                self._scans.popitem(last=False)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _scan(self, start: int) -> Iterator[np.ndarray]:
        """Yield the rows from ``start`` on, in parts that hold some."""
        pyarrow = require_pyarrow(str(self.path))
        group = int(np.searchsorted(self._starts, start, side="right")) - 1
        row = int(self._starts[group])
        size = max(1, _DECODED // self.shape[1])
        with damage_named(self.path, pyarrow), self._open(self._metadata) as file:
            groups = range(group, file.num_row_groups)
            for batch in file.iter_batches(size, groups, [self.column], use_threads=False):
                numbers = np.arange(row, row + len(batch))
                row += len(batch)
                if row > start:
                    skipped = max(0, start - int(numbers[0]))
                    vectors = batch.column(0).slice(skipped)
                    yield _vectors(vectors, self.shape[1], str(self.path), int(numbers[skipped]))

    def _first_width(self) -> int:
        """d of a column of lists of any length: that of the first row."""
        pyarrow = require_pyarrow(str(self.path))
        opened = self._open(self._metadata, HEADER_AHEAD)
        with damage_named(self.path, pyarrow), opened as file:
            for batch in file.iter_batches(1, columns=[self.column], use_threads=False):
                return first_width(batch.column(0), str(self.path))
        raise InputError(f"{self.path}: no rows; expected {len(self)}; {_CURE}")

    @contextmanager
    def _open(self, metadata: Any = None, ahead: int = AHEAD) -> Iterator[Any]:
        import pyarrow.parquet

        settings = {"metadata": metadata, "pre_buffer": False, "buffer_size": 1 << 20}
        with (
            parquet_source(self.path, ahead) as source,
            pyarrow.parquet.ParquetFile(source, **settings) as file,
        ):
            yield file

    def __len__(self) -> int:
        return int(self._starts[-1])


def _resumed(rest: np.ndarray, scan: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """What a part had left, then the rest of a scan."""
    yield rest
    yield from scan


def pick_column(schema: "pa.Schema", column: str | None, name: str) -> str:
    """The column that holds vectors.

    Args:
        schema: of the table.
        column: the one that was asked for; None to choose.
        name: of the table, for the error message.

    Raises:
        InputError: there is none, there are several, or it holds no lists of floats.

    >>> import pyarrow as pa
    >>> vectors = pa.list_(pa.float32(), 4)
    >>> pick_column(pa.schema({"id": pa.int64(), "text": vectors}), None, "items")
    'text'
    """
    vectors = [field.name for field in schema if _is_vectors(field.type)]
    if column is not None:
        if schema.names.count(column) != 1:
            raise InputError(
                f"{name}: no column {column!r}; expected one of {', '.join(schema.names)}"
            )
        if column not in vectors:
            raise InputError(
                f"{name}: column {column!r} is {schema.field(column).type}; expected lists of "
                "float16, float32 or float64"
            )
        return column
    usual = [known for known in vectors if known in _NAMES]
    chosen = vectors if len(vectors) == 1 else usual
    if len(chosen) != 1 or schema.names.count(chosen[0]) != 1:
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise InputError(
            f"{name}: {len(vectors) or 'no'} columns of lists of floats among {found}; expected "
            "one, or its name (column)"
        )
    return chosen[0]


def _is_vectors(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_one(kind) for is_one in lists) and str(kind.value_type) in _DTYPES


def first_width(lists: "pa.Array", name: str) -> int:
    """Length of the first of some lists.

    Raises:
        InputError: it is null.
    """
    if not lists[0].is_valid:
        raise InputError(f"{name}: row 0 is null; expected a list of floats; drop or repair it")
    return len(lists[0])


def _vectors(lists: "pa.Array", width: int, name: str, first: int) -> np.ndarray:
    """Rows (m, width) of an array of lists.

    Args:
        lists: m lists.
        width: d.
        name: of the table, for the error message.
        first: number of the first row.

    Raises:
        InputError: a list is null, of another length, or has a null in it.
    """
    import pyarrow as pa
    import pyarrow.compute

    if lists.null_count:
        row = first + int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{name}: row {row} is null; expected {width} floats; drop or repair it")
    lengths = pyarrow.compute.list_value_length(lists).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(lengths != width)
    if len(odd):
        raise InputError(
            f"{name}: row {first + int(odd[0])} has {int(lengths[odd[0]])} numbers; expected "
            f"{width} as in the other rows"
        )
    numbers = lists.flatten()
    if numbers.null_count:
        places = np.flatnonzero(numbers.is_null().to_numpy(zero_copy_only=False))
        row = first + int(places[0]) // width
        raise InputError(f"{name}: row {row} has a null in it; expected {width} floats")
    assert isinstance(numbers, pa.Array)
    return numbers.to_numpy(zero_copy_only=False).reshape(len(lists), width)


def arrow_vectors(table: Any, column: str | None, name: str) -> list[np.ndarray]:
    """Vectors (m, d) of each chunk of an Arrow table.

    Args:
        table: what exports an Arrow stream: a table of pyarrow, polars, pandas, datasets, DuckDB …
        column: see ``ParquetColumn``.
        name: of the table, for error messages.

    Raises:
        InputError: it has no such column or no rows, or see ``ParquetColumn.read``.
        MissingExtraError: pyarrow is not installed.

    >>> import pyarrow as pa
    >>> arrow_vectors(pa.table({"id": [7, 8], "vector": [[1.0, 2.0], [3.0, 4.0]]}), None, "items")
    [array([[1., 2.],
           [3., 4.]])]
    """
    pa = require_pyarrow(name)
    try:
        reader = pa.RecordBatchReader.from_stream(table)
        chosen = pick_column(reader.schema, column, name)
        place = reader.schema.get_field_index(chosen)
        chunks = [batch.column(place) for batch in reader if len(batch)]
    except (pa.ArrowException, TypeError, OSError) as error:
        raise InputError(f"{name}: {error}; expected an Arrow table") from error
    if not chunks:
        raise InputError(f"{name}: no rows; expected at least one")
    width, first, parts = first_width(chunks[0], name), 0, []
    for chunk in chunks:
        parts.append(_vectors(chunk, width, name, first))
        first += len(chunk)
    return parts


def parquet_schema(path: Path | RemotePath) -> "pa.Schema":
    """Arrow schema of a parquet file.

    Raises:
        InputError: it is no parquet file.
        MissingExtraError: pyarrow is not installed.
    """
    pa = require_pyarrow(str(path))
    import pyarrow.parquet

    with damage_named(path, pa), parquet_source(path) as source:
        return pyarrow.parquet.read_schema(source)


def id_values(column: Any, name: str) -> np.ndarray:
    """Ids (n,) of a column of an Arrow table: whole numbers or texts.

    Raises:
        InputError: an id is null, or the column is of another type.
    """
    import pyarrow as pa

    column = column.combine_chunks()
    if column.null_count:
        raise InputError(f"{name}: {column.null_count} empty ids; expected one a row")
    if pa.types.is_integer(column.type):
        numbers: np.ndarray = column.to_numpy(zero_copy_only=False)
        return numbers
    if str(column.type) not in ("string", "large_string", "string_view"):
        raise InputError(f"{name}: ids of {column.type}; expected whole numbers or texts")
    return np.array(column.to_pylist(), str)


def read_columns(
    paths: Sequence[Path | RemotePath],
    columns: Sequence[str],
    row_groups: tuple[int, int] | None = None,
) -> "pa.Table":
    """Read columns of parquet files as one table, such as ids and metadata beside the vectors.

    Args:
        paths: the files.
        columns: their names.
        row_groups: the first and one past the last row group; all when None.

    Raises:
        InputError: a file has no such column, or the files' types differ.
        MissingExtraError: pyarrow is not installed.
    """
    pa = require_pyarrow(str(paths[0]))
    import pyarrow.parquet

    tables = []
    for path in paths:
        with damage_named(path, pa):
            with parquet_source(path) as source:
                names = pyarrow.parquet.read_schema(source).names
            missing = [column for column in columns if names.count(column) != 1]
            if missing:
                raise InputError(
                    f"{path}: no column {missing[0]!r}; expected some of {', '.join(names)}"
                )
            with parquet_source(path) as source, pyarrow.parquet.ParquetFile(source) as file:
                groups = range(*(row_groups or (0, file.num_row_groups)))
                tables.append(file.read_row_groups(groups, list(columns)))
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise InputError(f"{paths[0]} and its like: {error}; expected columns of one type") from (
            error
        )


@contextmanager
def parquet_source(path: Path | RemotePath, ahead: int = AHEAD) -> Iterator[Any]:
    """What pyarrow reads from: a path, or the open file behind a URL, some bytes ahead."""
    if isinstance(path, RemotePath):
        with path.open(ahead) as file:
            yield file
    else:
        yield path


@contextmanager
def damage_named(path: Path | RemotePath, pa: Any, cure: str = _CURE) -> Iterator[None]:
    """Name the file in errors of what is read in the block, and the cure of a damaged one."""
    try:
        yield
    except (PermissionError, FileNotFoundError, InputError):
        raise
    except (pa.ArrowException, OSError, UnicodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no whole parquet file ({reason}); {cure}") from error


def require_pyarrow(use: str, extra: str = "parquet") -> Any:
    """Import pyarrow.

    Args:
        use: what needs it, for the error message.
        extra: the extra of compressae that installs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("pyarrow", extra, use) from None
    return pyarrow
