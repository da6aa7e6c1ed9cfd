"""Quantisation of values, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.refit.cpu import dot


@numba.njit(nogil=True, cache=True)
def quantize_rows(values, indptr, codes, scales, start, stop):
    """Fill codes (nnz,) int8 and scales (n,) float32 of rows start..stop."""
    for i in range(start, stop):
        peak = np.float32(0)
        for s in range(indptr[i], indptr[i + 1]):
            peak = max(peak, abs(values[s]))
        scale = peak / np.float32(127)
        if scale == 0:  # Empty rows, zero rows, and rows whose scale underflows.
            scale = np.float32(1)
        scales[i] = scale
        for s in range(indptr[i], indptr[i + 1]):
            codes[s] = np.int8(np.rint(values[s] / scale))


@numba.njit(nogil=True, cache=True)
def quantize_on_support(x, indices, values, weights, levels, sizes, sweeps, codes, start, stop):
    """Fill codes (n, k) uint8 of rows start..stop by coordinate descent."""
    k = indices.shape[1]
    gram = np.empty((k, k), np.float32)
    y = np.empty(k, np.float32)
    v = np.empty(k, np.float32)
    for i in range(start, stop):
        # Normal equations of the row: gram = W_i W_iᵀ, y = W_i x_i.
        for a in range(k):
            w = weights[indices[i, a]]
            y[a] = dot(w, x[i])
            v[a] = values[i, a]
            for b in range(a + 1):
                gram[a, b] = gram[b, a] = dot(w, weights[indices[i, b]])

        # Round each value to the level nearest to its optimum, the others fixed.
        for _ in range(sweeps):
            for a in range(k):
                target = y[a] + gram[a, a] * v[a]
                for b in range(k):
                    target -= gram[a, b] * v[b]
                target /= max(gram[a, a], np.float32(1e-12))
                nearest = 0
                for c in range(1, sizes[a]):
                    if abs(levels[a, c] - target) < abs(levels[a, nearest] - target):
                        nearest = c
                codes[i, a] = nearest
                v[a] = levels[a, nearest]
