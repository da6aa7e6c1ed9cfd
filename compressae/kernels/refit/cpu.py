"""Batched k×k ridge least squares by Cholesky, compiled by numba."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def dot(a, b):
    """Dot product in float32; the compiler may reorder the sum to vectorise it."""
    total = np.float32(0)
    for t in range(a.shape[0]):
        total += a[t] * b[t]
    return total


@numba.njit(nogil=True, cache=True)
def forward(gram, y, k, ridge, lower, z):
    """Factor lower·lowerᵀ = gram + ridge·I and solve lower·z = y, in float64."""
    for a in range(k):
        for b in range(a + 1):
            total = np.float64(gram[a, b])
            if a == b:
                total += ridge
            for c in range(b):
                total -= lower[a, c] * lower[b, c]
            lower[a, b] = np.sqrt(max(total, 1e-12)) if a == b else total / lower[b, b]
        total = np.float64(y[a])
        for c in range(a):
            total -= lower[a, c] * z[c]
        z[a] = total / lower[a, a]


@numba.njit(nogil=True, cache=True)
def backward(lower, k, z):
    """Solve lowerᵀ·v = z in place of z."""
    for a in range(k - 1, -1, -1):
        for c in range(a + 1, k):
            z[a] -= lower[c, a] * z[c]
        z[a] /= lower[a, a]


@numba.njit(nogil=True, cache=True)
def refit(x, indices, weights, ridge, out, reductions, start, stop):
    """Fill out (n, k), rows start..stop: values, or error reductions if ``reductions``."""
    k = indices.shape[1]
    active = np.empty((k, weights.shape[1]), np.float32)
    gram = np.empty((k, k), np.float32)
    lower = np.empty((k, k), np.float64)
    y = np.empty(k, np.float32)
    z = np.empty(k, np.float64)
    for i in range(start, stop):
        # Normal equations: gram = W_i W_iᵀ, y = W_i x_i.
        for a in range(k):
            active[a] = weights[indices[i, a]]
            y[a] = dot(active[a], x[i])
            for b in range(a + 1):
                gram[a, b] = dot(active[a], active[b])

        # z = L⁻¹ y: its squares are the error reductions, L⁻ᵀ z the values.
        forward(gram, y, k, ridge, lower, z)
        if reductions:
            for a in range(k):
                out[i, a] = z[a] * z[a]
        else:
            backward(lower, k, z)
            for a in range(k):
                out[i, a] = z[a]
