"""Score accumulation over posting lists, compiled by numba."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def accumulate(starts, docs, values, query_indices, query_values, scores):
    scores[:] = 0
    for j in range(query_indices.shape[0]):
        q = query_values[j]
        for s in range(starts[query_indices[j]], starts[query_indices[j] + 1]):
            scores[docs[s]] += q * np.float32(values[s])
