"""Exports to Qdrant: by its client in memory, and searched by its engine, embedded."""

import datetime
import uuid

import numpy as np
import pytest
from exported import assert_same_answers, assert_same_metadata, assert_same_rows

from compressae import InputError, encode
from compressae.retrieval import Catalogue
from compressae.retrieval.errors import MissingExtraError
from compressae.retrieval.export import (
    ExportRows,
    ResidualWarning,
    point_id,
    sparse_query,
    to_qdrant,
)
from compressae.retrieval.export.qdrant import VECTOR, points


@pytest.fixture
def client():
    """Qdrant's client over its own imitation of a server, in memory."""
    qdrant_client = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    return qdrant_client.QdrantClient(":memory:")


@pytest.fixture
def engine(tmp_path):
    """Fill Qdrant's engine with points; what it takes for a query."""
    qdrant_edge = pytest.importorskip(
        "qdrant_edge", reason="qdrant-edge-py, Qdrant's engine, is not installed"
    )
    config = qdrant_edge.EdgeConfig(sparse_vectors={VECTOR: qdrant_edge.EdgeSparseVectorParams()})
    (tmp_path / "shard").mkdir()
    shard = qdrant_edge.EdgeShard.create(str(tmp_path / "shard"), config)

    def fill(rows):
        made = []
        for id, indices, values, payload in points(rows):
            own = uuid.UUID(id) if isinstance(id, str) else id
            vector = {VECTOR: qdrant_edge.SparseVector(indices, values)}
            made.append(qdrant_edge.Point(own, vector, payload))
        shard.update(qdrant_edge.UpdateOperation.upsert_points(made))
        shard.optimize()
        return shard, qdrant_edge

    yield fill
    shard.close()


def own_id(point):
    """The catalogue's id of a point."""
    return point.payload["id"] if "id" in point.payload else int(point.id)


@pytest.mark.parametrize("kind", ["numbers", "texts", "plain", "ragged"])
def test_the_engine_finds_what_a_scan_finds(engine, catalogues, model, queries, kind):
    catalogue = catalogues[kind]
    shard, qdrant_edge = engine(ExportRows(catalogue))
    assert shard.count(qdrant_edge.CountRequest(exact=True)) == len(catalogue)
    answers = []
    for i in range(len(queries)):
        row = sparse_query(model.projection, queries)[[i]]
        vector = qdrant_edge.SparseVector(row.indices.tolist(), row.data.tolist())
        nearest = qdrant_edge.Query.Nearest(vector, using=VECTOR)
        request = qdrant_edge.QueryRequest(limit=20, query=nearest, with_payload=True)
        answers.append([(own_id(point), point.score) for point in shard.query(request)])
    assert_same_answers(catalogue.search(queries, 20, candidates="all"), answers)


@pytest.mark.parametrize("kind", ["numbers", "texts", "plain", "lists"])
def test_the_engine_holds_the_rows_as_they_are(engine, catalogues, kind):
    catalogue = catalogues[kind]
    shard, qdrant_edge = engine(ExportRows(catalogue))
    request = qdrant_edge.ScrollRequest(limit=1000, with_payload=True, with_vector=True)
    found, _ = shard.scroll(request)
    vectors = {own_id(point): (point.vector or {}).get(VECTOR) for point in found}
    rows = {
        id: ([], []) if vector is None else (vector.indices, vector.values)
        for id, vector in vectors.items()
    }
    assert_same_rows(catalogue, rows)
    if catalogue.columns:
        metadata = {
            own_id(point): {name: point.payload[name] for name in catalogue.columns}
            for point in found
        }
        assert_same_metadata(catalogue, metadata)


@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_the_client_writes_a_collection(client, catalogues, kind):
    catalogue = catalogues[kind]
    assert to_qdrant(catalogue, client, "items") == len(catalogue)
    found, _ = client.scroll("items", limit=1000, with_vectors=True)
    rows = {own_id(p): (p.vector[VECTOR].indices, p.vector[VECTOR].values) for p in found}
    assert_same_rows(catalogue, rows)
    (alias,) = client.get_aliases().aliases
    assert alias.alias_name == "items"
    assert alias.collection_name.startswith(f"items.v{catalogue.version}-")


def test_the_clients_search_is_exact(client, catalogues, model, queries):
    from qdrant_client import models

    to_qdrant(catalogues["texts"], client, "items", columns=["price"])
    answers = []
    for i in range(len(queries)):
        row = sparse_query(model.projection, queries)[[i]]
        vector = models.SparseVector(indices=row.indices.tolist(), values=row.data.tolist())
        found = client.query_points("items", vector, using=VECTOR, limit=10).points
        assert set(found[0].payload) == {"price", "id"}
        answers.append([(own_id(point), point.score) for point in found])
    hits = catalogues["texts"].search(queries, 10, candidates="all")
    assert_same_answers(hits, answers)


def test_an_older_export_is_replaced_if_told(client, catalogues):
    to_qdrant(catalogues["numbers"], client, "items")
    with pytest.raises(InputError, match="an older export is there"):
        to_qdrant(catalogues["plain"], client, "items")
    to_qdrant(catalogues["plain"], client, "items", overwrite=True)
    assert client.count("items").count == len(catalogues["plain"])
    assert len(client.get_collections().collections) == 1


def test_a_failed_export_changes_nothing(client, catalogues):
    to_qdrant(catalogues["numbers"], client, "items")

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_qdrant(catalogues["plain"], client, "items", overwrite=True, progress=fail)
    assert client.count("items").count == len(catalogues["numbers"])
    assert len(client.get_collections().collections) == 1


def test_a_collection_of_that_name_is_left_as_it_is(client, catalogues):
    client.create_collection("items", vectors_config={})
    with pytest.raises(InputError, match="no export wrote"):
        to_qdrant(catalogues["numbers"], client, "items", overwrite=True)


def test_a_collection_of_a_like_name_is_left_as_it_is(client, catalogues):
    from qdrant_client import models

    client.create_collection("items.v2", vectors_config={})
    alias = models.CreateAlias(collection_name="items.v2", alias_name="items")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    with pytest.raises(InputError, match='an alias of "items.v2", which no export wrote'):
        to_qdrant(catalogues["numbers"], client, "items", overwrite=True)
    assert client.collection_exists("items.v2")


def test_no_server_is_one_line(catalogues):
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    with pytest.raises(InputError, match="items: Qdrant: .*unchanged"):
        to_qdrant(catalogues["numbers"], "http://127.0.0.1:9", "items")


def test_ids_that_are_texts_become_uuids(catalogues):
    given = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
    assert point_id(given) == given and point_id(np.int64(3)) == 3
    assert point_id("a") == str(uuid.uuid5(uuid.NAMESPACE_OID, "a"))
    made = list(points(ExportRows(catalogues["texts"])))
    assert len({point.id for point in made}) == len(made)
    assert all(point.id == point_id(point.payload["id"]) for point in made)


def test_payloads_are_json(tmp_path, model, table):
    columns = {
        "day": [datetime.datetime(2024, 2, 29), None],
        "share": [np.nan, 0.5],
        "tags": [["a"], []],
    }
    codes = encode(model, table[:2])
    catalogue = Catalogue.create(tmp_path / "c", model.projection, codes, metadata=columns)
    first, second = (point.payload for point in points(ExportRows(catalogue)))
    assert first == {"day": "2024-02-29T00:00:00", "share": None, "tags": ["a"]}
    assert second == {"day": None, "share": 0.5, "tags": []}
    raw = {"raw": [b"1", b"2"]}
    catalogue = Catalogue.create(tmp_path / "r", model.projection, codes, metadata=raw)
    with pytest.raises(InputError, match="'raw', binary: JSON holds no bytes; leave it out"):
        list(points(ExportRows(catalogue)))


def test_residual_codes_are_left_out_with_a_warning(client, catalogues):
    with pytest.warns(ResidualWarning):
        to_qdrant(catalogues["residual"], client, "items")


def test_a_missing_library_is_named(monkeypatch, catalogues):
    monkeypatch.setitem(__import__("sys").modules, "qdrant_client", None)
    with pytest.raises(MissingExtraError, match=r"compressae\[qdrant\]"):
        to_qdrant(catalogues["numbers"], "http://127.0.0.1:9", "items")
