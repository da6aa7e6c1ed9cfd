"""Batched k×k ridge least squares by Cholesky, compiled by numba."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _dot(a, b):
    total = np.float32(0)
    for t in range(a.shape[0]):
        total += a[t] * b[t]
    return total


@numba.njit(nogil=True, cache=True)
def refit(x, indices, weights, ridge, out, start, stop):
    """Rows start..stop: normal equations in float32 sums, factored in float64."""
    k = indices.shape[1]
    active = np.empty((k, weights.shape[1]), np.float32)
    gram = np.empty((k, k), np.float64)
    y = np.empty(k, np.float64)
    for i in range(start, stop):
        for a in range(k):
            active[a] = weights[indices[i, a]]
        for a in range(k):
            for b in range(a + 1):
                gram[a, b] = _dot(active[a], active[b])
            gram[a, a] += ridge
            y[a] = _dot(active[a], x[i])
        # In place: gram = L Lᵀ, then L z = y.
        for a in range(k):
            for b in range(a + 1):
                total = gram[a, b]
                for c in range(b):
                    total -= gram[a, c] * gram[b, c]
                gram[a, b] = np.sqrt(total) if a == b else total / gram[b, b]
            for c in range(a):
                y[a] -= gram[a, c] * y[c]
            y[a] /= gram[a, a]
        for a in range(k - 1, -1, -1):  # Lᵀ v = z.
            for c in range(a + 1, k):
                y[a] -= gram[c, a] * y[c]
            y[a] /= gram[a, a]
            out[i, a] = y[a]
