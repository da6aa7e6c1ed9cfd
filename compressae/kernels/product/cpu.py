"""Integer products of matrix rows and queries, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.intrinsics import dot_i8_i16, dot_u4_i16


@numba.njit(nogil=True, cache=True)
def product(rows, scales, queries, unit, out):
    """Fill out (m, h) from a flat matrix (h·d,) int8 and queries (m, d) int16; 64 divides d."""
    d = queries.shape[1]
    for i in range(out.shape[0]):
        query = queries[i]
        for row in range(out.shape[1]):
            total = dot_i8_i16(rows, np.int64(row * d), query)
            out[i, row] = np.float32(np.float64(total) * unit[i]) * scales[row]


@numba.njit(nogil=True, cache=True)
def product_4_bits(rows, scales, queries, unit, out):
    """Fill out (m, h) from a flat matrix (h·d / 2,) uint8 of 4 bits an entry; see ``IntMatrix``."""
    d = queries.shape[1]
    for i in range(out.shape[0]):
        query = queries[i]
        offset = np.int64(0)  # Stored numbers are the entries plus 8.
        for number in query:
            offset += 8 * np.int64(number)
        for row in range(out.shape[1]):
            total = np.int64(dot_u4_i16(rows, np.int64(row * (d // 2)), query)) - offset
            out[i, row] = np.float32(np.float64(total) * unit[i]) * scales[row]


@numba.njit(nogil=True, cache=True)
def round_queries(x, limit, rounded, unit):
    """Scale queries to entries up to 32,767 and length up to ``limit``, and round them.

    A zero query stays zero, with unit 0.
    """
    for i in range(x.shape[0]):
        peak, square = 0.0, 0.0
        for v in x[i]:
            peak = max(peak, abs(np.float64(v)))
            square += np.float64(v) * np.float64(v)
        if peak == 0:
            unit[i] = 0
            continue
        scale = min(32767 / peak, limit / np.sqrt(square))
        for j in range(x.shape[1]):
            rounded[i, j] = np.rint(np.float64(x[i, j]) * scale)
        unit[i] = 1 / scale
