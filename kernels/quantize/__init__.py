"""Quantisation of a code's values.

Numpy arrays give numpy arrays, tensors on a GPU give tensors; ``backend`` is of
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
    """int8 with one scale a row: v ≈ codes · scales[row], the error at most half a scale.

    Args:
        values: (nnz,) float32, row i at ``indptr[i]:indptr[i + 1]``.
        indptr: (n + 1,) int64.
        threads: processors to use; all that the process may use when None.
        backend: see there.

    Returns:
        codes (nnz,) int8 in −127…127 and scales (n,) float32: max|v| / 127 of the row, 1 where
        that is zero.
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
    """Refit under quantisation: levels that together reconstruct each row best.

    Coordinate descent on ‖x − Σ_j levels[j, code_j]·W[id_j]‖²: each nonzero in turn takes the level
    nearest to what the others leave for it, so that later ones make up for earlier ones' rounding.
    No sweep after the first makes the error larger.

    Args:
        x: (n, d) float32 rows.
        indices: (n, k) int32, distinct within a row.
        values: (n, k) float32, the start: least-squares values.
        weights: (h, d) float32.
        levels: (≥ k, L) float32 array: the j-th nonzero of a row takes one of
            ``levels[j, :sizes[j]]``, the first of the nearest.
        sizes: (≥ k,) int array, 1 to 256.
        sweeps: passes over the nonzeros, 1 or more.
        threads: processors to use; all that the process may use when None.
        backend: see there.

    Returns:
        (n, k) uint8 numbers of levels.
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
