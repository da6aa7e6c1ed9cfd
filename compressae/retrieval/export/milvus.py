"""A collection of Milvus: a sparse vector without signs and scalar fields an item."""

import json
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.export.rows import ExportRows, as_python, check_older
from compressae.retrieval.store.catalogue import Catalogue

if TYPE_CHECKING:
    import pyarrow as pa
    from pymilvus import CollectionSchema, MilvusClient

#: Fields of the export's own: the primary key and the sparse vector.
ID, VECTOR = "id", "code"
#: Rows of a request.
_REQUEST = 1000
#: Bytes of a text, at most.
_TEXT_BYTES = 65_535
#: Names that Milvus takes, of which ours are somewhat shorter than its 255 bytes.
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,199}")
#: Milvus' types by those of Arrow.
_TYPES = {
    "bool": "BOOL", "int8": "INT64", "int16": "INT64", "int32": "INT64", "int64": "INT64",
    "uint8": "INT64", "uint16": "INT64", "uint32": "INT64", "halffloat": "FLOAT", "float": "FLOAT",
    "double": "DOUBLE", "string": "VARCHAR", "large_string": "VARCHAR", "string_view": "VARCHAR",
}  # fmt: skip


def to_milvus(
    catalogue: Catalogue,
    client: "MilvusClient | str",
    collection: str,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    token: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> int:
    """Write a collection of an id, a sparse vector "code" and scalar fields, and then its alias.

    Milvus takes no negative values: rows have signs "halves", 2h dimensions (see ``ExportRows``),
    and its inner product leaves out what lowers a score. So it finds candidates, for queries of
    ``sparse_query(…, signs="halves")``, which must be reranked.

    Rows go to a new collection of a name that nobody uses. When all are there and counted, the
    alias ``collection`` is moved to it in one step: a search by that name finds the older export
    or the new one, whole. If writing fails the new collection is dropped.

    Args:
        catalogue: the version that it has open is written.
        client: of the server; or its URI, or a path ending in ``.db`` for Milvus Lite.
        collection: the alias by which the rows are searched.
        columns: names of the metadata columns that become nullable fields; all when None.
        overwrite: replace an older export, which is dropped.
        token: of the server, with a URI.
        progress: called with (rows done, rows).

    Returns:
        Rows in the collection, counted by the server.

    Raises:
        InputError: columns that no field holds, a name that is taken or that Milvus does not take,
            or the server refuses. What was there is unchanged.
        MissingExtraError: pymilvus is not installed.
    """
    try:
        from pymilvus import MilvusClient
    except ImportError:
        raise MissingExtraError("pymilvus", "milvus", "export to Milvus") from None
    rows = ExportRows(catalogue, columns, reserved=(ID, VECTOR), signs="halves")
    if _NAME.fullmatch(collection) is None:
        raise InputError(
            f"collection {collection!r} in Milvus: expected at most 200 letters, digits and "
            "underscores, not a digit first; choose another name"
        )
    schema = _schema(rows)
    try:
        if not isinstance(client, str):
            return _write(rows, schema, client, collection, overwrite, progress)
        with closing(MilvusClient(uri=client, token=token or "")) as own:
            return _write(rows, schema, own, collection, overwrite, progress)
    except InputError:
        raise
    except Exception as error:  # The client has errors of its own, of gRPC and of connections.
        raise InputError(
            f"{collection}: Milvus: {' '.join(str(error).split())}; an older export is unchanged"
        ) from error


def _write(
    rows: ExportRows,
    schema: "CollectionSchema",
    client: "MilvusClient",
    collection: str,
    overwrite: bool,
    progress: Callable[[int, int], Any] | None,
) -> int:
    """Write a collection, move its alias and drop the older one; see ``to_milvus``."""
    older = _older(client, collection, overwrite)
    written = f"{collection}_v{rows.catalogue.version}_{secrets.token_hex(4)}"
    index = client.prepare_index_params()
    index.add_index(VECTOR, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    try:
        client.create_collection(written, schema=schema)
        client.create_index(written, index, sync=False)  # Of no row yet: nothing to wait for.
        client.load_collection(written)
        for request in _requests(rows, progress):
            client.insert(written, request)
        client.flush(written)
        answer = client.query(written, output_fields=["count(*)"], consistency_level="Strong")
        count = int(answer[0]["count(*)"])
        if count != len(rows):
            raise InputError(f"{collection}: {count} entities of {len(rows)} rows")
        # In one step: the name always stands for a whole export.
        (client.create_alias if older is None else client.alter_alias)(written, collection)
    except BaseException:
        with suppress(Exception):  # The server may be gone; the first error is told.
            client.drop_collection(written)
        raise
    if older is not None:
        try:
            client.drop_collection(older)
        except Exception as error:
            raise InputError(
                f"{collection}: stands for the new export, but the older one, {older}, could not "
                f"be dropped ({' '.join(str(error).split())}); drop it"
            ) from error
    return count


def _requests(
    rows: ExportRows, progress: Callable[[int, int], Any] | None
) -> Iterator[list[dict[str, Any]]]:
    """Rows as Milvus' client takes them, as many as a request holds.

    Milvus takes no empty vector: a row without nonzeros has the one entry 2h, which no query has.
    """
    for batch in rows.batches(progress, size=_REQUEST):
        bounds, ids = batch.bounds.tolist(), batch.ids.tolist()
        latents, values = batch.latents.tolist(), batch.values.tolist()
        lists = [] if batch.metadata is None else as_python(batch.metadata, rows.columns)
        request = []
        for i, id in enumerate(ids):
            part = slice(bounds[i], bounds[i + 1])
            vector = dict(zip(latents[part], values[part], strict=True)) or {rows.width: 1.0}
            fields = {name: own[i] for name, own in zip(rows.columns, lists, strict=True)}
            request.append({ID: id, VECTOR: vector, **fields})
        yield request


def _schema(rows: ExportRows) -> "CollectionSchema":
    """Fields of a collection, with the description of its rows.

    Raises:
        InputError: a column of a type or name that Milvus does not take.
    """
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, description=json.dumps(rows.description))
    text = {"datatype": DataType.VARCHAR, "max_length": _TEXT_BYTES}
    schema.add_field(
        ID, is_primary=True, **(text if rows.has_text_ids else {"datatype": DataType.INT64})
    )
    schema.add_field(VECTOR, DataType.SPARSE_FLOAT_VECTOR)
    for field in rows.schema or ():
        kind = _type(field)
        settings = text if kind == "VARCHAR" else {"datatype": DataType[kind]}
        schema.add_field(field.name, nullable=True, **settings)
    return schema


def _type(field: "pa.Field") -> str:
    """Milvus' type of a column."""
    import pyarrow as pa

    arrow = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    cure = "leave it out: name the others by columns (--columns)"
    if str(arrow) not in _TYPES:
        raise InputError(
            f"metadata column {field.name!r} is {arrow}, for which Milvus has no scalar field; "
            f"expected truth values, whole numbers up to int64, floats or texts; {cure}"
        )
    if _NAME.fullmatch(field.name) is None:
        raise InputError(
            f"metadata column {field.name!r} in Milvus: expected a name of letters, digits and "
            f"underscores, not a digit first; {cure}"
        )
    return _TYPES[str(arrow)]


def _older(client: "MilvusClient", collection: str, overwrite: bool) -> str | None:
    """Name of the older export that the alias stands for, if any.

    Raises:
        InputError: the name is a collection's own, or of an alias that no export made; or an older
            export without ``overwrite``.
    """
    older: str | None = None
    if collection in client.list_aliases()["aliases"]:
        older = client.describe_alias(collection)["collection_name"]
    if older is not None or client.has_collection(collection):
        check_older(collection, older, rf"{re.escape(collection)}_v\d+_[0-9a-f]{{8}}", overwrite)
    return older
