"""A table of Postgres with pgvector's ``sparsevec``: a row an item, of its code and metadata."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.export.rows import ExportRows, as_python
from compressae.retrieval.store.catalogue import Catalogue

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa

#: Columns of the export's own.
_OWN = ("id", "code")
#: What the comment of a table begins with that an export wrote.
_MARK = "compressae export "
#: Bytes of a name; Postgres cuts longer ones off.
_LONGEST = 63
#: The most dimensions, and nonzeros, of a sparsevec.
_DIMENSIONS, NONZEROS = 10**9, 16_000
#: Postgres' types by those of Arrow.
_TYPES = {
    "bool": "boolean", "int8": "smallint", "int16": "smallint", "int32": "integer",
    "int64": "bigint", "uint8": "smallint", "uint16": "integer", "uint32": "bigint",
    "uint64": "numeric", "halffloat": "real", "float": "real", "double": "double precision",
    "string": "text", "large_string": "text", "binary": "bytea", "large_binary": "bytea",
    "date32[day]": "date", "date64[ms]": "date",
}  # fmt: skip


def to_postgres(
    catalogue: Catalogue,
    dsn: str,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> int:
    """Write a table (id, code, metadata columns) in one transaction: it is there whole or not.

    ``id`` is bigint or text, the primary key; ``code`` is ``sparsevec(h)``. The table's comment
    says which version it holds. Without an index, ``ORDER BY code <#> query`` is exact.

    Args:
        catalogue: the version that it has open is written.
        dsn: of the server, as libpq takes it: ``postgresql://user@host/base``, ``host=… dbname=…``,
            or "" for what libpq's environment says.
        table: its name, or ``schema.name``.
        columns: names of the metadata columns that go along; all when None.
        overwrite: replace an older export.
        progress: called with (rows done, rows).

    Returns:
        Rows of the table, counted by the server.

    Raises:
        InputError: columns or codes that the types cannot hold, a table that stands there, or the
            server refuses. Nothing was changed.
        MissingExtraError: psycopg is not installed.
    """
    psycopg = _psycopg()
    from psycopg import sql

    rows = ExportRows(catalogue, columns, reserved=_OWN)
    if rows.latents > _DIMENSIONS:
        raise InputError(f"{rows.latents} latents: expected at most {_DIMENSIONS}, as sparsevec")
    parts = table.split(".")
    for name in (*parts, *rows.columns):
        if not 0 < len(name.encode()) <= _LONGEST or "\0" in name:
            raise InputError(f"{name!r} in Postgres: expected a name of 1 to {_LONGEST} bytes")
    types = {"id": "text" if rows.has_text_ids else "bigint", "code": f"sparsevec({rows.latents})"}
    types |= {field.name: _type(field) for field in rows.schema or ()}
    target, fields = sql.Identifier(*parts), [sql.Identifier(column) for column in types]
    definitions = [
        sql.SQL("{} {}").format(field, sql.SQL(type))
        for field, type in zip(fields, types.values(), strict=True)
    ]
    with _errors_of(psycopg, table), psycopg.connect(dsn) as connection:
        _make_room(connection, target.as_string(connection), table, overwrite)
        create = "CREATE TABLE {} ({}, PRIMARY KEY (id))"
        connection.execute(sql.SQL(create).format(target, sql.SQL(", ").join(definitions)))
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(target, sql.SQL(", ").join(fields))
        with connection.cursor().copy(copy) as stream:
            for record in _records(rows, progress):
                stream.write_row(record)
        comment = _MARK + json.dumps(rows.description)
        connection.execute(
            sql.SQL("COMMENT ON TABLE {} IS {}").format(target, sql.Literal(comment))
        )
        count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(target)).fetchone()
        if count is None or count[0] != len(rows):
            raise InputError(f"{table}: {count} rows of {len(rows)}; nothing was changed")
    return len(rows)


def sparsevec(rows: Any) -> list[str]:
    """Write sparse rows (m, h) as pgvector's text, queries of ``sparse_query``, say.

    Raises:
        InputError: no scipy sparse rows, or one of more than 16,000 nonzeros.

    >>> sparsevec(sparse.csr_array(np.array([[0, 0.5, 0, -2]], np.float32)))
    ['{2:0.5,4:-2}/4']
    """
    if not sparse.issparse(rows) or rows.ndim != 2:
        raise InputError(f"{type(rows).__name__}: expected scipy sparse rows (m, h)")
    csr = sparse.csr_array(rows, dtype=np.float32)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return _texts(csr.indptr, csr.indices, csr.data, csr.shape[1])


def _texts(bounds: np.ndarray, latents: np.ndarray, values: np.ndarray, width: int) -> list[str]:
    """pgvector's text of CSR rows; 9 digits give a float32 back as it was."""
    longest = int(np.diff(bounds).max(initial=0))
    if longest > NONZEROS:
        raise InputError(
            f"a row of {longest} nonzeros: expected at most {NONZEROS}, as sparsevec; take fewer "
            "(nonzeros= of sparse_query)"
        )
    pairs = [f"{i}:{v:.9g}" for i, v in zip((latents + 1).tolist(), values.tolist(), strict=True)]
    ends = bounds.tolist()
    return [f"{{{','.join(pairs[a:b])}}}/{width}" for a, b in pairwise(ends)]


def _records(rows: ExportRows, progress: Callable[[int, int], Any] | None) -> Iterator[tuple]:
    """Rows as tuples of Python values."""
    from psycopg.types.json import Jsonb

    json_columns = [field.name for field in rows.schema or () if _type(field) == "jsonb"]
    is_json = [name in json_columns for name in rows.columns]
    for batch in rows.batches(progress):
        texts = _texts(batch.bounds, batch.latents, batch.values, rows.latents)
        lists = [] if batch.metadata is None else as_python(batch.metadata, json_columns)
        for column in (own for own, wrapped in zip(lists, is_json, strict=False) if wrapped):
            column[:] = [None if value is None else Jsonb(value) for value in column]
        yield from zip(batch.ids.tolist(), texts, *lists, strict=True)


def _type(field: "pa.Field") -> str:
    """Postgres' type of a column."""
    import pyarrow as pa

    arrow = field.type
    if pa.types.is_dictionary(arrow):
        arrow = arrow.value_type
    if str(arrow) in _TYPES:
        return _TYPES[str(arrow)]
    if pa.types.is_timestamp(arrow):
        return "timestamp" if arrow.tz is None else "timestamptz"
    if pa.types.is_time(arrow):
        return "time"
    if pa.types.is_decimal(arrow):
        return "numeric"
    if pa.types.is_duration(arrow):
        return "interval"
    if pa.types.is_nested(arrow):
        return "jsonb"
    raise InputError(
        f"metadata column {field.name!r} is {arrow}, for which Postgres has no type; leave it out: "
        "name the others by columns (--columns)"
    )


def _make_room(connection: "psycopg.Connection", name: str, table: str, overwrite: bool) -> None:
    """Drop an older export, in the transaction, and see that pgvector is there.

    Args:
        connection: in a transaction.
        name: of the table, quoted.
        table: its name, for errors.
        overwrite: an older export may be dropped.
    """
    comment = connection.execute(
        "SELECT obj_description(to_regclass(%s), 'pg_class'), to_regclass(%s) IS NOT NULL",
        (name, name),
    ).fetchone()
    assert comment is not None
    if comment[1]:
        if not (comment[0] or "").startswith(_MARK):
            raise InputError(
                f"{table}: a table that no export wrote stands there; it is left as it is; choose "
                "another name"
            )
        if not overwrite:
            raise InputError(
                f"{table}: an older export is there; overwrite it (--overwrite), or choose another "
                "name"
            )
        connection.execute(f"DROP TABLE {name}".encode())
    if connection.execute("SELECT to_regtype('sparsevec')").fetchone() == (None,):
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")


@contextmanager
def _errors_of(psycopg: Any, table: str) -> Iterator[None]:
    """Turn errors of the server, and of values that a type cannot hold, into one line."""
    try:
        yield
    except psycopg.Error as error:
        reason = str(error).split("\nCONTEXT")[0]
        raise InputError(
            f"{table}: Postgres: {' '.join(reason.split())}; nothing was changed"
        ) from error


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise MissingExtraError("psycopg", "postgres", "export to Postgres") from None
    return psycopg
