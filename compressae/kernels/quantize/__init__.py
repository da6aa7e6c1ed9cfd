"""Quantise the values of sparse codes.

Numpy arrays return numpy arrays; tensors on a GPU return tensors. For ``backend`` see
``compressae.kernels.backend``.
"""

from typing import Any

import numpy as np

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.quantize import cpu
from compressae.kernels.threads import over_rows


def quantize_rows(
    values: Any, indptr: Any, threads: int | None = None, backend: Backend = "auto"
) -> tuple[Any, Any]:
    """Quantise values to int8 with one scale per row: v ≈ codes · scales[row].

    The error of a value is at most half a scale.

    Args:
        values: (nnz,) float32, row i at ``indptr[i]:indptr[i + 1]``.
        indptr: (n + 1,) int64.
        threads: number of threads; every processor the process may use when None.
        backend: see the module.

    Returns:
        codes (nnz,) int8 in −127…127 and scales (n,) float32: the row's max|v| / 127, or 1 if that
        is zero.

    >>> codes, scales = quantize_rows(np.array([127, -32, 254], np.float32), np.array([0, 2, 3]))
    >>> codes, scales
    (array([127, -32, 127], dtype=int8), array([1., 2.], dtype=float32))
    """
    if uses_triton(values, backend):
        from compressae.kernels.quantize import gpu

        return gpu.quantize_rows(values, indptr)
    codes, scales = np.empty(len(values), np.int8), np.empty(len(indptr) - 1, np.float32)
    over_rows(
        lambda a, b: cpu.quantize_rows(values, indptr, codes, scales, a, b), len(scales), threads
    )
    return codes, scales


def quantize_on_support(
    x: Any,
    indices: Any,
    values: Any,
    weights: Any,
    levels: np.ndarray,
    sizes: np.ndarray,
    sweeps: int = 3,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """Quantise values jointly: the levels that minimise the reconstruction error of a row.

    Coordinate descent on ‖x − Σ_j levels[j, code_j]·W[id_j]‖²: each nonzero in turn takes the level
    nearest to its least-squares value given the others, so later nonzeros compensate for the
    rounding of earlier ones. No sweep after the first increases the error.

    Args:
        x: (n, d) float32 rows.
        indices: (n, k) int32, distinct within a row.
        values: (n, k) float32 initial values, e.g. of ``refit``.
        weights: (h, d) float32.
        levels: (≥ k, L) float32 array: the j-th nonzero of a row takes one of
            ``levels[j, :sizes[j]]``, ties to the first.
        sizes: (≥ k,) int array, 1 to 256.
        sweeps: passes over the nonzeros, 1 or more.
        threads: number of threads; every processor the process may use when None.
        backend: see the module.

    Returns:
        codes (n, k) uint8: the index of each nonzero's level.

    >>> weights = np.array([[1, 0], [0.8, 0.6]], np.float32)
    >>> x, indices = np.array([[1, 0.5]], np.float32), np.array([[0, 1]], np.int32)
    >>> values = np.array([[0.33, 0.83]], np.float32)
    >>> levels = np.array([[0, 0.5, 1], [0, 0.5, 1]], np.float32)
    >>> quantize_on_support(x, indices, values, weights, levels, sizes=np.array([3, 3]))
    array([[1, 1]], dtype=uint8)
    """
    if uses_triton(x, backend):
        from compressae.kernels.quantize import gpu

        return gpu.quantize_on_support(x, indices, values, weights, levels, sizes, sweeps)
    x, weights = np.ascontiguousarray(x), np.ascontiguousarray(weights)
    codes = np.empty(indices.shape, np.uint8)
    over_rows(
        lambda a, b: cpu.quantize_on_support(
            x, indices, values, weights, levels, sizes, sweeps, codes, a, b
        ),
        len(x),
        threads,
    )
    return codes
