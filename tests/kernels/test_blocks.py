"""Bounds of blocks and scores of their rows."""

import numpy as np
import pytest
from scipy import sparse

from compressae.kernels.blocks import block_bounds, leading_latents, reference, score_blocks
from compressae.kernels.blocks.cpu import _PROBE
from compressae.kernels.rescore import as_kernels_take


def rows(n, h, seed, density=0.3):
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((n, h)).astype(np.float32)
    dense[rng.random((n, h)) >= density] = 0
    dense[rng.random(n) < 0.2] = 0
    csr = sparse.csr_array(dense)
    return dense, (csr.indptr.astype(np.int64), csr.indices.astype(np.uint32), csr.data)


@pytest.mark.parametrize(("n", "h", "size"), [(1, 1, 16), (63, 9, 16), (64, 65, 1), (65, 30, 7)])
@pytest.mark.parametrize("scaled", [False, True])
def test_bounds_are_the_reference_and_never_too_small(n, h, size, scaled):
    dense, csr = rows(n, h, n)
    factors = np.random.default_rng(1).random(n).astype(np.float32) if scaled else None
    starts, latents, values = block_bounds(*csr, factors, h, size)
    got = np.zeros((len(starts) - 1, 2 * h))
    got[np.repeat(np.arange(len(starts) - 1), np.diff(starts)), latents] = values
    if scaled:
        dense = dense.astype(np.float64) * factors[:, None]
    want = reference.block_bounds(dense, size)
    assert (got >= want).all() and ((got == 0) == (want == 0)).all()
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(("n", "h", "count"), [(1, 1, 4), (63, 9, 4), (65, 30, 1), (40, 3, 4)])
def test_leading_latents_are_the_reference(n, h, count):
    dense, csr = rows(n, h, n)
    whole = np.rint(3 * dense)  # Ties.
    for matrix in (dense, whole):
        one = sparse.csr_array(matrix)
        parts = (one.indptr.astype(np.int64), one.indices.astype(np.uint32), one.data)
        got = leading_latents(*parts, h, count)
        np.testing.assert_array_equal(got, reference.leading_latents(matrix, count))
    assert len(leading_latents(*csr, h, count)) == n


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("count", [1, 10, 300])
def test_scored_blocks_hold_the_best_or_say_that_they_do_not(masked, count):
    n, h, size = 1600, 20, 16
    dense, csr = rows(n, h, 3)
    rng = np.random.default_rng(0)
    codes = as_kernels_take(*csr, None)
    complete = 0
    for trial in range(30):
        query = np.zeros(h, np.float32)
        query[rng.permutation(h)[:4]] = rng.standard_normal(4)
        mask = rng.random(n) < 0.5 if masked else None
        scores = (dense.astype(np.float64) @ query).astype(np.float32)
        if masked:
            scores[~mask] = -np.inf
        bounds = np.maximum(scores.reshape(-1, size).max(1).astype(np.float64), 0) + 0.01
        order = np.argsort(-bounds)
        given = order[: rng.integers(1, len(order) + 1)]
        left = np.setdiff1d(order, given)
        rest = float(bounds[left].max(initial=-1.0))
        found = score_blocks(given, bounds[given], rest, codes, size, query, count, mask)
        np.testing.assert_allclose(found.scores, scores[found.rows], rtol=1e-6)
        assert len(set(found.rows)) == len(found.rows)
        best = np.sort(scores)[::-1][min(count, n) - 1]
        if found.complete:
            complete += 1
            assert set(np.flatnonzero(scores >= best)) <= set(found.rows), trial
        elif len(given) <= _PROBE:
            kth = np.sort(found.scores)[::-1][:count][-1] if len(found.rows) >= count else -np.inf
            assert rest >= kth
    assert complete > 3 if count < 300 else True


def test_blocks_are_given_up_where_too_many_could_matter():
    dense, csr = rows(2000, 10, 4, density=1)
    codes = as_kernels_take(*csr, None)
    many = np.arange(2000 // 16)
    args = (codes, 16, np.ones(10, np.float32), 10, None)
    found = score_blocks(many, np.full(len(many), 100.0), 0.0, *args)
    assert not found.complete and len(many) > _PROBE
    few = score_blocks(many[:5], np.full(5, 100.0), -1e9, *args)
    assert few.complete
    top = np.argsort(-dense[:80].sum(1))[:10]
    assert set(top) <= set(few.rows)
