"""What a query leaves out is not found, and all else as if it were not there."""

import numpy as np
import pytest
import scipy.sparse
from factor_tables import N, factors, left_out_by_hand, seen_by

from compressae import InputError, TrainConfig, compress, encode_like, train
from compressae.kernels.backend import use
from compressae.kernels.sketch import BLOCK
from compressae.retrieval import (
    CompressedIndex,
    ExactIndex,
    GpuIndex,
    InvertedIndex,
    exact_search,
)

SEEN = seen_by()


@pytest.fixture(scope="module")
def table():
    return factors()


@pytest.fixture(scope="module")
def model(table):
    return train(table[0], TrainConfig(latents=128, nonzeros=4, steps=6, similarity="dot"))


@pytest.fixture(scope="module")
def index(model, table):
    pytest.importorskip("faiss", reason="needs faiss, which trains residual codes")
    codes = compress(model, table[0], nonzeros=4, residual_bytes=4)
    return CompressedIndex(model.projection, codes, projection_type="float32")


SEARCHES = {
    "scan": dict(candidates="all"),
    "lists": dict(candidates=120),
    "few terms": dict(candidates=200, query_nonzeros=2),
    "sparse": dict(scoring="sparse"),
    "reconstructed": dict(scoring="reconstructed", candidates="all"),
    "filtered": dict(candidates="all", allowed=np.arange(0, N, 3)),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_the_others_are_found_in_their_order(index, table, name):
    """Where every row is a result, those left out are missing and nothing else changes."""
    settings = {**SEARCHES[name], "candidates": "all"}
    if name == "sparse":
        settings.pop("candidates")
    whole = index.search(table[1], N, **settings)
    hits = index.search(table[1], 15, exclude=SEEN, **settings)
    for i, ids in enumerate(whole.ids):
        expected = ids[(ids >= 0) & ~np.isin(ids, SEEN[[i]].indices)][:15]
        np.testing.assert_array_equal(hits.ids[i], expected)


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_left_out_is_found_and_a_batch_equals_single_queries(index, table, name):
    hits = index.search(table[1], 15, exclude=SEEN, **SEARCHES[name])
    for i in range(0, len(table[1]), 7):
        assert not np.isin(hits.ids[i], SEEN[[i]].indices).any()
        alone = index.search(table[1][[i]], 15, exclude=SEEN[[i]], **SEARCHES[name])
        np.testing.assert_array_equal(alone.ids[0], hits.ids[i])


def test_candidates_are_as_many_as_without(index, table):
    """A query that leaves out its whole first list still gets the next ones."""
    first = index.search(table[1], 100, candidates=100).ids
    rows = np.repeat(np.arange(len(first)), 100)
    seen = scipy.sparse.csr_array((np.ones(first.size), (rows, first.ravel())), (len(first), N))
    hits = index.search(table[1], 100, candidates=100, exclude=seen)
    assert (hits.ids >= 0).all()
    assert not any(np.isin(a, b).any() for a, b in zip(hits.ids, first, strict=True))


def test_all_left_out_is_padding(index, table):
    everything = scipy.sparse.csr_array(np.ones((1, N)))
    for settings in (dict(candidates="all"), dict(candidates=50)):
        hits = index.search(table[1][:1], 5, exclude=everything, **settings)
        assert (hits.ids == -1).all() and (hits.scores == -np.inf).all()


def test_ids_of_added_and_removed_rows(model, table):
    items, queries = table
    codes = compress(model, items, nonzeros=4, residual_bytes=4)
    index = CompressedIndex(model.projection, codes, ids=np.arange(N) * 2)
    new = index.add(encode_like(model, items[1:40] * 1.5, index.codes))
    index.remove([2, 4])
    best = index.search(queries, 3).ids
    rows = np.repeat(np.arange(len(best)), 3)
    width = int(new.max()) + 10
    pairs = (np.ones(best.size), (rows, best.ravel()))
    seen = scipy.sparse.csr_array(pairs, shape=(len(best), width))
    wider = index.search(queries, 13).ids
    for settings in ({}, dict(candidates="all"), dict(candidates=60)):
        hits = index.search(queries, 10, exclude=seen, **settings)
        if settings.get("candidates") != 60:
            np.testing.assert_array_equal(hits.ids, wider[:, 3:])
        assert not any(np.isin(a, b).any() for a, b in zip(hits.ids, best, strict=True))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_exact_search_leaves_out(table, similarity):
    items, queries = table[0][1:-1], table[1]
    seen = seen_by(n=len(items))
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    expected = left_out_by_hand(queries @ (items if similarity == "dot" else unit).T, seen, 10)
    hits = exact_search(items, queries, 10, similarity, exclude=seen)
    np.testing.assert_array_equal(hits.ids, expected)
    np.testing.assert_array_equal(
        ExactIndex(items, similarity).search(queries, 10, exclude=seen).ids, expected
    )


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_sparse_rows_leave_out(similarity):
    rng = np.random.default_rng(0)
    rows = scipy.sparse.random_array((500, 200), density=0.05, rng=rng, format="csr")
    rows.data -= 0.4
    queries = rows[:30]
    seen = seen_by(users=30, n=500, each=40)
    lists = InvertedIndex(rows, similarity=similarity)
    whole = lists.search(queries, 500)
    hits = lists.search(queries, 12, exclude=seen)
    few = lists.search(queries, 12, allowed=np.arange(0, 500, 5), exclude=seen)
    for i, ids in enumerate(whole.ids):
        left = ids[(ids >= 0) & ~np.isin(ids, seen[[i]].indices)]
        np.testing.assert_array_equal(hits.ids[i], left[:12])
        np.testing.assert_array_equal(few.ids[i], left[left % 5 == 0][:12])


@pytest.mark.parametrize("name", ["scan", "sketches", "sparse", "filtered"])
def test_a_gpu_leaves_out(index, table, device, name):
    gpu = GpuIndex(index, device)
    queries, seen = table[1][:2], SEEN[:2]
    settings = SEARCHES["scan" if name == "sketches" else name]
    with use("numba"):
        expected = index.search(queries, 10, exclude=seen, **settings)
    if name == "sketches":  # All blocks but one, and as many more as a query leaves rows out.
        settings = {"candidates": N // BLOCK}
    found = gpu.search(queries, 10, exclude=seen, **settings)
    assert not any(np.isin(a, seen[[i]].indices).any() for i, a in enumerate(found.ids))
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (np.ones((60, N)), "ndarray; expected a scipy sparse matrix"),
        (scipy.sparse.csr_array((3, N)), r"shape \(3, 900\) for 60 queries"),
    ],
)
def test_other_forms_are_refused(index, table, pairs, said):
    with pytest.raises(InputError, match=f"exclude: .*{said}"):
        index.search(table[1], 5, exclude=pairs)


def test_the_callers_matrix_stays_as_it_is(index, table):
    """Explicit zeros are no pairs, and are not removed from what the caller holds."""
    first = index.search(table[1][:1], 1).ids[0, 0]
    pairs = scipy.sparse.csr_array(([0.0, 1.0], ([0, 0], [first, 5])), shape=(1, N))
    assert index.search(table[1][:1], 1, exclude=pairs).ids[0, 0] == first
    assert pairs.nnz == 2
