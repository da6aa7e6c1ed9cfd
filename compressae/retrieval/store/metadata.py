"""Metadata: columns of a segment's rows in a parquet file, and which rows an expression allows."""

import json
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.io.parquet import damage_named, parquet_source, require_pyarrow
from compressae.retrieval.io.remote import RemotePath, as_path

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset

#: Rows a row group: what is decoded to read one row.
_GROUP = 1 << 14
#: Conditions whose rows are kept, a segment, and the bytes that they may take.
_KEPT, _KEPT_BYTES = 16, 1 << 26
#: Characters of a condition.
_LONGEST = 4096
#: Seconds after which a condition is given up.
_SLOWEST = 20.0
#: What a condition may be made of, in DuckDB's words: no subquery, no window, no star.
_CLASSES = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT",
    "FUNCTION", "OPERATOR",
}  # fmt: skip
#: Functions that answer otherwise another time, beside those that DuckDB calls volatile.
_CHANGING = {"age", "ago", "getvariable", "in_search_path", "now", "today", "transaction_timestamp"}
_CHANGING_NAMES = ("current", "get_current", "has_", "inet_", "local", "pg_")
#: Memory that DuckDB may take.
_MEMORY = "2GB"
_CURE = "copy the catalogue again"


class Engine:
    """DuckDB, which may read what it is given and no file.

    Args:
        threads: processors to use; all that the machine has when None.
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._process = 0
        self._inherited: Any = None

    def evaluate(self, table: "pyarrow.dataset.Dataset", condition: str) -> np.ndarray:
        """Rows (n,) bool of a table for which a condition is true.

        Args:
            table: n rows.
            condition: of the table's columns, in SQL, as after WHERE.

        Raises:
            InputError: it is no condition of a row's columns alone, does not fit them or takes too
                long; or the table's file is damaged.
        """
        duckdb = _duckdb()
        short = condition if len(condition) <= 80 else condition[:77] + "..."
        if len(condition) > _LONGEST:
            raise InputError(f"where {short!r}: more than {_LONGEST} characters")
        cursor = self._cursor()
        timer = threading.Timer(_SLOWEST, cursor.interrupt)
        timer.start()
        try:
            condition.encode()
            self._check(cursor, condition, table.schema.names)
            relation, parsed = cursor.from_arrow(table), duckdb.SQLExpression(condition)
            relation.filter(parsed)  # Refuses what is no condition.
            is_true = relation.select(parsed.cast("BOOLEAN").alias("is_true")).fetchnumpy()
        except duckdb.InterruptException as error:
            raise InputError(f"where {short!r}: not done after {_SLOWEST:.0f} seconds") from error
        except (duckdb.Error, RuntimeError, ValueError) as error:  # What is no UTF-8 fails late.
            raise InputError(f"where {short!r}: {_reason(error)}") from error
        finally:
            timer.cancel()
            cursor.close()
        return np.ma.filled(is_true["is_true"], False)

    def _check(
        self, cursor: "duckdb.DuckDBPyConnection", condition: str, columns: list[str]
    ) -> None:
        """Refuse what is more than a condition of a row's columns.

        Raises:
            ValueError: see above.
        """
        tree = json.loads(
            cursor.execute("SELECT json_serialize_sql(?)", [f"SELECT {condition}"]).fetchall()[0][0]
        )
        if tree["error"]:
            raise ValueError(tree["error_message"])
        known = {name.lower() for name in columns}
        nodes: list[Any] = [statement["node"]["select_list"] for statement in tree["statements"]]
        while nodes:
            node = nodes.pop()
            if isinstance(node, list):
                nodes += node
                continue
            if not isinstance(node, dict):
                continue
            nodes += node.values()
            if "class" in node and node["class"] not in _CLASSES:
                raise ValueError(f"{node['class'].lower()} in it; expected a condition of a row")
            names = node.get("column_names")
            if names and names[0].lower() not in known:
                raise ValueError(f"no column {names[0]!r}; expected some of {', '.join(columns)}")
            function = str(node.get("function_name", "")).lower()
            if function in _volatile() | _CHANGING or function.startswith(_CHANGING_NAMES):
                raise ValueError(f"{function} answers otherwise another time; give its value")

    def _cursor(self) -> "duckdb.DuckDBPyConnection":
        """A connection of one thread's own, to an instance of this process."""
        duckdb = _duckdb()
        with self._lock:
            if self._connection is None or self._process != os.getpid():
                # The parent's instance waits for threads that a forked child lacks, if it goes.
                self._inherited = self._connection
                config: dict[str, Any] = {} if self._threads is None else {"threads": self._threads}
                self._connection = duckdb.connect(config=config)
                for setting in (
                    "temp_directory = ''",
                    f"memory_limit = '{_MEMORY}'",
                    "autoinstall_known_extensions = false",
                    "autoload_known_extensions = false",
                    "enable_external_access = false",
                    "python_enable_replacements = false",
                    "lock_configuration = true",
                ):
                    self._connection.execute(f"SET {setting}")
                self._process = os.getpid()
            return self._connection.cursor()


@cache
def _volatile() -> frozenset[str]:
    """Functions that DuckDB calls volatile; to ask takes longer than to evaluate a condition."""
    with _duckdb().connect(config={"threads": 1}) as connection:
        names = "SELECT function_name FROM duckdb_functions() WHERE stability='VOLATILE'"
        return frozenset(name for (name,) in connection.execute(names).fetchall())


class Metadata:
    """Columns of the rows of a segment, mapped from a parquet file.

    Args:
        path: the file, which may be deleted or replaced afterwards.
        rows: n, the rows of the segment and of the file.
        columns: names and Arrow types that the file must have.

    Raises:
        InputError: the file is missing or empty.
    """

    def __init__(self, path: Path, rows: int, columns: dict[str, str]) -> None:
        self.path, self.rows, self._columns = path, rows, columns
        self._masks: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InputError(f"{path}: empty; {_CURE}") from error

    @cached_property
    def dataset(self) -> "pyarrow.dataset.FileSystemDataset":
        """The table, of which a reader decodes the columns that it needs.

        Raises:
            InputError: the file is damaged, or has other rows or columns.
        """
        pa = _pyarrow("metadata")
        import pyarrow.dataset

        with damage_named(self.path, pa, _CURE):
            form = pyarrow.dataset.ParquetFileFormat()
            fragment = form.make_fragment(pa.py_buffer(self._map))
            schema = fragment.physical_schema
            found = {column.name: str(column.type) for column in schema}
            if fragment.metadata.num_rows != self.rows or found != self._columns:
                raise InputError(
                    f"{self.path}: {fragment.metadata.num_rows} rows of {found}; expected "
                    f"{self.rows} of {self._columns}; {_CURE}"
                )
            return pyarrow.dataset.FileSystemDataset([fragment], schema, form)

    def where(self, condition: Any, engine: Engine) -> np.ndarray:
        """Rows (n,) bool for which a condition is true.

        The rows of the last conditions are kept, since a service asks for few again and again.

        Args:
            condition: a text in SQL, or a ``pyarrow.compute.Expression``.
            engine: evaluates SQL.

        Raises:
            InputError: see ``Engine.evaluate``.
            MissingExtraError: DuckDB or pyarrow is not installed.
        """
        if not isinstance(condition, str):
            return self._evaluate(condition)
        with self._lock:
            if condition in self._masks:
                self._masks.move_to_end(condition)
                return self._masks[condition]
        mask = engine.evaluate(self.dataset, condition)
        if len(mask) != self.rows:
            raise InputError(f"{self.path}: {len(mask)} rows; expected {self.rows}; {_CURE}")
        mask.flags.writeable = False
        with self._lock:
            self._masks[condition] = mask
            while len(self._masks) > max(1, min(_KEPT, _KEPT_BYTES // self.rows)):
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
        dataset = self.dataset
        try:
            table = dataset.to_table(columns={"allowed": condition})
            allowed = table["allowed"].cast(pa.bool_()).fill_null(False).to_numpy()
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise InputError(f"where {condition}: {_reason(error)}") from error
        if len(allowed) != self.rows:
            raise InputError(f"{self.path}: {len(allowed)} rows; expected {self.rows}; {_CURE}")
        return allowed

    def take(self, rows: np.ndarray) -> "pa.Table":
        """Read the columns of rows (m,), a row group at a time.

        Raises:
            InputError: the file is damaged.
        """
        pa = _pyarrow("metadata")
        import pyarrow.parquet

        schema = self.dataset.schema
        with (
            damage_named(self.path, pa, _CURE),
            pyarrow.parquet.ParquetFile(pa.BufferReader(pa.py_buffer(self._map))) as file,
        ):
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            bounds = np.cumsum([0, *sizes])
            group_of = np.searchsorted(bounds, rows, side="right") - 1
            order = np.argsort(group_of, kind="stable")
            parts = [schema.empty_table()]
            for group in np.unique(group_of).tolist():
                own = order[group_of[order] == group]
                part = file.read_row_group(group).take(pa.array(rows[own] - bounds[group]))
                part.validate(full=True)  # Texts that are no UTF-8.
                parts.append(part)
            return pa.concat_tables(parts).take(pa.array(np.argsort(order)))


def as_table(metadata: Any, rows: int | None, like: "pa.Schema | None" = None) -> "pa.Table":
    """Convert metadata to a table, before long work starts.

    Args:
        metadata: {name: column of m values}; a path or URL of a ``.parquet`` file; or a table of
            pyarrow, pandas, polars, DuckDB or whatever exports an Arrow stream.
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
        if isinstance(metadata, str | Path | RemotePath):
            path = as_path(metadata)
            if path.suffix != ".parquet" or not path.is_file():
                raise InputError(f"{path}: no .parquet file; expected one of a row for each item")
            with parquet_source(path) as source:
                table = pyarrow.parquet.read_table(source)
        else:
            table = pa.table(metadata)
        table = table.replace_schema_metadata(None)
        for place, column in enumerate(table.schema):
            if pa.types.is_null(column.type):
                raise InputError(f"metadata: {column.name!r} is empty in all rows; leave it out")
            if str(column.type) in ("string_view", "binary_view"):  # Of which few functions know.
                plain = (
                    pa.large_string() if str(column.type) == "string_view" else pa.large_binary()
                )
                table = table.set_column(place, column.name, table[place].cast(plain))
        table = table.combine_chunks()
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
            return table.cast(_as_read(table.schema))
        if set(names) != set(like.names):
            raise InputError(
                f"metadata: columns {', '.join(names)}; expected {', '.join(like.names)}"
            )
        return table.select(like.names).cast(like)
    except (pa.ArrowException, TypeError, OSError) as error:
        raise InputError(
            f"metadata: {_reason(error)}; expected a table of a row for each item"
        ) from error


def _as_read(schema: "pa.Schema") -> "pa.Schema":
    """Names and types as they come back from a parquet file: of items of lists, say."""
    pa = _pyarrow("metadata")
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(schema.empty_table(), sink)
    return pyarrow.parquet.read_schema(pa.BufferReader(sink.getvalue())).remove_metadata()


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
    try:
        return pa.concat_tables([table for _, table in sources]).take(pa.array(row_numbers))
    except pa.ArrowException as error:
        raise InputError(f"metadata: {_reason(error)}; give smaller batches of rows") from error


def _reason(error: Exception) -> str:
    """What a library says of an error, without the lines that point into the text."""
    return " ".join(str(error).split("\nLINE", 1)[0].split())


def _pyarrow(use: str) -> Any:
    return require_pyarrow(use, "sql")


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise MissingExtraError("duckdb", "sql", "where, as a text,") from None
    return duckdb
