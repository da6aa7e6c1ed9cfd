"""Exact and inverted search against brute force."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compressae import InputError
from compressae.retrieval import (
    Catalogue,
    ExactIndex,
    Hits,
    InvertedIndex,
    SparseCodes,
    exact_search,
)
from compressae.retrieval.index import exact as exact_module
from compressae.retrieval.index.postings import list_arrays, open_segment


def brute_force(scores, K):
    """Ids and scores of a stable descending sort, padded: the definition of Hits."""
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    found = np.take_along_axis(scores, ids, 1)
    pad = K - ids.shape[1]
    if pad > 0:
        ids = np.pad(ids, ((0, 0), (0, pad)), constant_values=-1)
        found = np.pad(found, ((0, 0), (0, pad)), constant_values=-np.inf)
    return ids, found


@st.composite
def sparse_problems(draw):
    """Items and queries of small integers: float32 sums are exact and ties abound."""
    n, h, q = draw(st.integers(1, 40)), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    cells = st.sampled_from([0, 0, 0, -2, -1, 1, 2])
    items = draw(arrays(np.float32, (n, h), elements=cells))
    queries = draw(arrays(np.float32, (q, h), elements=cells))
    return items, queries, draw(st.integers(1, 50))


@given(sparse_problems(), st.sampled_from([1, 2, 3]))
def test_inverted_search_is_brute_force_with_ties(problem, threads):
    items, queries, K = problem
    index = InvertedIndex(SparseCodes.from_scipy(scipy.sparse.csr_array(items)), threads)
    hits = index.search(scipy.sparse.csr_array(queries), K)
    ids, scores = brute_force((queries.astype(np.float64) @ items.T), K)
    empty = ~queries.any(axis=1)  # A query without nonzeros has no results.
    ids[empty], scores[empty] = -1, -np.inf
    np.testing.assert_array_equal(hits.ids, ids)
    np.testing.assert_array_equal(hits.scores, scores)
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float32
    alone = index.search(scipy.sparse.csr_array(queries[:1]), K)
    np.testing.assert_array_equal(alone.ids[0], hits.ids[0])


@pytest.mark.parametrize("values", ["float32", "float16", "int8"])
def test_a_saved_inverted_index_answers_alike(values, tmp_path):
    matrix = scipy.sparse.random_array((90, 30), density=0.2, rng=np.random.default_rng(0))
    codes = SparseCodes.from_scipy(matrix, values)
    index = InvertedIndex(codes)
    Catalogue.write(tmp_path / "lists", index)
    loaded = Catalogue.open(tmp_path / "lists").index
    before, after = index.search(codes, 10), loaded.search(codes.to_scipy(), 10)
    np.testing.assert_array_equal(before.ids, after.ids)
    stored = codes.to_scipy().toarray()
    expected = np.take_along_axis(stored @ stored.T, before.ids, 1)
    np.testing.assert_allclose(before.scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", ["docs", "values", "bounds", "scale", "ids", "factors"])
def test_lists_that_do_not_fit_are_refused(part):
    codes = SparseCodes.from_scipy(scipy.sparse.eye_array(4))
    index = InvertedIndex(codes, similarity="cosine", ids=[1, 2, 3, 5])
    arrays_ = list_arrays(index.segments.parts[0])
    assert len(open_segment(codes, arrays_, "index")) == 4
    wrong = arrays_["ids"][[0, 0, 1, 2]] if part == "ids" else arrays_[part][:-1]
    with pytest.raises(InputError, match="posting lists do not fit"):
        open_segment(codes, {**arrays_, part: wrong}, "index")
    for older in ("starts", "places"):
        with pytest.raises(InputError, match="older compressae; build the index again"):
            open_segment(codes, {**arrays_, older: arrays_["bounds"]}, "index")


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("list_type", ["int8", "float32"])
def test_lists_of_format_3_are_built_again(similarity, list_type):
    """They had one list a latent, and the offsets of its run."""
    codes = SparseCodes.from_scipy(scipy.sparse.random_array((50, 9), density=0.3, rng=0))
    (segment,) = InvertedIndex(codes, similarity=similarity, list_type=list_type).segments.parts
    arrays = list_arrays(segment)
    bounds = arrays["bounds"].reshape(9, 2, -1).sum(1, dtype=np.uint32)
    older = {**arrays, "bounds": bounds, "offsets": np.zeros(9, np.int64)}
    opened = open_segment(codes, older, "index")
    again = list_arrays(opened)
    assert again.keys() == arrays.keys() and opened.has_older_lists
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    for part in ("docs", "values", "bounds", "scale"):  # Nothing is built that no file holds.
        with pytest.raises(InputError, match="posting lists do not fit"):
            open_segment(codes, {**older, part: older[part][:-1]}, "index")
        with pytest.raises(InputError, match="posting lists do not fit"):
            open_segment(codes, {k: v for k, v in older.items() if k != part}, "index")


@pytest.mark.parametrize("form", ["csr", "unsorted", "repeated", "zeros", "csc", "coo", "torch"])
def test_queries_of_every_form_are_answered_alike(form):
    """A clean CSR matrix is read where it lies; others are brought into that form."""
    rng = np.random.default_rng(0)
    index = InvertedIndex(scipy.sparse.random_array((300, 40), density=0.3, rng=rng))
    clean = scipy.sparse.random_array((5, 40), density=0.3, rng=rng, dtype=np.float32).tocsr()
    want = index.search(clean, 9)
    queries = clean.copy()
    if form == "unsorted":
        for i in range(5):
            row = slice(queries.indptr[i], queries.indptr[i + 1])
            queries.indices[row], queries.data[row] = (
                queries.indices[row][::-1].copy(),
                queries.data[row][::-1].copy(),
            )
    elif form == "repeated":  # Halves of each value, one after the other.
        parts = (np.repeat(clean.data / 2, 2), np.repeat(clean.indices, 2), 2 * clean.indptr)
        queries = scipy.sparse.csr_array(parts, shape=clean.shape)
    elif form == "zeros":
        queries.data[:3] = 0
        want = index.search(scipy.sparse.csr_array(queries.toarray()), 9)
    elif form in ("csc", "coo"):
        queries = queries.asformat(form)
    elif form == "torch":
        queries = torch.from_numpy(clean.toarray()).to_sparse()
    before = queries.copy() if form != "torch" else None
    hits = index.search(queries, 9)
    np.testing.assert_array_equal(hits.ids, want.ids)
    np.testing.assert_allclose(hits.scores, want.scores, rtol=1e-6)
    if before is not None:  # The user's matrix is not changed.
        assert before.nnz == queries.nnz and (before != queries).nnz == 0


def test_sparse_queries_are_checked():
    index = InvertedIndex(SparseCodes.from_scipy(scipy.sparse.eye_array(4)))
    with pytest.raises(InputError, match="5 latents; expected 4"):
        index.search(scipy.sparse.eye_array(5), 1)
    with pytest.raises(InputError, match="dense queries go to CompressedIndex"):
        index.search(np.ones((1, 4)), 1)
    for K in (0, 2.5, True, "3"):
        with pytest.raises(InputError, match="expected a whole number of at least 1"):
            index.search(scipy.sparse.eye_array(4), K)
    with pytest.raises(InputError, match="NaN"):
        index.search(scipy.sparse.csr_array(np.array([[np.nan, 0, 0, 1]])), 1)


@pytest.mark.parametrize("block", [1, 7, 1 << 25])
def test_exact_search_is_brute_force_whatever_the_blocks(block, monkeypatch):
    monkeypatch.setattr(exact_module, "_BLOCK_NUMBERS", block * 16)
    monkeypatch.setattr(exact_module, "QUERY_BLOCK", 16)
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (60, 16)).astype(np.float32)  # Cosines are multiples of 1/8.
    queries = rng.choice([-1.0, 1.0], (5, 16)).astype(np.float32)
    ids, scores = brute_force(queries @ signs.T / 16, 70)
    for hits in (exact_search(signs * 3, queries, 70), ExactIndex(signs * 3).search(queries, 70)):
        np.testing.assert_array_equal(hits.ids, ids)
        np.testing.assert_array_equal(hits.scores, scores)


def test_hits_are_written_whole(tmp_path):
    hits = Hits(np.array([[3, -1]]), np.array([[0.5, -np.inf]], np.float32))
    hits.save(tmp_path / "hits.npz")
    with np.load(tmp_path / "hits.npz") as file:
        np.testing.assert_array_equal(file["ids"], hits.ids)
        np.testing.assert_array_equal(file["scores"], hits.scores)
    with pytest.raises(InputError, match="could not be written"):
        hits.save(tmp_path / "no" / "hits.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["hits.npz"]
