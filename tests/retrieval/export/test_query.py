"""Dense queries as sparse vectors for other engines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressae import InputError
from compressae.kernels.product import IntMatrix
from compressae.retrieval import Projection
from compressae.retrieval.export import sparse_query


def dense_products(model, x, similarity):
    x = np.asarray(x, np.float64)
    if similarity == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ model.projection.decoder.T.astype(np.float64)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_all_entries_are_the_product(model, queries, similarity):
    query = sparse_query(model.projection, 3 * queries, similarity=similarity)
    assert query.format == "csr" and query.dtype == np.float32
    expected = dense_products(model, 3 * queries, similarity)
    np.testing.assert_allclose(query.toarray(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nonzeros", [None, 7])
def test_a_decoder_of_four_bits_gives_its_products(nonzeros):
    rng = np.random.default_rng(0)
    rows = IntMatrix.of_entries(rng.integers(1, 8, (40, 10)).astype(np.int8))
    x = rng.standard_normal((6, 10)).astype(np.float32)
    query = sparse_query(Projection(rows, None, None, 4), x, nonzeros).toarray()
    expected = x / np.linalg.norm(x, axis=1, keepdims=True) @ rows.to_float32().T
    is_kept = query != 0
    assert (is_kept.sum(1) == (nonzeros or 40)).all()
    np.testing.assert_allclose(query[is_kept], expected[is_kept], rtol=0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), nonzeros=st.integers(1, 32), count=st.integers(1, 5))
def test_the_largest_entries_are_kept(model, seed, nonzeros, count):
    x = np.random.default_rng(seed).standard_normal((count, 10))
    query = sparse_query(model.projection, x, nonzeros)
    assert (np.diff(query.indptr) == nonzeros).all() and query.has_sorted_indices
    expected = np.abs(dense_products(model, x, "cosine"))
    for i in range(count):
        row = query[[i]]
        np.testing.assert_allclose(np.abs(row.data), expected[i, row.indices], atol=1e-5)
        others = np.delete(expected[i], row.indices)
        assert np.abs(row.data).min() >= others.max(initial=0) - 1e-5


def test_one_query_is_a_row(model, queries):
    one = sparse_query(model.projection, queries[0])
    np.testing.assert_array_equal(
        one.toarray(), sparse_query(model.projection, queries[:1]).toarray()
    )


def test_the_similarity_is_the_models_unless_told(model, queries):
    np.testing.assert_allclose(
        sparse_query(model.projection, 5 * queries).toarray(),
        sparse_query(model.projection, queries).toarray(),
        atol=1e-6,
    )
    zeros = np.zeros((1, 10))
    assert sparse_query(model.projection, zeros, similarity="dot").nnz == 0


@pytest.mark.parametrize(
    ("x", "settings", "said"),
    [
        (np.ones((2, 9)), {}, "9 columns; expected 10"),
        (np.ones((2, 10)), {"nonzeros": 0}, "expected 1 to 32"),
        (np.ones((2, 10)), {"nonzeros": 33}, "expected 1 to 32"),
        (np.full((1, 10), np.nan), {}, "NaN"),
        (np.zeros((1, 10)), {}, "zero"),
    ],
)
def test_bad_queries_are_refused(model, x, settings, said):
    with pytest.raises(InputError, match=said):
        sparse_query(model.projection, x, **settings)
