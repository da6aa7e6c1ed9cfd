"""Row-wise int8 quantisation, compiled by numba."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def quantize_rows(values, indptr, codes, scales, start, stop):
    for i in range(start, stop):
        peak = np.float32(0)
        for s in range(indptr[i], indptr[i + 1]):
            peak = max(peak, abs(values[s]))
        scale = peak / np.float32(127)
        if scale == 0:  # Empty and all-zero rows, and rows that float32 cannot scale.
            scale = np.float32(1)
        scales[i] = scale
        for s in range(indptr[i], indptr[i + 1]):
            codes[s] = np.int8(np.rint(values[s] / scale))
