"""Refit: the best values for a given support.

Numpy arrays give numpy arrays, tensors on a GPU give tensors; ``backend`` is of
``compressae.kernels.backend``.
"""

from typing import Any

import numpy as np

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.refit import cpu
from compressae.kernels.threads import over_rows


def refit(
    x: Any,
    indices: Any,
    weights: Any,
    ridge: float = 1e-3,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """Values that reconstruct each row best from its latents.

    Equal to ``solve(W_i W_iᵀ + ridge·I, W_i x_i)`` with W_i = weights[indices[i]]; O(k²·d) a row.

    Args:
        x: (n, d) float32 rows; the ridge supposes unit length.
        indices: (n, k) int32, distinct within a row.
        weights: (h, d) float32, unit rows.
        ridge: keeps the system solvable where latents of a row are nearly parallel; above 0.
        threads: processors to use; all that the process may use when None.
        backend: see there.

    Returns:
        (n, k) float32.
    """
    if not ridge > 0:
        raise ValueError(f"ridge = {ridge}: expected more than 0")
    return _solve(x, indices, weights, ridge, False, threads, backend)


def explained(
    x: Any,
    indices: Any,
    weights: Any,
    ridge: float = 1e-4,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """By how much each latent, added to the ones before it, lessens a row's squared error.

    Equal (up to the ridge) to the differences of ‖x − W_iᵀ v‖² over the least-squares fits on the
    first 0, 1, …, k latents: the squares of L⁻¹ W_i x with L the Cholesky factor of W_i W_iᵀ.

    Args:
        x, indices, weights, ridge, threads, backend: as of ``refit``.

    Returns:
        (n, k) float32, ≥ 0.
    """
    return _solve(x, indices, weights, ridge, True, threads, backend)


def _solve(
    x: Any,
    indices: Any,
    weights: Any,
    ridge: float,
    gains: bool,
    threads: int | None,
    backend: Backend,
) -> Any:
    if uses_triton(x, backend):
        from compressae.kernels.refit import gpu

        return gpu.refit(x, indices, weights, ridge, gains)
    x, weights = np.ascontiguousarray(x), np.ascontiguousarray(weights)
    out = np.empty(indices.shape, np.float32)
    over_rows(lambda a, b: cpu.refit(x, indices, weights, ridge, out, gains, a, b), len(x), threads)
    return out
