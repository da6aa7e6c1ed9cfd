"""A collection of Qdrant: a sparse vector and a payload an item."""

import re
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.export.rows import ExportRows, as_python, check_older
from compressae.retrieval.store.catalogue import Catalogue

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

#: Name of the sparse vector.
VECTOR = "code"
#: Key of ids that are texts, in the payload.
ID = "id"
#: Points of a request.
_REQUEST = 1000


class Point(NamedTuple):
    """An item as Qdrant keeps it.

    Attributes:
        id: a whole number, or a UUID; see ``point_id``.
        indices: latents, ascending.
        values: as rows are scored.
        payload: the metadata, and the id where it is a text.
    """

    id: int | str
    indices: list[int]
    values: list[float]
    payload: dict[str, Any]


def to_qdrant(
    catalogue: Catalogue,
    client: "QdrantClient | str",
    collection: str,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    api_key: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> int:
    """Write a collection of points, with a sparse vector "code" each, and then its alias.

    Points go to a new collection of a name that nobody uses. When all are there and counted, the
    alias ``collection`` is moved to it in one step: a search by that name finds the older export
    or the new one, whole. If writing fails the new collection is deleted.

    Args:
        catalogue: the version that it has open is written.
        client: of the server, or its URL.
        collection: the alias by which the points are searched.
        columns: names of the metadata columns that become the payload; all when None.
        overwrite: replace an older export, which is deleted.
        api_key: of the server, with a URL.
        progress: called with (rows done, rows).

    Returns:
        Points in the collection, counted by the server.

    Raises:
        InputError: columns that no payload holds, a name that is taken, or the server refuses. What
            was there is unchanged.
        MissingExtraError: qdrant-client is not installed.
    """
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise MissingExtraError("qdrant-client", "qdrant", "export to Qdrant") from None
    rows = ExportRows(catalogue, columns, reserved=(ID,) if catalogue.has_text_ids else ())
    try:
        if not isinstance(client, str):
            return _write(rows, client, collection, overwrite, progress)
        with closing(QdrantClient(url=client, api_key=api_key)) as own:
            return _write(rows, own, collection, overwrite, progress)
    except InputError:
        raise
    except Exception as error:  # The client has errors of many libraries, HTTP's and gRPC's.
        raise InputError(
            f"{collection}: Qdrant: {' '.join(str(error).split())}; an older export is unchanged"
        ) from error


def _write(
    rows: ExportRows,
    client: "QdrantClient",
    collection: str,
    overwrite: bool,
    progress: Callable[[int, int], Any] | None,
) -> int:
    """Write a collection, move its alias and delete the older one; see ``to_qdrant``."""
    from qdrant_client import models

    older = _older(client, collection, overwrite)
    written = f"{collection}.v{rows.catalogue.version}-{secrets.token_hex(4)}"
    params = {VECTOR: models.SparseVectorParams()}
    client.create_collection(written, vectors_config={}, sparse_vectors_config=params)
    try:
        for batch in _requests(points(rows, progress)):
            structs = []
            for id, indices, values, payload in batch:
                vector = {VECTOR: models.SparseVector(indices=indices, values=values)}
                structs.append(models.PointStruct(id=id, vector=vector, payload=payload))  # type: ignore[arg-type]
            client.upsert(written, structs, wait=True)
        count = client.count(written, exact=True).count
        if count != len(rows):
            raise InputError(f"{collection}: {count} points of {len(rows)} rows")
        # Both at once: the name always stands for a whole export.
        changes: list[Any] = []
        if older is not None:
            gone = models.DeleteAlias(alias_name=collection)
            changes.append(models.DeleteAliasOperation(delete_alias=gone))
        new = models.CreateAlias(collection_name=written, alias_name=collection)
        changes.append(models.CreateAliasOperation(create_alias=new))
        client.update_collection_aliases(change_aliases_operations=changes)
    except BaseException:
        with suppress(Exception):  # The server may be gone; the first error is told.
            client.delete_collection(written)
        raise
    if older is not None:
        client.delete_collection(older)
    return count


def points(rows: ExportRows, progress: Callable[[int, int], Any] | None = None) -> Iterator[Point]:
    """Iterate over rows as points, for other ways to write them, such as Qdrant's own embedded
    engine."""
    for batch in rows.batches(progress):
        ids, bounds = batch.ids.tolist(), batch.bounds.tolist()
        latents, values = batch.latents.tolist(), batch.values.tolist()
        lists = [] if batch.metadata is None else as_python(batch.metadata, rows.columns)
        payloads = zip(*lists, strict=True) if lists else repeat(())
        for i, (id, values_of) in enumerate(zip(ids, payloads, strict=False)):
            payload: dict[str, Any] = dict(zip(rows.columns, values_of, strict=True))
            if rows.has_text_ids:
                payload[ID] = id
            part = slice(bounds[i], bounds[i + 1])
            yield Point(point_id(id), latents[part], values[part], payload)


def point_id(id: int | str) -> int | str:
    """Id of a point: a whole number itself, a text that is a UUID itself, else the UUID of version
    5 of the text in the namespace of OIDs.

    >>> point_id(7), point_id("B00X4WHP5E")
    (7, '656c2456-48e1-56ec-8fc6-4753ad4a2ed0')
    """
    if not isinstance(id, str):
        return int(id)
    with suppress(ValueError):
        if str(uuid.UUID(id)) == id:
            return id
    return str(uuid.uuid5(uuid.NAMESPACE_OID, id))


def _older(client: "QdrantClient", collection: str, overwrite: bool) -> str | None:
    """Name of the older export that the alias stands for, if any.

    Raises:
        InputError: the name is a collection's own, or of an alias that no export made; or an older
            export without ``overwrite``.
    """
    aliases = {a.alias_name: a.collection_name for a in client.get_aliases().aliases}
    older = aliases.get(collection)
    if older is not None or client.collection_exists(collection):
        check_older(collection, older, rf"{re.escape(collection)}\.v\d+-[0-9a-f]{{8}}", overwrite)
    return older


def _requests(items: Iterator[Point]) -> Iterator[list[Point]]:
    """Lists of as many points as a request takes."""
    batch: list[Point] = []
    for item in items:
        batch.append(item)
        if len(batch) == _REQUEST:
            yield batch
            batch = []
    if batch:
        yield batch
