"""Rescore rows of sparse codes with a dense query, exactly."""

from collections.abc import Callable

import numpy as np

from compressae.kernels.rescore import cpu

_NO_SCALES = np.empty(0, np.float32)
_ALL_ROWS = np.empty(0, np.int64)
_NO_TABLE = np.empty(0, np.float32)
#: float32 value of each float16 bit pattern; numba has no float16.
_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def rescore(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray | None,
    dense_query: np.ndarray,
    rows: np.ndarray | None,
) -> np.ndarray:
    """Dot products of a dense query with sparse rows (m,) float32.

    Equal to ``(csr @ dense_query)[rows]``, summed in float64 and rounded once.

    Args:
        indptr: (n + 1,) int64 CSR offsets.
        indices: (nnz,) unsigned latents.
        values: (nnz,) float32, float16 or int8.
        scales: (n,) float32 factor per row, or None.
        dense_query: (h,) float32 or float64.
        rows: (m,) integer row numbers; all rows when None.

    >>> indptr, indices = np.array([0, 2, 3]), np.array([0, 2, 1], np.uint32)
    >>> values, query = np.array([1, 2, 3], np.float32), np.array([1, 10, 100], np.float32)
    >>> rescore(indptr, indices, values, None, query, rows=np.array([1, 0]))
    array([ 30., 201.], dtype=float32)
    """
    if rows is not None and len(rows) == 0:
        return np.empty(0, np.float32)
    out = np.empty(len(indptr) - 1 if rows is None else len(rows), np.float32)
    codes = as_kernels_take(indptr, indices, values, scales)
    kernel: Callable[..., None] = cpu.rescore
    kernel(*codes, dense_query, _ALL_ROWS if rows is None else rows, out)
    return out


def as_kernels_take(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, scales: np.ndarray | None
) -> tuple[np.ndarray, ...]:
    """Convert codes to kernel arguments, since numba knows neither None nor float16.

    Returns:
        indptr, indices, values (float16 as uint16 bits), a table of float16 values or an empty
        array, scales or an empty array.
    """
    half = values.dtype == np.float16
    return (
        indptr,
        indices,
        values.view(np.uint16) if half else values,
        _HALF if half else _NO_TABLE,
        _NO_SCALES if scales is None else scales,
    )
