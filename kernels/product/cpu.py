"""Integer products of matrix rows and a query, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.intrinsics import dot_i8_i16


@numba.njit(nogil=True, cache=True)
def product(rows, scales, queries, unit, out):
    """out (m, h) of the flat matrix (h·d,) int8 and queries (m, d) int16, d a multiple of 64."""
    d = queries.shape[1]
    for i in range(out.shape[0]):
        query = queries[i]
        for row in range(out.shape[1]):
            total = dot_i8_i16(rows, np.int64(row * d), query)
            out[i, row] = np.float32(np.float64(total) * unit[i]) * scales[row]


@numba.njit(nogil=True, cache=True)
def round_queries(x, room, rounded, unit):
    """Numbers up to 32,767, of a length up to ``room``; a query of zeros stays zeros."""
    for i in range(x.shape[0]):
        most, square = 0.0, 0.0
        for v in x[i]:
            most = max(most, abs(np.float64(v)))
            square += np.float64(v) * np.float64(v)
        if most == 0:
            unit[i] = 0
            continue
        scale = min(32767 / most, room / np.sqrt(square))
        for j in range(x.shape[1]):
            rounded[i, j] = np.rint(np.float64(x[i, j]) * scale)
        unit[i] = 1 / scale
