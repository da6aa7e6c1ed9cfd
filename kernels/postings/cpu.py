"""A counting sort of a window's nonzeros by latent, compiled by numba.

Indices are unsigned where they are in an inner loop: numba then leaves out the check for negative
ones.
"""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def build_window(indptr, ids, numbers, factors, step, bounds, docs, stored, extremes):
    """Fill bounds (h + 1,) uint32 and the window's docs and stored values.

    ``extremes`` gets the largest squared norm of a row as stored and of what rounding took.
    """
    rows = indptr.shape[0] - 1
    for s in range(np.uint64(indptr[0]), np.uint64(indptr[rows])):
        bounds[np.uint64(ids[s]) + np.uint64(1)] += np.uint32(1)
    for latent in range(bounds.shape[0] - 1):
        bounds[latent + 1] += bounds[latent]
    fill = bounds[:-1].copy()
    round_off = stored.itemsize == 1
    for row in range(rows):
        factor = 1 / step
        if factors.shape[0]:
            factor *= np.float64(factors[row])
        norm, error = 0.0, 0.0
        for s in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            number = np.float64(numbers[s]) * factor
            kept = np.rint(number) if round_off else np.float64(np.float32(number))
            norm += kept * kept
            error += (number - kept) * (number - kept)
            latent = np.uint64(ids[s])
            place = np.uint64(fill[latent])
            docs[place] = row
            stored[place] = kept
            fill[latent] += np.uint32(1)
        extremes[0] = max(extremes[0], norm)
        extremes[1] = max(extremes[1], error)


@numba.njit(nogil=True, cache=True)
def touched(docs, bounds, places, latents, flags):
    for w in range(bounds.shape[0]):
        for latent in latents:
            a, b = places[w] + bounds[w, latent], places[w] + bounds[w, latent + 1]
            for s in range(np.uint64(a), np.uint64(b)):
                flags[np.uint64(w << 16) + np.uint64(docs[s])] = True


@numba.njit(nogil=True, cache=True)
def repeated_latent(indptr, ids, met):
    """``met`` (h,) zeros, or of length 0 where h is too large for it: rows are then sorted."""
    for row in range(indptr.shape[0] - 1):
        if met.shape[0]:
            for s in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                latent = np.uint64(ids[s])
                if met[latent] == row + 1:
                    return row
                met[latent] = row + 1
        else:
            ordered = np.sort(ids[indptr[row] : indptr[row + 1]])
            for s in range(1, ordered.shape[0]):
                if ordered[s] == ordered[s - 1]:
                    return row
    return -1
