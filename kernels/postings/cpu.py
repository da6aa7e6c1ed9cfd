"""A counting sort of nonzeros by latent, compiled by numba."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def build_postings(indptr, indices, values, starts, docs, out):
    for s in range(indices.shape[0]):
        starts[np.int64(indices[s]) + 1] += 1
    for latent in range(starts.shape[0] - 1):
        starts[latent + 1] += starts[latent]
    fill = starts[:-1].copy()
    for row in range(indptr.shape[0] - 1):
        for s in range(indptr[row], indptr[row + 1]):
            place = fill[indices[s]]
            docs[place], out[place] = row, values[s]
            fill[indices[s]] = place + 1
