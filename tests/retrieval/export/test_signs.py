"""Rows and queries without signs, for stores that refuse negative values."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported import assert_same_metadata, assert_same_rows, rows_of, signed
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from compressae import InputError, encode
from compressae.retrieval import Catalogue
from compressae.retrieval.export import (
    ExportRows,
    sparse_query,
    to_arrow,
    to_elastic,
    to_parquet,
    to_scipy,
)
from compressae.retrieval.export.signs import as_halves

KINDS = ["numbers", "texts", "plain", "ragged", "lists"]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(0, 9), h=st.integers(1, 65))
def test_halves_are_the_two_parts_of_a_row(seed, n, h):
    rows = np.random.default_rng(seed).choice([0, 0, -1.5, -0.25, 2], (n, h)).astype(np.float32)
    csr = sparse.csr_array(rows)
    latents, values = as_halves(csr.indptr, csr.indices, csr.data, h)
    halves = sparse.csr_array((values, latents, csr.indptr), (n, 2 * h))
    expected = np.hstack([np.maximum(rows, 0), np.maximum(-rows, 0)])
    np.testing.assert_array_equal(halves.toarray(), expected)
    assert halves.has_canonical_format and (values > 0).all() and latents.dtype == csr.indices.dtype


@pytest.mark.parametrize("nonzeros", [None, 5])
def test_a_query_is_its_two_parts(model, queries, nonzeros):
    both = sparse_query(model.projection, queries, nonzeros).toarray()
    halves = sparse_query(model.projection, queries, nonzeros, signs="halves")
    assert halves.dtype == np.float32 and halves.has_canonical_format
    expected = np.hstack([np.maximum(both, 0), np.maximum(-both, 0)])
    np.testing.assert_array_equal(halves.toarray(), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_table_holds_the_rows_in_halves(tmp_path, catalogues, kind, form):
    catalogue, path = catalogues[kind], tmp_path / "items"
    if form == "arrow":
        to_arrow(catalogue, path, signs="halves")
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
    else:
        to_parquet(catalogue, path, signs="halves")
        table = pq.read_table(path)
    h = catalogue.like.latents
    rows = {row["id"]: (row["indices"], row["values"]) for row in table.to_pylist()}
    assert all(list(latents) == sorted(latents) for latents, _ in rows.values())
    assert_same_rows(catalogue, {id: signed(*row, h) for id, row in rows.items()})
    said = json.loads(table.schema.metadata[b"compressae"])
    assert said["signs"] == "halves" and said["latents"] == h


@pytest.mark.parametrize("kind", KINDS)
def test_scipy_reads_the_rows_in_halves(tmp_path, catalogues, kind):
    catalogue = catalogues[kind]
    to_scipy(catalogue, tmp_path / "items.npz", signs="halves")
    matrix, ids = sparse.load_npz(tmp_path / "items.npz"), np.load(tmp_path / "items.npz")["ids"]
    assert matrix.has_canonical_format and matrix.shape[1] == 2 * catalogue.like.latents
    expected = rows_of(catalogue)
    for id, row in zip(ids.tolist(), matrix.toarray(), strict=True):
        parts = [np.maximum(expected[id], 0), np.maximum(-expected[id], 0)]
        np.testing.assert_array_equal(row, np.concatenate(parts))


@pytest.mark.filterwarnings("ignore::compressae.retrieval.export.ResidualWarning")
@pytest.mark.parametrize("kind", ["numbers", "texts", "residual"])
def test_candidates_of_halves_are_reranked_to_what_a_scan_finds(
    tmp_path, catalogues, model, queries, kind
):
    catalogue, path = catalogues[kind], tmp_path / "items.npz"
    to_scipy(catalogue, path, signs="halves")
    matrix, ids = sparse.load_npz(path), np.load(path)["ids"]
    query = sparse_query(model.projection, queries, signs="halves")
    scores = (query @ matrix.T).toarray()
    expected = catalogue.search(queries, 10, candidates="all")
    recalls = []
    for i, own in enumerate(scores):
        candidates = ids[np.argsort(-own)[:100]]
        hits = catalogue.search(queries[[i]], 10, allowed=candidates, candidates="all")
        known = np.isin(expected.ids[i], candidates)
        recalls.append(known.mean())
        np.testing.assert_array_equal(hits.ids[0][: known.sum()], expected.ids[i][known])
    assert np.mean(recalls) >= 0.9


@pytest.mark.parametrize("kind", ["numbers", "texts", "plain", "lists"])
def test_elastics_file_has_an_action_and_a_document_a_row(tmp_path, catalogues, kind):
    catalogue, path = catalogues[kind], tmp_path / "items.ndjson"
    assert to_elastic(catalogue, path) == len(catalogue)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    ids = [line["index"]["_id"] for line in lines[::2]]
    documents = dict(zip(ids, lines[1::2], strict=True))
    assert all(line["index"] == {"_id": id} for line, id in zip(lines[::2], ids, strict=True))
    h, as_id = catalogue.like.latents, str if catalogue.has_text_ids else int
    rows = {as_id(id): document.pop("code", {}) for id, document in documents.items()}
    assert all(row != {} for id, row in rows.items() if rows_of(catalogue)[id].any())
    pairs = {id: ([int(key) for key in row], list(row.values())) for id, row in rows.items()}
    assert_same_rows(catalogue, {id: signed(*row, h) for id, row in pairs.items()})
    if catalogue.columns:
        rows_metadata = zip(rows, documents.values(), strict=True)
        assert_same_metadata(catalogue, dict(rows_metadata))


def test_elastics_file_is_whole_or_not_there(tmp_path, catalogues, model, table):
    path, codes = tmp_path / "items.ndjson", encode(model, table[:2])
    raw = {"raw": [b"1", b"2"]}
    catalogue = Catalogue.create(tmp_path / "c", model.projection, codes, metadata=raw)
    with pytest.raises(InputError, match="'raw', binary: JSON holds no bytes; leave it out"):
        to_elastic(catalogue, path)
    assert not path.exists()
    to_elastic(catalogues["numbers"], path, columns=["price"])
    assert set(json.loads(path.read_text().splitlines()[1])) == {"code", "price"}
    with pytest.raises(InputError, match="an older file is there; overwrite it"):
        to_elastic(catalogue, path, columns=[])
    to_elastic(catalogue, path, columns=[], overwrite=True)
    assert len(path.read_text().splitlines()) == 4


def test_columns_of_elastics_own_names_are_refused(tmp_path, model, table):
    codes = encode(model, table[:2])
    for name in ("_id", "code"):
        catalogue = Catalogue.create(
            tmp_path / name, model.projection, codes, metadata={name: [1, 2]}
        )
        with pytest.raises(InputError, match=f"'{name}' has the name of one of the export's own"):
            to_elastic(catalogue, tmp_path / "items.ndjson")
    for name in ("_source", "code.1"):
        catalogue = Catalogue.create(
            tmp_path / name, model.projection, codes, metadata={name: [1, 2]}
        )
        with pytest.raises(InputError, match=f"'{name}': a name of the engine's own"):
            to_elastic(catalogue, tmp_path / "items.ndjson")
    assert not (tmp_path / "items.ndjson").exists()


def test_more_latents_than_halves_can_tell_apart_are_refused():
    latents, values = np.array([3], np.int32), np.array([-1.0])
    assert as_halves(np.array([0, 1]), latents, values, 1 << 29)[0].tolist() == [3 + (1 << 29)]
    with pytest.raises(InputError, match="1,073,741,824 latents: too many for two halves"):
        as_halves(np.array([0, 1]), latents, values, 1 << 30)


@pytest.mark.parametrize(
    "use",
    [
        lambda catalogue, model, path: ExportRows(catalogue, signs="none"),
        lambda catalogue, model, path: sparse_query(model.projection, np.ones(10), signs="none"),
        lambda catalogue, model, path: to_parquet(catalogue, path, signs="none"),
        lambda catalogue, model, path: to_scipy(catalogue, path, signs="none"),
    ],
    ids=["rows", "query", "parquet", "scipy"],
)
def test_unknown_signs_are_refused(tmp_path, catalogues, model, use):
    with pytest.raises(InputError, match="signs 'none'; expected one of both, halves"):
        use(catalogues["numbers"], model, tmp_path / "x")
    assert not (tmp_path / "x").exists()
