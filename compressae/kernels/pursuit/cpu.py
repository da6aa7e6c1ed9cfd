"""Steps of orthogonal matching pursuit over batches of rows, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.refit.cpu import backward, dot, forward


@numba.njit(nogil=True, cache=True)
def strongest(keys, chosen, filled, count, start, stop):
    """Select the ``count`` largest keys of rows start..stop into chosen[:, filled:filled + count].

    keys (n, h) are unsigned integers that order like magnitudes. Keys of selected latents are set
    to zero.
    """
    for i in range(start, stop):
        row = keys[i]
        for a in range(filled):
            row[chosen[i, a]] = 0
        for a in range(filled, filled + count):
            # Maximum, then its position: two plain passes vectorise, one argmax does not.
            largest = row[0]
            for j in range(row.shape[0]):
                largest = max(largest, row[j])
            j = 0
            while row[j] != largest:
                j += 1
            if largest == 0:  # No correlation is left: take the first latent not yet selected.
                j = 0
                while np.any(chosen[i, :a] == j):
                    j += 1
            chosen[i, a] = j
            row[j] = 0


@numba.njit(nogil=True, cache=True)
def extend(x, weights, chosen, filled, k, ridge, gram, y, values, residual, start, stop):
    """Refit rows start..stop on their first k latents; gram holds the first ``filled`` already.

    gram (n, K, K) and y (n, K) float32 are the latents' dot products with one another and with the
    row. Outputs: values (n, K) and residual (n, d).
    """
    lower = np.empty((k, k), np.float64)
    v = np.empty(k, np.float64)
    for i in range(start, stop):
        # Extend the Gram matrix by the new latents.
        for a in range(filled, k):
            w = weights[chosen[i, a]]
            for b in range(a + 1):
                gram[i, a, b] = gram[i, b, a] = dot(w, weights[chosen[i, b]])
            y[i, a] = dot(w, x[i])

        # Solve for the values by Cholesky.
        forward(gram[i], y[i], k, ridge, lower, v)
        backward(lower, k, v)

        # Update the residual.
        residual[i] = x[i]
        for a in range(k):
            value = np.float32(v[a])
            values[i, a] = value
            w = weights[chosen[i, a]]
            for t in range(x.shape[1]):
                residual[i, t] -= value * w[t]
