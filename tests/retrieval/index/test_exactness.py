"""Exact search equals brute force in float64, whatever the rows and the queries look like."""

import numpy as np
import pytest
import torch
from scipy import sparse

from compressae import InputError
from compressae.kernels.candidates import find_candidates
from compressae.retrieval import Catalogue, InvertedIndex, SparseCodes
from compressae.retrieval.index import inverted as inverted_module

KINDS = ("normal", "whole", "heavy", "positive", "few rows repeated", "one outlier")


def draw(rng, n, h, kind, density):
    """A dense (n, h) float64 matrix of float32 numbers."""
    rows = rng.standard_normal((n, h))
    if kind == "whole":
        rows = rng.integers(-2, 3, (n, h)).astype(float)
    elif kind == "heavy":
        rows = rows**7
    elif kind == "positive":
        rows = np.abs(rows)
    rows[rng.random((n, h)) >= density] = 0
    if kind == "few rows repeated":
        rows = rows[rng.integers(0, min(3, n), n)]
    if kind == "one outlier":
        rows[rng.integers(n), rng.integers(h)] = 1e6
    return rows.astype(np.float32).astype(np.float64)


def check(index, rows, queries, K, mask):
    """Ids and scores are those of a stable sort of float64 products rounded to float32; where
    float64 sums of another order round otherwise, the products are equal but for that. A query
    without nonzeros has no results."""
    hits = index.search(sparse.csr_array(queries.astype(np.float32)), K, mask)
    kept = np.arange(len(rows)) if mask is None else np.flatnonzero(mask)
    for query, ids, scores in zip(queries, hits.ids, hits.scores, strict=True):
        if not query.any():
            assert (ids == -1).all() and (scores == -np.inf).all()
            continue
        exact = rows[kept] @ query
        order = np.argsort(-exact.astype(np.float32), kind="stable")[:K]
        found = ids[: len(order)]
        assert (ids[len(order) :] == -1).all() and len(set(found)) == len(order)
        want = exact[order]
        slack = 1e-6 * np.abs(want) + 1e-12 * (np.abs(rows[found]) @ np.abs(query))
        if not np.array_equal(found, kept[order]):
            assert (np.abs(rows[found] @ query - want) <= slack).all()
        assert (np.abs(scores[: len(order)] - want) <= slack + 1e-38).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_pairs_of_awkward_shapes(seed, monkeypatch):
    """2,500 pairs a seed: ties, repeated rows, empty rows, lists and queries, K above n."""
    rng = np.random.default_rng(seed)
    for _ in range(500):
        n = int(rng.choice([1, 2, 63, 64, 65, 500, 3000]))
        h, kind = int(rng.choice([1, 2, 7, 64, 200])), rng.choice(KINDS)
        rows = draw(rng, n, h, kind, rng.choice([0.01, 0.1, 0.5, 1]))
        rows = (rows * 10.0 ** rng.integers(-15, 10)).astype(np.float32).astype(np.float64)
        queries = draw(rng, 5, h, rng.choice(["normal", "whole"]), rng.choice([0.05, 0.3, 1]))
        queries[0] = 0
        mask = rng.random(n) < rng.choice([0.01, 0.5]) if rng.random() < 0.4 else None
        monkeypatch.setattr(inverted_module, "_FEW", int(rng.choice([0, 4096])))
        monkeypatch.setattr(inverted_module, "_BOUNDED_FROM", int(rng.choice([0, 1 << 15])))
        stored = str(rng.choice(["int8", "float32"]))
        index = InvertedIndex(sparse.csr_array(rows.astype(np.float32)), list_type=stored)
        check(index, rows, queries, int(rng.choice([1, 3, 10, 100, n, n + 5])), mask)


@pytest.mark.parametrize("values", ["int8", "float32"])
@pytest.mark.parametrize("threads", [1, 3])
def test_windows_and_threads(values, threads):
    """Three windows, more queries than are read together."""
    rng = np.random.default_rng(0)
    rows = sparse.random_array((150_000, 40), density=0.1, rng=rng, dtype=np.float32)
    rows.data -= np.float32(0.3)
    queries = sparse.random_array((70, 40), density=0.3, rng=rng, dtype=np.float32)
    hits = InvertedIndex(rows, threads, list_type=values).search(queries, 12)
    scores = np.asarray((queries.astype(np.float64) @ rows.astype(np.float64).T).todense())
    order = np.argsort(-scores.astype(np.float32), axis=1, kind="stable")[:, :12]
    np.testing.assert_array_equal(hits.ids, order)
    np.testing.assert_array_equal(hits.scores, np.take_along_axis(scores, order, 1).astype("f4"))


def test_upper_bounds_are_summed_first_and_whole_sums_where_those_do_not_decide(monkeypatch):
    """Rows near one of 400 centres, and queries: near centres, decided; of noise, not; none."""
    rng = np.random.default_rng(0)
    centres = draw(rng, 400, 64, "normal", 0.2)
    near = np.repeat(centres, 100, axis=0)
    rows = near + 0.3 * (near != 0) * rng.standard_normal(near.shape)
    queries = np.concatenate([centres[:6], 1e-3 * rng.standard_normal((2, 64)), centres[6:9]])
    queries[4] = 0
    rows, queries = (part.astype(np.float32).astype(np.float64) for part in (rows, queries))
    index, calls = InvertedIndex(sparse.csr_array(rows.astype(np.float32)), threads=1), []

    def recorded(*args):
        calls.append((args[-1], len(args[1]) - 1))
        return find_candidates(*args)

    monkeypatch.setattr(inverted_module, "find_candidates", recorded)
    check(index, rows, queries, 20, None)
    assert calls[0] == (True, 11)
    undecided = sum(count for is_upper, count in calls if not is_upper)
    assert 1 <= undecided <= 4 and not any(is_upper for is_upper, _ in calls[1:])
    mask = rng.random(len(rows)) < 0.5
    check(index, rows, queries, 20, mask)


@pytest.mark.parametrize("stored", ["float32", "float16", "int8"])
def test_cosine_is_the_dot_product_of_unit_rows(stored):
    rng = np.random.default_rng(0)
    rows = sparse.random_array((500, 60), density=0.1, rng=rng, dtype=np.float32)
    codes = SparseCodes.from_scipy(rows, stored)
    queries = sparse.random_array((9, 60), density=0.2, rng=rng, dtype=np.float32)
    hits = InvertedIndex(codes, similarity="cosine").search(queries, 20)
    dense, asked = codes.to_scipy().toarray().astype(np.float64), queries.toarray()
    norms = np.linalg.norm(dense, axis=1)
    dense /= np.where(norms > 0, norms, 1)[:, None]
    scores = asked / np.linalg.norm(asked, axis=1, keepdims=True) @ dense.T
    found = np.take_along_axis(scores, hits.ids, 1)
    np.testing.assert_allclose(hits.scores, found, atol=1e-6)
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, :20], atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_vectors_of_learned_sparse_encoders():
    """h = 30,522, long ragged rows, none negative: sums need 32 bits; tensors as they come."""
    rng = np.random.default_rng(0)
    rows = sparse.random_array((1000, 30_522), density=0.006, rng=rng, dtype=np.float32)
    queries = sparse.random_array((20, 30_522), density=0.002, rng=rng, dtype=np.float32)
    index = InvertedIndex(rows)
    assert index.segments.parts[0].lists.norm > 300
    check(index, rows.toarray().astype(np.float64), queries.toarray().astype(np.float64), 30, None)
    coo = rows.tocoo()
    tensor = torch.sparse_coo_tensor(np.array(coo.coords), coo.data, rows.shape)
    same = InvertedIndex(tensor).search(torch.from_numpy(queries.toarray()).to_sparse_csr(), 30)
    np.testing.assert_array_equal(same.ids, index.search(queries, 30).ids)
    with pytest.raises(InputError, match="Tensor; expected a scipy sparse matrix"):
        InvertedIndex(torch.ones(2, 2))
    with pytest.raises(InputError, match="expected a sparse torch tensor"):
        SparseCodes.from_torch(torch.ones(2, 2))


def test_more_latents_than_sixteen_bits():
    rng = np.random.default_rng(0)
    rows = sparse.random_array((200, 70_000), density=0.001, rng=rng, dtype=np.float32)
    index = InvertedIndex(rows)
    check(index, rows.toarray().astype(np.float64), rows.toarray()[:5].astype(np.float64), 9, None)


def test_bad_settings_are_refused():
    for wrong in ({"similarity": "euclid"}, {"list_type": "int4"}):
        with pytest.raises(InputError, match="expected dot or cosine, int8 or float32"):
            InvertedIndex(sparse.eye_array(3), **wrong)


def test_lists_take_three_bytes_a_nonzero_and_are_mapped_from_disk(tmp_path):
    rows = sparse.random_array((70_000, 50), density=0.2, rng=np.random.default_rng(0))
    index = InvertedIndex(rows)
    nnz = index.codes.nnz
    assert index.list_nbytes == 3 * nnz + 100 * (4 * 3 + 8)
    assert index.nbytes == index.list_nbytes + index.codes.nbytes
    Catalogue.write(tmp_path / "index", index)
    lists = Catalogue.open(tmp_path / "index").index.segments.parts[0].lists
    for array in (lists.docs, lists.values, lists.bounds):
        while not isinstance(array, np.memmap):
            array = array.base
        assert str(tmp_path) in str(array.filename)


@pytest.mark.parametrize("values", ["int8", "float32"])
@pytest.mark.parametrize("weak", [9, 90, 1000])
def test_windows_that_are_unlike(values, weak):
    """Few and weak rows in the first window, many strong ones in the second: what was counted in
    the first must not stand for rows of the second."""
    rng = np.random.default_rng(weak)
    rows = sparse.lil_array((85_000, 8), dtype=np.float32)
    places = rng.permutation(60_000)[:weak]
    rows[places, np.zeros(weak, int)] = rng.uniform(0.01, 0.02, weak)
    rows = sparse.csr_array(rows)
    strong = sparse.csr_array(rng.uniform(0.2, 1, (10_000, 8)).astype(np.float32))
    rows = sparse.csr_array(sparse.vstack([rows[:70_000], strong, rows[80_000:]]))
    queries = sparse.csr_array(rng.uniform(0.1, 1, (9, 8)).astype(np.float32))
    index = InvertedIndex(rows, list_type=values)
    for K in (10, 100, 1000):
        check(index, rows.toarray().astype(np.float64), queries.toarray().astype("f8"), K, None)


@pytest.mark.parametrize("values", ["int8", "float32"])
def test_sums_at_their_very_limit(values):
    """Query and row alike, so long that rounding in float32 goes past the limit."""
    row = np.ones((1, 23_000), np.float32)
    index = InvertedIndex(sparse.csr_array(np.concatenate([row, row / 2])), list_type=values)
    hits = index.search(sparse.csr_array(row), 2)
    assert hits.ids.tolist() == [[0, 1]] and hits.scores.tolist() == [[23_000, 11_500]]


@pytest.mark.parametrize("factor", [1e-39, 1e-30, 1, 1e30])
def test_cosine_does_not_depend_on_lengths(factor):
    rng = np.random.default_rng(0)
    rows = draw(rng, 300, 20, "normal", 0.4)
    queries = draw(rng, 6, 20, "normal", 0.5)
    plain = InvertedIndex(sparse.csr_array(rows.astype(np.float32)), similarity="cosine")
    scaled = sparse.csr_array((rows * factor).astype(np.float32))
    index = InvertedIndex(scaled, similarity="cosine")
    want = plain.search(sparse.csr_array(queries.astype(np.float32)), 20)
    got = index.search(sparse.csr_array((queries * factor).astype(np.float32)), 20)
    atol = 1e-4 if factor == 1e-39 else 1e-6  # Such small numbers have few digits.
    np.testing.assert_allclose(got.scores, want.scores, atol=atol)
    assert (np.diff(got.scores, axis=1) <= 0).all()
    order = [np.lexsort((i, -s)).tolist() for i, s in zip(got.ids, got.scores, strict=True)]
    assert order == [list(range(20))] * 6
    plain.add(sparse.csr_array(np.eye(1, 20, dtype=np.float32) * np.float32(1e-39)))
    assert (plain.search(sparse.csr_array(queries.astype(np.float32)), 20).ids >= 0).all()


def test_latents_given_twice_are_refused():
    indptr, values = np.array([0, 1, 3]), np.ones(3, np.float32)
    for h in (5, 1 << 23):
        with pytest.raises(InputError, match="row 1 holds a latent twice"):
            SparseCodes.from_arrays(indptr, np.array([4, 4, 4]), values, h)
        assert len(SparseCodes.from_arrays(indptr, np.array([4, 4, 3]), values, h)) == 2


def test_complex_matrices_are_refused():
    with pytest.raises(InputError, match="complex128: expected real numbers"):
        InvertedIndex(sparse.eye_array(3, dtype=complex))
