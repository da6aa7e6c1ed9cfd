"""Exports to Milvus, searched by Milvus Lite, its embedded engine."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from exported import assert_same_answers, assert_same_metadata, assert_same_rows, signed
from scipy import sparse

from compressae import InputError, encode
from compressae.retrieval import Catalogue
from compressae.retrieval.errors import MissingExtraError
from compressae.retrieval.export import (
    ExportRows,
    ResidualWarning,
    milvus,
    sparse_query,
    to_milvus,
    to_scipy,
)

COLUMNS = ["price", "in_stock"]  # "Brand name" is no name for Milvus.


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Path of a database of Milvus Lite."""
    pytest.importorskip("pymilvus", reason="needs pip install 'compressae[milvus]'")
    lite = pytest.importorskip("milvus_lite", reason="milvus-lite, its engine, is not installed")
    path = str(tmp_path_factory.mktemp("milvus") / "items.db")
    yield path
    lite.server_manager_instance.release_server(path)


@pytest.fixture
def client(engine):
    """A client of the engine, which is empty."""
    from pymilvus import MilvusClient

    client = MilvusClient(engine)
    yield client
    for name in client.list_collections():
        client.drop_collection(name)
    client.close()


def entities(client, catalogue, fields=()):
    """All entities of the alias."""
    found = client.query(
        "items", filter="", output_fields=["id", "code", *fields], limit=len(catalogue) + 1
    )
    assert len(found) == len(catalogue)
    return found


def columns_for(catalogue):
    """Names of the metadata columns that go along."""
    return COLUMNS if catalogue.columns else []


@pytest.mark.parametrize("kind", ["numbers", "texts", "plain", "ragged", "lists"])
def test_the_engine_holds_the_rows_as_they_are(client, catalogues, kind):
    catalogue = catalogues[kind]
    columns = columns_for(catalogue)
    assert to_milvus(catalogue, client, "items", columns=columns) == len(catalogue)
    found = entities(client, catalogue, columns)
    h = catalogue.like.latents
    rows = {e["id"]: signed(list(e["code"]), list(e["code"].values()), h) for e in found}
    assert_same_rows(catalogue, rows)
    if columns:
        expected = catalogue.metadata(list(rows)).select(columns).to_pylist()
        assert [{name: e[name] for name in columns} for e in found] == expected


@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_the_engines_scores_are_the_products_of_halves(
    client, tmp_path, catalogues, model, queries, kind
):
    catalogue = catalogues[kind]
    to_milvus(catalogue, client, "items", columns=COLUMNS)
    to_scipy(catalogue, tmp_path / "items.npz", signs="halves")
    matrix, ids = sparse.load_npz(tmp_path / "items.npz"), np.load(tmp_path / "items.npz")["ids"]
    query = sparse_query(model.projection, queries, signs="halves")
    scores = (query @ matrix.T).toarray()
    best = np.argsort(-scores, axis=1)[:, :20]
    expected = SimpleNamespace(ids=ids[best], scores=np.take_along_axis(scores, best, axis=1))
    assert_same_answers(expected, searched(client, query, 20))


def searched(client, query, K):
    """Search by rows of a CSR matrix, as a user would: [[(id, score), …], …]."""
    vectors = [
        dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        for row in (query[[i]] for i in range(query.shape[0]))
    ]
    answers = client.search("items", vectors, anns_field="code", limit=K)
    return [[(hit["id"], hit["distance"]) for hit in answer] for answer in answers]


@pytest.mark.filterwarnings("ignore::compressae.retrieval.export.ResidualWarning")
@pytest.mark.parametrize("kind", ["numbers", "texts", "residual"])
def test_reranked_candidates_are_what_a_scan_finds(client, catalogues, model, queries, kind):
    catalogue = catalogues[kind]
    to_milvus(catalogue, client, "items", columns=[])
    query = sparse_query(model.projection, queries, signs="halves")
    expected = catalogue.search(queries, 10, candidates="all")
    recalls = []
    for i, answer in enumerate(searched(client, query, 100)):
        candidates = [id for id, _ in answer]
        hits = catalogue.search(queries[[i]], 10, allowed=candidates, candidates="all")
        known = np.isin(expected.ids[i], candidates)
        recalls.append(known.mean())
        np.testing.assert_array_equal(hits.ids[0][: known.sum()], expected.ids[i][known])
    assert np.mean(recalls) >= 0.9


def test_fields_filter(client, catalogues, model, queries):
    catalogue = catalogues["numbers"]
    to_milvus(catalogue, client, "items", columns=["price"])
    (query,) = sparse_query(model.projection, queries[:1], signs="halves")
    vector = dict(zip(query.indices.tolist(), query.data.tolist(), strict=True))
    (found,) = client.search(
        "items", [vector], anns_field="code", limit=50, filter="price < 30", output_fields=["price"]
    )
    assert len(found) > 10 and all(hit["entity"]["price"] < 30 for hit in found)


def test_the_schema_says_what_the_rows_are_of(client, catalogues):
    schema = milvus._schema(ExportRows(catalogues["texts"], COLUMNS, signs="halves"))
    said = json.loads(schema.description)
    assert said["version"] == catalogues["texts"].version and said["signs"] == "halves"
    kinds = {field.name: field.dtype.name for field in schema.fields}
    assert kinds == {
        "id": "VARCHAR", "code": "SPARSE_FLOAT_VECTOR", "price": "DOUBLE", "in_stock": "BOOL",
    }  # fmt: skip


def test_values_of_all_types_come_back(client, tmp_path, model, table):
    columns = {
        "flag": [True, None, False],
        "small": pa.array([1, None, -2], pa.int8()),
        "large": [2**62, None, -(2**62)],
        "real": pa.array([0.1, None, 3], pa.float32()),
        "double": [0.1, None, -1e300],
        "text": ["é", None, ""],
        "category": pa.array(["a", None, "b"]).dictionary_encode(),
    }
    catalogue = Catalogue.create(
        tmp_path / "c", model.projection, encode(model, table[:3]), metadata=pa.table(columns)
    )
    to_milvus(catalogue, client, "items")
    found = {e["id"]: e for e in entities(client, catalogue, columns)}
    assert_same_metadata(
        catalogue, {id: {name: e[name] for name in columns} for id, e in found.items()}
    )


def test_numbers_that_are_none_become_null(client, tmp_path, model, table):
    catalogue = Catalogue.create(
        tmp_path / "c", model.projection, encode(model, table[:2]), metadata={"x": [np.nan, 1.5]}
    )
    to_milvus(catalogue, client, "items")
    assert {e["id"]: e["x"] for e in entities(client, catalogue, ["x"])} == {0: None, 1: 1.5}


def test_an_alias_stands_for_the_collection(client, catalogues):
    catalogue = catalogues["numbers"]
    to_milvus(catalogue, client, "items", columns=[])
    (name,) = client.list_collections()
    assert client.describe_alias("items")["collection_name"] == name
    assert name.startswith(f"items_v{catalogue.version}_")


def test_an_older_export_is_replaced_if_told(client, catalogues):
    to_milvus(catalogues["numbers"], client, "items", columns=[])
    with pytest.raises(InputError, match="an older export is there"):
        to_milvus(catalogues["plain"], client, "items")
    to_milvus(catalogues["plain"], client, "items", overwrite=True)
    assert len(client.list_collections()) == 1
    entities(client, catalogues["plain"])


def test_a_failed_export_changes_nothing(client, catalogues):
    to_milvus(catalogues["numbers"], client, "items", columns=[])

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_milvus(catalogues["plain"], client, "items", overwrite=True, progress=fail)
    assert len(client.list_collections()) == 1
    entities(client, catalogues["numbers"])


def test_a_batch_that_the_engine_refuses_leaves_nothing(client, tmp_path, model, table):
    columns = {"text": ["short", "x" * 70_000]}
    catalogue = Catalogue.create(
        tmp_path / "c", model.projection, encode(model, table[:2]), metadata=columns
    )
    with pytest.raises(InputError, match="items: Milvus: .*max.*length.*; an older export is"):
        to_milvus(catalogue, client, "items")
    assert client.list_collections() == []


def test_a_collection_of_that_name_is_left_as_it_is(client, catalogues):
    to_milvus(catalogues["plain"], client, "other", columns=[])
    (name,) = client.list_collections()
    with pytest.raises(InputError, match="no export wrote stands there"):
        to_milvus(catalogues["plain"], client, name, overwrite=True)
    client.create_alias(name, "mine")
    with pytest.raises(InputError, match=f'an alias of "{name}", which no export wrote'):
        to_milvus(catalogues["plain"], client, "mine", overwrite=True)
    assert client.list_collections() == [name]


def test_a_collection_of_a_like_name_is_left_as_it_is(client, catalogues):
    client.create_collection("items_v2", dimension=4)
    client.create_alias("items_v2", "items")
    with pytest.raises(InputError, match='an alias of "items_v2", which no export wrote'):
        to_milvus(catalogues["plain"], client, "items", overwrite=True)
    assert client.list_collections() == ["items_v2"]


def test_an_older_export_that_cannot_be_dropped_is_named(client, catalogues, monkeypatch):
    to_milvus(catalogues["numbers"], client, "items", columns=[])
    (older,) = client.list_collections()

    def fail(name):
        raise TimeoutError("too slow")

    monkeypatch.setattr(client, "drop_collection", fail)
    with pytest.raises(InputError, match=f"stands for the new export, but .*{older}.*too slow"):
        to_milvus(catalogues["plain"], client, "items", overwrite=True)
    assert client.describe_alias("items")["collection_name"] != older
    entities(client, catalogues["plain"])


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("my-items", {}, "collection 'my-items' in Milvus: expected at most 200 letters"),
        ("9items", {}, "not a digit first"),
        ("i" * 201, {}, "at most 200"),
        ("items", {}, "'Brand name' in Milvus: expected a name of letters.*--columns"),
        ("items", {"columns": ["size"]}, "no column 'size'"),
    ],
)
def test_names_that_milvus_does_not_take_are_refused(client, catalogues, name, settings, said):
    with pytest.raises(InputError, match=said):
        to_milvus(catalogues["numbers"], client, name, **settings)
    assert client.list_collections() == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1], []], r"is list<.*, for which Milvus has no scalar field.*--columns"),
        (pa.array([1, 2**63], pa.uint64()), "is uint64"),
        (pa.array([0, 1], pa.timestamp("s")), "is timestamp"),
        ([b"1", b"2"], "is binary"),
    ],
    ids=["list", "uint64", "timestamp", "binary"],
)
def test_columns_that_no_field_holds_are_refused(client, tmp_path, model, table, values, said):
    catalogue = Catalogue.create(
        tmp_path / "c", model.projection, encode(model, table[:2]), metadata=pa.table({"x": values})
    )
    with pytest.raises(InputError, match=said):
        to_milvus(catalogue, client, "items")
    assert client.list_collections() == []


def test_a_path_is_a_database_of_milvus_lite(client, engine, catalogues):
    assert to_milvus(catalogues["plain"], engine, "items") == len(catalogues["plain"])
    entities(client, catalogues["plain"])


def test_no_server_is_one_line(catalogues):
    pytest.importorskip("pymilvus", reason="needs pip install 'compressae[milvus]'")
    with pytest.raises(InputError, match="items: Milvus: .*illegal.*unchanged"):
        to_milvus(catalogues["plain"], "nowhere", "items")


def test_residual_codes_are_left_out_with_a_warning(client, catalogues):
    with pytest.warns(ResidualWarning):
        to_milvus(catalogues["residual"], client, "items")


def test_a_missing_library_is_named(monkeypatch, catalogues):
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match=r"compressae\[milvus\]"):
        to_milvus(catalogues["numbers"], "items.db", "items")
