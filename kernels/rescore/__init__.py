"""Exact scores of chosen rows for one dense query."""

from collections.abc import Callable

import numpy as np

from compressae.kernels.rescore import cpu

_NO_SCALES = np.empty(0, np.float32)
_ALL_ROWS = np.empty(0, np.int64)
_NO_TABLE = np.empty(0, np.float32)
#: What each float16 stands for, since numba knows no float16.
_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def rescore(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray | None,
    dense_query: np.ndarray,
    rows: np.ndarray | None,
) -> np.ndarray:
    """q · s of the given rows: ``(csr @ q)[rows]``, summed in float64 and rounded once.

    Args:
        indptr: (n + 1,) int64; indices (nnz,) unsigned; values (nnz,) float32, float16 or int8:
            the codes.
        scales: (n,) float32 factors of the rows, or None.
        dense_query: (h,) float32 or float64.
        rows: (m,) integer row numbers; all rows when None.

    Returns:
        (m,) float32.
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
    """Codes as kernels read them: indptr, indices, values, what float16 values stand for or an
    empty table, scales or an empty array."""
    half = values.dtype == np.float16
    return (
        indptr,
        indices,
        values.view(np.uint16) if half else values,
        _HALF if half else _NO_TABLE,
        _NO_SCALES if scales is None else scales,
    )
