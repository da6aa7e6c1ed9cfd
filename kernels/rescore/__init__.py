"""Exact scores of chosen rows for one dense query."""

import numpy as np

from compressae.kernels.rescore import cpu

_NO_SCALES = np.empty(0, np.float32)
_ALL_ROWS = np.empty(0, np.int64)


def rescore(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray | None,
    dense_query: np.ndarray,
    rows: np.ndarray | None,
) -> np.ndarray:
    """q · s of the given rows, equal to ``(csr @ q)[rows]`` up to float32 rounding.

    Args:
        indptr: (n + 1,) int64; indices (nnz,) unsigned; values (nnz,) float32 or int8: the codes.
        scales: (n,) float32 factors of the rows, or None.
        dense_query: (h,) float32.
        rows: (m,) int64 row numbers; all rows when None.

    Returns:
        (m,) float32.
    """
    if rows is not None and len(rows) == 0:
        return np.empty(0, np.float32)
    out = np.empty(len(indptr) - 1 if rows is None else len(rows), np.float32)
    cpu.rescore(
        indptr,
        indices,
        values,
        _NO_SCALES if scales is None else scales,
        dense_query,
        _ALL_ROWS if rows is None else rows,
        out,
    )
    return out
