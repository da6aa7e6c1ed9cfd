import numpy as np
import pytest

from compressae.kernels.quantize import quantize_on_support, reference
from compressae.kernels.refit import refit


def problem(n, d, h, k, seed=0):
    rng = np.random.default_rng(seed)
    weights, x = (rng.standard_normal((rows, d)).astype(np.float32) for rows in (h, n))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    indices = np.argsort(rng.random((n, h)), axis=1)[:, :k].astype(np.int32)
    return x, indices, refit(x, indices, weights), weights


def errors(x, indices, values, weights):
    return ((x - np.einsum("nk,nkd->nd", values, weights[indices])) ** 2).sum(1)


LEVELS = np.tile(np.linspace(-0.6, 0.6, 8, dtype=np.float32), (12, 1))


@pytest.mark.parametrize(("n", "d", "h", "k"), [(1, 1, 1, 1), (5, 7, 65, 3), (40, 24, 64, 12)])
@pytest.mark.parametrize("sweeps", [1, 3])
def test_matches_the_reference(n, d, h, k, sweeps):
    x, indices, values, weights = problem(n, d, h, k)
    sizes = np.resize([8, 4, 2], k)
    got = quantize_on_support(x, indices, values, weights, LEVELS, sizes, sweeps)
    expected = reference.quantize_on_support(x, indices, values, weights, LEVELS, sizes, sweeps)
    assert (got == expected).mean() > 0.98  # Halfway between two levels, rounding decides.
    assert (got < sizes).all() and got.dtype == np.uint8


def test_it_is_better_than_rounding_and_sweeps_never_make_it_worse():
    x, indices, values, weights = problem(300, 16, 40, 10)
    sizes = np.full(10, 8)
    rounded = np.abs(LEVELS[0, :, None, None] - values).argmin(0)
    before, least = (errors(x, indices, v, weights) for v in (LEVELS[0][rounded], values))
    for sweeps in (1, 2, 4):
        codes = quantize_on_support(x, indices, values, weights, LEVELS, sizes, sweeps)
        after = errors(x, indices, LEVELS[0][codes], weights)
        if sweeps == 1:
            assert (after - least).mean() < 0.8 * (before - least).mean()
        else:
            assert (after <= before + 1e-5).all()
        before = after


def test_values_that_are_levels_stay():
    x, indices, _, weights = problem(20, 16, 40, 4)
    chosen = np.random.default_rng(1).integers(0, 8, indices.shape)
    values = LEVELS[0][chosen]
    x = np.einsum("nk,nkd->nd", values, weights[indices])
    codes = quantize_on_support(x, indices, values, weights, LEVELS, np.full(4, 8))
    np.testing.assert_array_equal(codes, chosen)
