"""Indexes of codes for dot products: row lengths count, rows of zeros score 0."""

from dataclasses import replace

import numpy as np
import pytest
from factor_tables import N, factors

from compressae import InputError, TrainConfig, compress, encode, encode_like, train
from compressae.retrieval import (
    Catalogue,
    CompressedIndex,
    ExactIndex,
    exact_search,
    recall_at,
    tune,
)

FORMS = {
    "packed": dict(nonzeros=4),
    "residual": dict(nonzeros=4, residual_bytes=8),
    "budget": dict(budget="14 B/row"),
}


@pytest.fixture(scope="module")
def table():
    return factors()


@pytest.fixture(scope="module")
def model(table):
    return train(table[0], TrainConfig(latents=128, nonzeros=4, steps=8, similarity="dot"))


@pytest.fixture(scope="module")
def indexes(model, table):
    made = {name: compress(model, table[0], **form) for name, form in FORMS.items()}
    made |= {kind: encode(model, table[0], kind) for kind in ("float32", "int8")}
    return {name: CompressedIndex(model.projection, codes) for name, codes in made.items()}


EVERY = [*FORMS, "float32", "int8"]


@pytest.mark.parametrize("form", EVERY)
def test_scores_are_products_of_queries_and_reconstructed_rows(indexes, model, table, form):
    index, queries = indexes[form], table[1]
    assert index.similarity == "dot"
    rows = index.codes.reconstruct(model.projection.decoder)
    hits = index.search(queries, 10, candidates="all")
    expected = np.take_along_axis(queries @ rows.T, hits.ids, 1)
    np.testing.assert_allclose(hits.scores, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())
    assert (np.diff(hits.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("form", EVERY)
def test_recall_is_that_of_dot_products_not_of_cosines(indexes, table, form):
    items, queries = table
    hits = indexes[form].search(queries, 10)
    recall = recall_at(hits.ids, exact_search(items, queries, 10, "dot").ids, 10)
    nonzero = np.flatnonzero(items.any(1))
    cosines = nonzero[exact_search(items[nonzero], queries, 10).ids]
    assert recall > 0.7 > 0.5 > recall_at(hits.ids, cosines, 10)


@pytest.mark.parametrize("form", EVERY)
def test_rows_of_zeros_score_zero(indexes, table, form):
    hits = indexes[form].search(table[1], N, candidates="all")
    is_zero = np.isin(hits.ids, [0, N - 1])
    assert is_zero.sum() == 2 * len(table[1])
    np.testing.assert_array_equal(hits.scores[is_zero], 0)
    assert np.isfinite(hits.scores).all()


def test_a_query_of_zeros_scores_every_row_zero(indexes, table):
    queries = np.concatenate([np.zeros((1, table[1].shape[1]), np.float32), table[1][:1]])
    hits = indexes["packed"].search(queries, 3)
    np.testing.assert_array_equal(hits.scores[0], 0)
    alone = indexes["packed"].search(table[1][:1], 3)
    np.testing.assert_array_equal(hits.ids[1], alone.ids[0])
    with pytest.raises(InputError, match="queries: row 0 is all zeros"):
        ExactIndex(table[1]).search(queries, 3)


@pytest.mark.parametrize("scoring", ["sparse", "reconstructed"])
def test_the_papers_scorings_keep_lengths(indexes, table, scoring):
    """Long rows are found more often than by the lengths' own share."""
    items, queries = table
    ids = indexes["residual"].search(queries, 10, scoring).ids
    lengths = np.linalg.norm(items, axis=1)
    assert lengths[ids].mean() > 1.5 * lengths.mean()


def test_scores_scale_with_the_query(indexes, table):
    queries = table[1]
    one, four = (indexes["residual"].search(x, 5) for x in (queries, 4 * queries))
    np.testing.assert_array_equal(one.ids, four.ids)
    np.testing.assert_array_equal(4 * one.scores, four.scores)


def test_reranking_is_by_exact_dot_product(indexes, table):
    items, queries = table
    hits = indexes["residual"].search(queries, 10, rerank=items, rerank_candidates=200)
    truth = exact_search(items, queries, 10, "dot")
    assert recall_at(hits.ids, truth.ids, 10) > 0.98
    np.testing.assert_allclose(hits.scores[:, 0], truth.scores[:, 0], rtol=1e-5)


def test_a_saved_index_keeps_its_similarity(indexes, table, tmp_path):
    index = indexes["residual"]
    Catalogue.write(tmp_path / "index", index)
    again = Catalogue.open(tmp_path / "index").index
    assert again.similarity == "dot"
    np.testing.assert_array_equal(again.search(table[1], 10).ids, index.search(table[1], 10).ids)


def test_a_similarity_that_there_is_not_is_refused(indexes, model):
    codes = indexes["packed"].codes
    odd = replace(codes, settings={**codes.settings, "similarity": "euclid"})
    with pytest.raises(InputError, match="similarity 'euclid': expected cosine or dot"):
        CompressedIndex(model.projection, odd)


def test_tuning_is_relative_to_dot_products(model, table):
    items, queries = table
    index = CompressedIndex(model.projection, compress(model, items, residual_bytes=8))
    settings = tune(index, queries, K=10, recall=0.95, exact=items)
    assert settings[0].recall >= 0.95 and settings[0].exact_recall > 0.75


@pytest.mark.parametrize("form", EVERY)
def test_rows_that_come_later_are_found_by_their_lengths(model, table, form):
    items, queries = table
    codes = encode(model, items, form) if form in ("float32", "int8") else None
    if codes is None:
        codes = compress(model, items, **FORMS[form])
    index = CompressedIndex(model.projection, codes)
    later = np.stack([queries[0] / np.linalg.norm(queries[0]) * 12, np.zeros(16)])
    new = index.add(encode_like(model, later.astype(np.float32), index.codes))
    hits = index.search(queries[:1], 1)
    assert hits.ids[0, 0] == new[0]
    index.compact()
    assert index.search(queries[:1], 1).ids[0, 0] == new[0] and index.similarity == "dot"


def test_rows_too_long_for_the_codes_are_refused(indexes, model):
    row = np.full((1, 16), 1e4, np.float32)
    with pytest.raises(
        InputError, match="a row that takes a gain of .*compress the whole table again"
    ):
        encode_like(model, row, indexes["packed"].codes)


def test_codes_as_queries_are_their_reconstructions(indexes, model, table):
    """Where users are many, they are stored as codes too."""
    queries = table[1]
    users = compress(model, np.tile(queries, (6, 1)), residual_bytes=8, similarity="dot")
    index = indexes["residual"]
    hits = index.search(users, 10)
    decoded = users.reconstruct(model.projection.decoder)
    same = index.search(decoded, 10)
    np.testing.assert_array_equal(hits.ids, same.ids)
    np.testing.assert_allclose(hits.scores, same.scores, rtol=1e-4)  # Rounded to 16 bits for W·x.
    other = replace(users, model_id="another")
    with pytest.raises(InputError, match="codes of model another"):
        index.search(other, 10)
