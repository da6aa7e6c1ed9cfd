import numpy as np
import pytest

from compressae.kernels.refit import reference, refit


def problem(n, d, h, k, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((h, d)).astype(np.float32)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    x = rng.standard_normal((n, d)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    indices = np.argsort(rng.random((n, h)), axis=1)[:, :k].astype(np.int32)
    return x, indices, weights


@pytest.mark.parametrize(
    ("n", "d", "h", "k"), [(1, 1, 1, 1), (5, 7, 65, 3), (63, 24, 64, 12), (9, 8, 20, 20)]
)
def test_matches_the_reference(n, d, h, k):
    x, indices, weights = problem(n, d, h, k)
    expected = reference.refit(x, indices, weights, 1e-3)
    np.testing.assert_allclose(refit(x, indices, weights), expected, rtol=2e-3, atol=2e-3)


def test_recovers_the_values_that_made_the_row():
    _, indices, weights = problem(20, 32, 64, 6)
    values = np.random.default_rng(1).standard_normal(indices.shape).astype(np.float32)
    x = np.einsum("nk,nkd->nd", values, weights[indices])
    np.testing.assert_allclose(refit(x, indices, weights, ridge=1e-7), values, atol=1e-3)


def test_parallel_latents_stay_finite():
    x, indices, weights = problem(4, 8, 6, 4)
    weights[:] = weights[0]
    values = refit(x, indices, weights)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, values[:, :1].repeat(4, 1), atol=1e-3)  # Shared evenly.


def test_thread_count_does_not_matter():
    problem_ = problem(31, 16, 64, 8)
    np.testing.assert_array_equal(refit(*problem_, threads=1), refit(*problem_, threads=3))


def test_refuses_a_ridge_of_zero():
    with pytest.raises(ValueError, match="ridge = 0: expected more than 0"):
        refit(*problem(2, 4, 8, 2), ridge=0)
