"""Dot products of a dense query with sparse rows, compiled by numba."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def rescore(indptr, indices, values, scales, dense_query, rows, out):
    """``scales`` or ``rows`` of length 0 stand for none and for all rows."""
    for r in range(out.shape[0]):
        row = rows[r] if rows.shape[0] else r
        total = np.float32(0)
        for s in range(indptr[row], indptr[row + 1]):
            total += dense_query[indices[s]] * np.float32(values[s])
        out[r] = total * scales[row] if scales.shape[0] else total
