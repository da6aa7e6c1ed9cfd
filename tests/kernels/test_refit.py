import numpy as np
import pytest

from compressae.kernels.refit import error_reduction, reference, refit


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


@pytest.mark.parametrize(("n", "d", "h", "k"), [(1, 1, 1, 1), (5, 7, 65, 3), (20, 24, 64, 12)])
def test_explained_is_the_fall_of_the_error_with_each_latent(n, d, h, k):
    x, indices, weights = problem(n, d, h, k)
    left = [(x.astype(np.float64) ** 2).sum(1)]
    for count in range(1, k + 1):
        values = reference.refit(x, indices[:, :count], weights, 1e-9)
        rest = x - np.einsum("nk,nkd->nd", values, weights[indices[:, :count]])
        left.append((rest**2).sum(1))
    falls = -np.diff(np.array(left), axis=0).T
    np.testing.assert_allclose(error_reduction(x, indices, weights, ridge=1e-7), falls, atol=1e-4)
