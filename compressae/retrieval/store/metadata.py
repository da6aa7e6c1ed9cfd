"""Metadata: columns of a segment's rows in a parquet file, and which rows an expression allows."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.retrieval.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Rows a row group: what is decoded to read one row.
_GROUP = 1 << 16
#: Expressions whose rows are kept, a segment.
_KEPT = 16
#: Seconds after which an expression is given up: one that never ends, most likely.
_LONGEST = 60.0
_CURE = "copy the catalogue again"


class Engine:
    """DuckDB, which may read the segments of one catalogue and nothing else.

    Args:
        folder: of the segments.
        threads: processors to use; all that the machine has when None.
    """

    def __init__(self, folder: Path, threads: int | None) -> None:
        self._folder, self._threads = folder.resolve(), threads
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._process = 0

    def rows(self, file: Path, expression: str, count: int) -> np.ndarray:
        """Row numbers (m,) int64 of a parquet file for which an SQL expression is true.

        Args:
            file: in the folder.
            expression: of the file's columns, as after WHERE.
            count: rows that the file must have.

        Raises:
            InputError: the expression is none, does not fit the columns or runs for a minute; or
                the file is damaged.
        """
        duckdb = _duckdb()
        cursor = self._cursor()
        timer = threading.Timer(_LONGEST, cursor.interrupt)
        timer.start()
        try:
            path = str(self._folder / file.relative_to(file.parents[1]))
            query = "SELECT num_rows FROM parquet_file_metadata(?)"
            if cursor.execute(query, [path]).fetchall() != [(count,)]:
                raise InputError(f"{file}: other rows than the segment's {count}; {_CURE}")
            table = cursor.read_parquet(path, file_row_number=True)
            condition = duckdb.SQLExpression(expression)
            numbers = table.filter(condition).select("file_row_number").fetchnumpy()
        except duckdb.InterruptException as error:
            raise InputError(
                f"where {expression!r}: not done after {_LONGEST:.0f} seconds"
            ) from error
        except (duckdb.Error, RuntimeError, UnicodeError) as error:  # What is no UTF-8 fails late.
            raise InputError(f"where {expression!r}: {_reason(error)}") from error
        finally:
            timer.cancel()
            cursor.close()
        return numbers["file_row_number"]

    def _cursor(self) -> "duckdb.DuckDBPyConnection":
        """A connection of one thread's own, to an instance of this process."""
        duckdb = _duckdb()
        with self._lock:
            if self._connection is None or self._process != os.getpid():
                config: dict[str, Any] = {"autoinstall_known_extensions": "false"}
                if self._threads is not None:
                    config["threads"] = str(self._threads)
                self._connection = duckdb.connect(config=config)
                folder = str(self._folder).replace("'", "''")
                self._connection.execute(f"SET allowed_directories = ['{folder}/']")
                self._connection.execute("SET enable_external_access = false")
                self._connection.execute("SET lock_configuration = true")
                self._process = os.getpid()
            return self._connection.cursor()


@dataclass(frozen=True, eq=False)
class Metadata:
    """Columns of the rows of a segment.

    Attributes:
        path: a parquet file.
        rows: n, the rows of the segment and of the file.
    """

    path: Path
    rows: int
    _masks: "OrderedDict[str, np.ndarray]" = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def where(self, condition: Any, engine: Engine) -> np.ndarray:
        """Rows (n,) bool for which a condition is true.

        The rows of the last conditions are kept, since a service asks for few again and again.

        Args:
            condition: an SQL expression, or a ``pyarrow.compute.Expression``.
            engine: evaluates SQL.

        Raises:
            InputError: see ``Engine.rows``.
            MissingExtraError: DuckDB or pyarrow is not installed.
        """
        if not isinstance(condition, str):
            return self._evaluate(condition)
        with self._lock:
            if condition in self._masks:
                self._masks.move_to_end(condition)
                return self._masks[condition]
        mask = np.zeros(self.rows, bool)
        mask[engine.rows(self.path, condition, self.rows)] = True
        mask.flags.writeable = False
        with self._lock:
            self._masks[condition] = mask
            while len(self._masks) > _KEPT:
                self._masks.popitem(last=False)
        return mask

    def _evaluate(self, condition: Any) -> np.ndarray:
        """Rows (n,) bool for which a pyarrow expression is true."""
        pa = _pyarrow("where")
        import pyarrow.dataset

        if not isinstance(condition, pyarrow.dataset.Expression):
            raise InputError(
                f"where: {type(condition).__name__}; expected an SQL expression, or one of "
                "pyarrow.compute"
            )
        try:
            table = pyarrow.dataset.dataset(str(self.path), format="parquet").to_table(
                columns={"allowed": condition}
            )
            allowed = table["allowed"].cast(pa.bool_()).fill_null(False).to_numpy()
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise InputError(f"where {condition}: {_reason(error)}") from error
        if len(allowed) != self.rows:
            raise InputError(f"{self.path}: other rows than the segment's {self.rows}; {_CURE}")
        return allowed

    @cached_property
    def schema(self) -> "pa.Schema":
        """Names and types of the columns.

        Raises:
            InputError: the file is damaged.
        """
        pa = _pyarrow("metadata")
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_schema(self.path)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise InputError(f"{self.path}: damaged ({_reason(error)}); {_CURE}") from error

    def take(self, rows: np.ndarray) -> "pa.Table":
        """Read the columns of rows (m,).

        Raises:
            InputError: the file is damaged.
        """
        pa = _pyarrow("metadata")
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                if file.metadata.num_rows != self.rows:
                    raise InputError(f"{self.path}: other rows than the segment's; {_CURE}")
                # Only the row groups that hold some of the rows are decoded.
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
                bounds = np.cumsum([0, *sizes])
                groups, where = np.unique(
                    np.searchsorted(bounds, rows, side="right") - 1, return_inverse=True
                )
                table = file.read_row_groups(groups.tolist())
                firsts = np.cumsum([0, *(sizes[g] for g in groups)])
                table = table.take(pa.array(rows - bounds[groups[where]] + firsts[where]))
                table.validate(full=True)  # Texts that are no UTF-8.
                return table
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise InputError(f"{self.path}: damaged ({_reason(error)}); {_CURE}") from error


def as_table(metadata: Any, rows: int | None, like: "pa.Schema | None" = None) -> "pa.Table":
    """Convert metadata to a table, before long work starts.

    Args:
        metadata: {name: column of m values}; a path to a ``.parquet`` file; or a table of pyarrow,
            pandas, polars, DuckDB or whatever exports an Arrow stream.
        rows: m; any number when None.
        like: columns that it must have, in whatever order; types are converted where nothing is
            lost.

    Raises:
        InputError: it is no table, of other rows or columns, or two columns have one name.
        MissingExtraError: pyarrow is not installed.

    >>> as_table({"price": [3.5, 2.0]}, 2).schema.names
    ['price']
    """
    pa = _pyarrow("metadata")
    import pyarrow.parquet

    try:
        if isinstance(metadata, str | Path):
            path = Path(metadata)
            if path.suffix != ".parquet" or not path.is_file():
                raise InputError(f"{path}: no .parquet file; expected one of a row for each item")
            table = pyarrow.parquet.read_table(path)
        else:
            table = pa.table(metadata)
        table = table.combine_chunks().replace_schema_metadata(None)
        names = table.column_names
        twice = {name for name in names if [n.lower() for n in names].count(name.lower()) > 1}
        if twice or not all(names):
            raise InputError(
                f"metadata: columns {', '.join(names)}; expected names that differ, in lower case "
                "too"
            )
        if rows is not None and len(table) != rows:
            raise InputError(f"metadata: {len(table)} rows for {rows}; expected one a row")
        if like is None:
            return table
        if set(names) != set(like.names):
            raise InputError(
                f"metadata: columns {', '.join(names)}; expected {', '.join(like.names)}"
            )
        return table.select(like.names).cast(like)
    except (pa.ArrowException, TypeError, OSError) as error:
        raise InputError(
            f"metadata: {_reason(error)}; expected a table of a row for each item"
        ) from error


def write_table(file: Path, table: "pa.Table") -> None:
    """Write a parquet file of small row groups.

    Raises:
        InputError: a column's type is none that parquet holds.
    """
    pa = _pyarrow("metadata")
    import pyarrow.parquet

    try:
        pyarrow.parquet.write_table(table, file, compression="zstd", row_group_size=_GROUP)
    except pa.ArrowException as error:
        raise InputError(
            f"metadata: {_reason(error)}; expected columns that parquet holds"
        ) from error


def gather(sources: Sequence[tuple[np.ndarray, Any]], count: int) -> "pa.Table":
    """Put the rows of several tables together.

    Args:
        sources: pairs of a table's places (m,) in the result, and the table (m rows); an earlier
            pair goes before a later one for the same place.
        count: rows of the result, of which each has a source.
    """
    pa = _pyarrow("metadata")
    row_numbers = np.full(count, -1, np.int64)
    first = sum(len(table) for _, table in sources)
    for places, table in reversed(sources):
        first -= len(table)
        row_numbers[places] = first + np.arange(len(table))
    assert (row_numbers >= 0).all()
    return pa.concat_tables([table for _, table in sources]).take(pa.array(row_numbers))


def _reason(error: Exception) -> str:
    """What a library says of an error, without the lines that point into the text."""
    return " ".join(str(error).split("\nLINE", 1)[0].split())


def _pyarrow(use: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("pyarrow", "sql", use) from None
    return pyarrow


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise MissingExtraError("duckdb", "sql", "where, as a text,") from None
    return duckdb
