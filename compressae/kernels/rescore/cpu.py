"""Dot products of a dense query with sparse rows, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.intrinsics import prefetch

_AHEAD = 8  # Prefetch distance in rows, whose addresses are random.


@numba.njit(nogil=True, cache=True)
def rescore(indptr, indices, values, table, scales, dense_query, rows, out):
    """Score rows into out (m,); an empty ``table`` or ``scales`` means none, empty ``rows`` all."""
    count = out.shape[0]
    for r in range(count):
        row = rows[r] if rows.shape[0] else r
        if rows.shape[0] and r + 2 * _AHEAD < count:
            prefetch(indptr, np.uint64(rows[r + 2 * _AHEAD]))
        if rows.shape[0] and r + _AHEAD < count:
            a, b = indptr[rows[r + _AHEAD]], indptr[rows[r + _AHEAD] + 1]
            for s in range(a, b, 64 // indices.itemsize):
                prefetch(indices, s)
            for s in range(a, b, 64 // values.itemsize):
                prefetch(values, s)
        out[r] = dot(indptr, indices, values, table, scales, dense_query, row)


@numba.njit(nogil=True, cache=True)
def dot(indptr, indices, values, table, scales, dense_query, row):
    """Dot product of the query with one row, summed in float64, rounded once to float32."""
    total = 0.0
    for s in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
        value = np.float64(values[s])
        if table.shape[0]:
            value = np.float64(table[np.uint64(values[s])])
        total += np.float64(dense_query[np.uint64(indices[s])]) * value
    return np.float32(total * np.float64(scales[row]) if scales.shape[0] else total)
