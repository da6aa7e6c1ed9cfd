"""Sparse matrix products of S (n, h), k nonzeros per row, compiled by numba.

Each function fills rows start..stop of its output and sums in a fixed order, so results do not
depend on the number of threads.
"""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def decode(indices, values, weights, out, start, stop):
    """S @ W into out (n, d): sum the decoder rows of each row's latents."""
    k, d = indices.shape[1], weights.shape[1]
    for i in range(start, stop):
        row = out[i]
        row[:] = 0
        for j in range(k):
            w, v = weights[indices[i, j]], values[i, j]
            for t in range(d):
                row[t] += v * w[t]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def sampled_matmul(indices, rows, weights, out, start, stop):
    """rows @ W.T at indices, into out (n, k): one dot product per nonzero."""
    k, d = indices.shape[1], weights.shape[1]
    for i in range(start, stop):
        x = rows[i]
        for j in range(k):
            w = weights[indices[i, j]]
            total = x.dtype.type(0)
            for t in range(d):
                total += x[t] * w[t]
            out[i, j] = total


@numba.njit(nogil=True, cache=True)
def group_by_latent(indices, h):
    """Group the slots i·k + j of indices (n, k) by latent, with a counting sort.

    Latent l owns slots[starts[l]:starts[l + 1]], ascending; starts is (h + 1,) int64, slots (n·k,)
    int64.
    """
    # Count the slots of each latent; the running sum gives the start of its group.
    n, k = indices.shape
    starts = np.zeros(h + 1, np.int64)
    for i in range(n):
        for j in range(k):
            starts[indices[i, j] + 1] += 1
    for latent in range(h):
        starts[latent + 1] += starts[latent]

    # Scatter the slots into the groups, in order.
    fill = starts[:-1].copy()
    slots = np.empty(n * k, np.int64)
    for i in range(n):
        for j in range(k):
            latent = indices[i, j]
            slots[fill[latent]] = i * k + j
            fill[latent] += 1
    return starts, slots


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def second_moment(starts, slots, indices, values, out, start, stop):
    """S.T @ S into out (h, h), latents start..stop, of slots from ``group_by_latent``."""
    k = indices.shape[1]
    for latent in range(start, stop):
        total = out[latent]
        total[:] = 0
        for s in range(starts[latent], starts[latent + 1]):
            i = slots[s] // k
            v = values[i, slots[s] - i * k]
            for j in range(k):
                total[indices[i, j]] += v * values[i, j]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def sparse_t_matmul(starts, slots, values, rows, out, start, stop):
    """S.T @ rows into out (h, d), latents start..stop, of slots from ``group_by_latent``."""
    k, d = values.shape[1], rows.shape[1]
    for latent in range(start, stop):
        total = out[latent]
        total[:] = 0
        for s in range(starts[latent], starts[latent + 1]):
            i = slots[s] // k
            x, v = rows[i], values[i, slots[s] - i * k]
            for t in range(d):
                total[t] += v * x[t]
