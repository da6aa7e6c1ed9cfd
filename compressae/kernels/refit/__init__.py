"""Refit the values of a given support by least squares.

Numpy arrays return numpy arrays; tensors on a GPU return tensors. For ``backend`` see
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
    """Least-squares values (n, k) of each row on its latents.

    Equal to ``solve(W_i W_iᵀ + ridge·I, W_i x_i)`` with W_i = weights[indices[i]]; O(k²·d) per row.

    Args:
        x: (n, d) float32 rows; the ridge assumes unit length.
        indices: (n, k) int32, distinct within a row.
        weights: (h, d) float32, unit rows.
        ridge: above 0; it is needed if latents of a row are nearly parallel.
        threads: number of threads; every processor the process may use when None.
        backend: see the module.

    Returns:
        (n, k) float32.

    Raises:
        ValueError: the ridge is not above 0.

    >>> weights = np.array([[1, 0], [0.8, 0.6]], np.float32)
    >>> x, indices = np.array([[1, 0.5]], np.float32), np.array([[0, 1]], np.int32)
    >>> refit(x, indices, weights, ridge=1e-6).round(2)
    array([[0.33, 0.83]], dtype=float32)
    """
    if not ridge > 0:
        raise ValueError(f"ridge = {ridge}: expected more than 0")
    return _solve(x, indices, weights, ridge, False, threads, backend)


def error_reduction(
    x: Any,
    indices: Any,
    weights: Any,
    ridge: float = 1e-4,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """Error reduction of each successive latent (n, k).

    Equal (up to the ridge) to the differences of ‖x − W_iᵀ v‖² over the least-squares fits on the
    first 0, 1, …, k latents: the squares of L⁻¹ W_i x with L the Cholesky factor of W_i W_iᵀ.

    Args:
        x, indices, weights, ridge, threads, backend: see ``refit``.

    Returns:
        (n, k) float32, ≥ 0.

    >>> weights = np.array([[1, 0], [0.8, 0.6]], np.float32)
    >>> x, indices = np.array([[1, 0.5]], np.float32), np.array([[0, 1]], np.int32)
    >>> error_reduction(x, indices, weights, ridge=1e-6).round(2)
    array([[1.  , 0.25]], dtype=float32)
    """
    return _solve(x, indices, weights, ridge, True, threads, backend)


def _solve(
    x: Any,
    indices: Any,
    weights: Any,
    ridge: float,
    reductions: bool,
    threads: int | None,
    backend: Backend,
) -> Any:
    if uses_triton(x, backend):
        from compressae.kernels.refit import gpu

        return gpu.refit(x, indices, weights, ridge, reductions)
    x, weights = np.ascontiguousarray(x), np.ascontiguousarray(weights)
    out = np.empty(indices.shape, np.float32)
    over_rows(
        lambda a, b: cpu.refit(x, indices, weights, ridge, out, reductions, a, b), len(x), threads
    )
    return out
