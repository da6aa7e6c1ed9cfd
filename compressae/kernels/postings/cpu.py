"""Counting sort of a window's nonzeros by latent and sign, compiled by numba.

Inner loops index with unsigned integers, so that numba omits its check for negative ones.
"""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def build_window(indptr, ids, numbers, factors, step, bounds, docs, stored, extremes):
    """Fill bounds (2h + 1,) uint32 and the window's docs and stored values.

    ``extremes`` gets the largest squared norm of a stored row and the largest squared rounding
    error.
    """
    # Count the nonzeros of each list; the running sum gives its start.
    rows = indptr.shape[0] - 1
    for s in range(np.uint64(indptr[0]), np.uint64(indptr[rows])):
        bounds[_list(ids[s], numbers[s]) + np.uint64(1)] += np.uint32(1)
    for i in range(bounds.shape[0] - 1):
        bounds[i + 1] += bounds[i]

    # Scale, round and scatter the rows into the lists; rows ascend, so lists do too.
    fill = bounds[:-1].copy()
    is_int8 = stored.itemsize == 1
    for row in range(rows):
        factor = 1 / step
        if factors.shape[0]:
            factor *= np.float64(factors[row])
        norm, error = 0.0, 0.0
        for s in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            number = np.float64(numbers[s]) * factor
            rounded = np.rint(number) if is_int8 else np.float64(np.float32(number))
            norm += rounded * rounded
            error += (number - rounded) * (number - rounded)
            i = _list(ids[s], numbers[s])
            slot = np.uint64(fill[i])
            docs[slot] = row
            stored[slot] = rounded
            fill[i] += np.uint32(1)
        extremes[0] = max(extremes[0], norm)
        extremes[1] = max(extremes[1], error)


@numba.njit(nogil=True, cache=True, inline="always")
def _list(latent, number):
    """List of a latent's positive or negative values."""
    return (np.uint64(latent) << np.uint64(1)) | np.uint64(number < 0)


@numba.njit(nogil=True, cache=True)
def canonical_rows(indptr, ids, values, h):
    """0, or the number of the fault in ``_FAULTS``; the gravest fault wins."""
    # Values and the range of ids, in one pass.
    fault = 0
    for s in range(ids.shape[0]):
        if ids[s] < 0 or ids[s] >= h:
            return 3
        if not np.isfinite(values[s]):
            fault = 2
        elif values[s] == 0 and fault == 0:
            fault = 1
    if fault:
        return fault

    # Repeats: short rows pair by pair, long ones sorted.
    for row in range(indptr.shape[0] - 1):
        start, stop = indptr[row], indptr[row + 1]
        if stop - start <= 64:
            for s in range(start + 1, stop):
                for t in range(start, s):
                    if ids[s] == ids[t]:
                        return 1
        else:
            ordered = np.sort(ids[start:stop])
            for s in range(1, ordered.shape[0]):
                if ordered[s] == ordered[s - 1]:
                    return 1
    return 0


@numba.njit(nogil=True, cache=True)
def by_list(data, ends, places, offsets, first, last, out):
    """Copy lists first..last into their runs of ``out``; see ``_by_list``."""
    for i in range(first, last):
        at = offsets[i]
        for w in range(ends.shape[0]):
            a, b = places[w] + ends[w, i], places[w] + ends[w, i + 1]
            out[at : at + b - a] = data[a:b]
            at += b - a


@numba.njit(nogil=True, cache=True)
def touched(docs, bounds, offsets, latents, flags):
    """Set flags (windows · 65,536,) bool of the rows in the lists of ``latents``."""
    for latent in latents:
        for i in range(2 * latent, 2 * latent + 2):
            for w in range(bounds.shape[1] - 1):
                a, b = offsets[i] + bounds[i, w], offsets[i] + bounds[i, w + 1]
                for s in range(np.uint64(a), np.uint64(b)):
                    flags[np.uint64(w << 16) + np.uint64(docs[s])] = True


@numba.njit(nogil=True, cache=True)
def repeated_latent(indptr, ids, last_row):
    """First row that repeats a latent, or −1.

    ``last_row`` (h,) int64 zeros holds 1 + the last row of each latent. If its length is 0, rows
    are sorted instead.
    """
    for row in range(indptr.shape[0] - 1):
        if last_row.shape[0]:
            for s in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                latent = np.uint64(ids[s])
                if last_row[latent] == row + 1:
                    return row
                last_row[latent] = row + 1
        else:
            ordered = np.sort(ids[indptr[row] : indptr[row + 1]])
            for s in range(1, ordered.shape[0]):
                if ordered[s] == ordered[s - 1]:
                    return row
    return -1
