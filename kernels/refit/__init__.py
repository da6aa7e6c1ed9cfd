"""Refit: the best values for a given support."""

import numpy as np

from compressae.kernels.refit import cpu
from compressae.kernels.threads import over_rows


def refit(
    x: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    ridge: float = 1e-3,
    threads: int | None = None,
) -> np.ndarray:
    """Values that reconstruct each row best from its latents.

    Equal to ``solve(W_i W_iᵀ + ridge·I, W_i x_i)`` with W_i = weights[indices[i]]; O(k²·d) a row.

    Args:
        x: (n, d) float32 rows; the ridge supposes unit length.
        indices: (n, k) int32, distinct within a row.
        weights: (h, d) float32, unit rows.
        ridge: keeps the system solvable where latents of a row are nearly parallel; above 0.

    Returns:
        (n, k) float32.
    """
    if not ridge > 0:
        raise ValueError(f"ridge = {ridge}: expected more than 0")
    x, weights = np.ascontiguousarray(x), np.ascontiguousarray(weights)
    out = np.empty(indices.shape, np.float32)
    over_rows(lambda a, b: cpu.refit(x, indices, weights, ridge, out, False, a, b), len(x), threads)
    return out


def explained(
    x: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    ridge: float = 1e-4,
    threads: int | None = None,
) -> np.ndarray:
    """By how much each latent, added to the ones before it, lessens a row's squared error.

    Equal (up to the ridge) to the differences of ‖x − W_iᵀ v‖² over the least-squares fits on the
    first 0, 1, …, k latents: the squares of L⁻¹ W_i x with L the Cholesky factor of W_i W_iᵀ.

    Args:
        x, indices, weights, ridge, threads: as of ``refit``.

    Returns:
        (n, k) float32, ≥ 0.
    """
    x, weights = np.ascontiguousarray(x), np.ascontiguousarray(weights)
    out = np.empty(indices.shape, np.float32)
    over_rows(lambda a, b: cpu.refit(x, indices, weights, ridge, out, True, a, b), len(x), threads)
    return out
