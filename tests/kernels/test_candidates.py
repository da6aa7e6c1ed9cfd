"""Posting lists in windows, and the candidates that integer sums over them give."""

import numpy as np
import pytest
from scipy import sparse

from compressae.kernels import candidates as module
from compressae.kernels import postings as lists_module
from compressae.kernels.candidates import cpu, find_candidates, reference
from compressae.kernels.intrinsics import at_least, lowest_bit
from compressae.kernels.postings import build_postings, touched
from compressae.kernels.postings import reference as postings_reference


def rows(n, h, seed, kind="normal", density=0.2):
    """A CSR matrix with empty rows and lists."""
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((n, h))
    if kind == "whole":
        dense = rng.integers(-9, 10, (n, h)).astype(float)
    elif kind == "heavy":
        dense **= 5
    dense[rng.random((n, h)) >= density] = 0
    dense[rng.random(n) < 0.2] = 0
    return sparse.csr_array(dense.astype(np.float32))


def build(csr, values=np.int8, factors=None, threads=None):
    indptr, ids = csr.indptr.astype(np.int64), csr.indices.astype(np.uint32)

    def read(start, stop):
        bounds = indptr[start : stop + 1]
        here = slice(bounds[0], bounds[-1])
        own = None if factors is None else factors[start:stop]
        return bounds - bounds[0], ids[here], csr.data[here], own

    number = csr if factors is None else sparse.diags_array(factors) @ csr
    largest = float(abs(number).max()) if csr.nnz else 0.0
    return build_postings(read, np.diff(indptr), csr.shape[1], largest, values, threads), read


@pytest.mark.parametrize("values", [np.int8, np.float32])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("n", "h", "density"),
    [(1, 1, 1), (63, 65, 0.2), (64, 3, 1), (65_536, 5, 0.1), (65_537, 5, 0.1), (140_000, 3, 0.05)],
)
def test_postings_are_the_reference_window_by_window(n, h, density, scaled, values):
    csr = rows(n, h, n + h, density=density)
    factors = np.random.default_rng(0).random(n).astype(np.float32) if scaled else None
    made, read = build(csr, values, factors)
    norms, errors = [], []
    windows = -(-n // 65_536)
    assert made.bounds.shape == (2 * h, windows + 1) and len(made.offsets) == 2 * h
    for w in range(windows):
        indptr, ids, numbers, own = read(65_536 * w, min(65_536 * (w + 1), n))
        ones = np.ones(len(indptr) - 1, np.float32)
        bounds, docs, stored, norm, error = postings_reference.build_window(
            indptr, ids, numbers, ones if own is None else own, made.step, h, values
        )
        starts, ends = (made.offsets + made.bounds.T[part].astype(np.int64) for part in (w, w + 1))
        np.testing.assert_array_equal(ends - starts, np.diff(bounds))
        where = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
        np.testing.assert_array_equal(made.docs[where], docs)
        np.testing.assert_array_equal(made.values[where], stored)
        norms.append(norm)
        errors.append(error)
    assert made.docs.dtype == np.uint16 and made.values.dtype == values
    np.testing.assert_allclose([made.norm, made.error], np.sqrt([max(norms), max(errors)]), 1e-6)
    assert made.norm >= np.sqrt(max(norms)) and made.error >= np.sqrt(max(errors))
    two, _ = build(csr, values, factors, threads=3)
    np.testing.assert_array_equal(made.docs, two.docs)
    np.testing.assert_array_equal(made.values, two.values)
    latents = np.arange(h)[::2]
    flags = np.diff(csr[:, latents].indptr) > 0
    np.testing.assert_array_equal(touched(made, latents), flags)


def weigh(made, bounds, latents, values, limit):
    """Weights (nnz,) of the queries' latents, whose lists all hold both signs; bands and units."""
    m, nnz = len(bounds) - 1, len(latents)
    list_bounds, lists, weights = np.empty(m + 1, int), np.empty(2 * nnz, int), np.empty(2 * nnz)
    bands, unit = np.empty(m, np.int64), np.empty(m)
    cpu.weigh(
        bounds, latents, values, limit, made.norm, made.error, 127, made.step, made.bounds, False,
        list_bounds, lists, weights, bands, unit,
    )  # fmt: skip
    np.testing.assert_array_equal(list_bounds, 2 * bounds)
    np.testing.assert_array_equal(lists.reshape(-1, 2), 2 * latents[:, None] + [0, 1])
    assert (weights[::2] == weights[1::2]).all()
    return weights[::2].astype(np.int64), bands, unit


@pytest.mark.parametrize("kind", ["normal", "whole", "heavy"])
@pytest.mark.parametrize("short", [0, 10_000])
def test_integer_weights_neither_overflow_nor_stray_beyond_the_bound(kind, short, monkeypatch):
    """With sums of 16 bits and of 32."""
    monkeypatch.setattr(module, "_SHORT", short)
    csr = rows(300, 40, 5, kind, density=0.5)
    made, _ = build(csr)
    limit = 32767 if short else (1 << 24) - 1
    rng = np.random.default_rng(1)
    for m in (1, 2, 7, 40):
        latents = rng.permutation(40)[:m]
        values = (rng.standard_normal(m) ** 3).astype(np.float32)
        weights, bands, unit = weigh(made, np.array([0, m]), latents, values, limit)
        stored = np.zeros((300, 40))
        for i in range(80):
            a, b = made.offsets[i] + made.bounds[i]
            stored[made.docs[a:b], i // 2] = made.values[a:b]
        worst = np.abs(stored[:, latents] * weights).sum(1)  # No partial sum is larger ...
        assert np.linalg.norm(weights) * made.norm <= limit + 1e-6
        assert (np.abs(stored @ np.eye(40)[latents].T @ weights) <= limit).all()
        assert (worst <= np.linalg.norm(weights) * np.linalg.norm(stored, axis=1).max() * 7).all()
        sums = reference.sums(made, latents, weights)
        exact = csr.toarray().astype(np.float64)[:, latents] @ values.astype(np.float64)
        assert (np.abs(sums * unit[0] - exact) * 2 <= bands[0] * unit[0]).all()


@pytest.mark.parametrize("values", [np.int8, np.float32])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("excluding", [False, True], ids=["none", "excluded"])
@pytest.mark.parametrize(("n", "h"), [(1, 1), (63, 9), (300, 40), (65_600, 6)])
def test_candidates_are_the_reference(n, h, excluding, masked, values):
    csr = rows(n, h, n + h)
    made, _ = build(csr, values)
    rng = np.random.default_rng(2)
    queries = rows(35, h, 7, density=0.6)
    mask = rng.random(n) < 0.5 if masked else None
    excluded = None
    if excluding:  # A third of the rows of each query, and none of the last's.
        seen = [np.flatnonzero(rng.random(n) < 1 / 3) for _ in range(34)] + [np.empty(0, int)]
        excluded = np.cumsum([0, *map(len, seen)]), np.concatenate(seen)
    dense = csr.toarray().astype(np.float64)
    bounds, ids = queries.indptr.astype(np.int64), queries.indices.astype(np.uint32)
    for count in (1, 10, n, n + 3):
        for exact in (True, False):
            got = find_candidates(made, bounds, ids, queries.data, count, exact, mask, excluded)
            for i in range(35):
                mine = slice(bounds[i], bounds[i + 1])
                scores = dense[:, ids[mine]] @ queries.data[mine].astype(np.float64)
                if mask is not None:
                    scores[~mask] = -np.inf
                if excluding:
                    scores[seen[i]] = -np.inf
                found = got.rows[i]
                assert (np.diff(found) > 0).all()
                slack = 2.5e-2 * np.linalg.norm(queries.data[mine]) * np.abs(dense).max() * h
                np.testing.assert_allclose(got.scores[i] * got.unit[i], scores[found], atol=slack)
                best = np.sort(scores)[::-1][: count + 1]
                wanted = np.flatnonzero(scores >= best[min(count, n) - 1])
                if got.complete[i] and exact:
                    assert set(wanted) <= set(found)
                if not got.complete[i] and exact and len(found) >= count:
                    assert len(found) >= min(count, (scores > 0).sum())


def test_candidates_are_those_within_the_band_of_the_kth_sum():
    """Against the definition, on the sums themselves; thresholds are whole bins of 1/4096."""
    csr = rows(5000, 30, 3, density=0.3)
    made, _ = build(csr)
    queries = rows(40, 30, 4, density=0.5)
    bounds, ids = queries.indptr.astype(np.int64), queries.indices.astype(np.uint32)
    weights, bands, _ = weigh(made, bounds, ids, queries.data, 32767)
    for exact in (True, False):
        got = find_candidates(made, bounds, ids, queries.data, 25, exact)
        for i in range(40):
            mine = slice(bounds[i], bounds[i + 1])
            sums = reference.sums(made, ids[mine].astype(np.int64), weights[mine])
            band = int(bands[i]) if exact else 0
            least, most = (reference.candidates(sums, 25, b) for b in (band, band + 8))
            assert set(least) <= set(got.rows[i]) <= set(most)
            np.testing.assert_array_equal(got.scores[i], sums[got.rows[i]])


@pytest.mark.parametrize("values", [np.int8, np.float32])
def test_upper_bounds_are_sums_of_the_products_that_are_positive(values):
    csr = rows(5000, 30, 3, density=0.3)
    made, _ = build(csr, values)
    queries = rows(40, 30, 4, density=0.5)
    bounds, ids = queries.indptr.astype(np.int64), queries.indices.astype(np.uint32)
    dense = csr.toarray().astype(np.float64)
    got = find_candidates(made, bounds, ids, queries.data, 25, False, upper=True)
    weights, _, _ = weigh(made, bounds, ids, queries.data, 32767)
    decided = 0
    for i in range(40):
        mine = slice(bounds[i], bounds[i + 1])
        if values == np.int8:
            sums = reference.sums(made, ids[mine].astype(np.int64), weights[mine], upper=True)
            np.testing.assert_array_equal(got.scores[i], sums[got.rows[i]])
        products = dense[:, ids[mine]] * queries.data[mine].astype(np.float64)
        above, scores = np.maximum(products, 0).sum(1), products.sum(1)
        unit, slack = got.unit[i], got.slack[i] * got.unit[i]
        np.testing.assert_allclose(got.scores[i] * unit, above[got.rows[i]], atol=slack + 1e-6)
        if ids[mine].size:
            assert len(got.rows[i]) >= 25
        others = np.setdiff1d(np.arange(5000), got.rows[i])
        assert (above[others] <= got.floor[i] * unit + slack).all()
        least = float(np.sort(scores)[-3])
        if got.is_below(i, least):
            decided += 1
            assert (scores[others] < least).all()
    assert decided > 20  # Else nothing was tried.


def test_rows_that_lists_cannot_tell_apart_leave_no_floor():
    csr = sparse.csr_array(np.ones((20_000, 1), np.float32))
    got = find_candidates(build(csr)[0], np.array([0, 1]), np.array([0], np.uint32),
                          np.ones(1, np.float32), 10, False, upper=True)  # fmt: skip
    assert got.floor[0] == np.inf and not got.is_below(0, 1e30)


def test_many_equal_sums_are_not_complete():
    csr = sparse.csr_array(np.ones((20_000, 1), np.float32))
    got = find_candidates(build(csr)[0], np.array([0, 1]), np.array([0], np.uint32),
                          np.ones(1, np.float32), 10, True)  # fmt: skip
    assert not got.complete[0]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_sixty_four_are_compared_at_once(dtype):
    import numba

    @numba.njit
    def mask_and_lowest(data, at, least):
        word = at_least(data, at, least)
        return word, lowest_bit(word) if word else 99

    data = np.random.default_rng(0).integers(-5, 6, 200).astype(dtype)
    for at in (0, 1, 63, 136):
        for least in (-5, 0, 5, 6):
            word, lowest = mask_and_lowest(data, at, dtype(least))
            want = data[at : at + 64] >= least
            assert [bool(int(word) >> i & 1) for i in range(64)] == want.tolist()
            assert lowest == (int(np.argmax(want)) if want.any() else 99)


def test_a_window_is_what_sixteen_bits_name():
    assert lists_module.WINDOW == 1 << 16
