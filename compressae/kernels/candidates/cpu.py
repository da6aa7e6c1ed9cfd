"""Integer scores from posting lists and their candidates, compiled by numba.

A posting costs two loads, a multiply and an add, in the cache. Indices are unsigned, so that numba
omits its check for negative ones. The lists of a window are scattered in memory, so the next list
is prefetched while the current one is read. Scores are compared with the threshold 64 at a time.
"""

import numba
import numpy as np

from compressae.kernels.intrinsics import at_least, count_bits, lowest_bit, prefetch

_LINE = 64  # Bytes of a cache line.


@numba.njit(nogil=True, cache=True)
def weigh(
    indptr,
    latents,
    values,
    limit,
    norm,
    error,
    largest,
    step,
    list_bounds,
    upper,
    list_indptr,
    lists,
    weights,
    bands,
    unit,
):
    """Round queries to integer weights of the lists to read, and bound the error of their scores.

    Fills ``list_indptr`` (m + 1,), and up to its end ``lists`` and ``weights`` (2·nnz,): for each
    latent its lists that are not empty, or with ``upper`` only that of the query's sign. Per query,
    ``bands`` gets 2ε in units of a sum, rounded up, plus a margin for ties of float32 scores, and
    ``unit`` the score of a sum of 1. ``largest`` is the largest |stored value|, or 0 for float
    lists, whose weights stay float32.
    """
    filled, last_window = 0, list_bounds.shape[1] - 1
    list_indptr[0] = 0
    for i in range(indptr.shape[0] - 1):
        # L1 and L2 norm of the query.
        query = values[indptr[i] : indptr[i + 1]]
        square, total = 0.0, 0.0
        for v in query:
            square += np.float64(v) * np.float64(v)
            total += abs(np.float64(v))
        length = np.sqrt(square)

        # Scale s: by ‖rint(s·q)‖ ≤ s·‖q‖ + √m / 2, no sum passes the limit.
        max_length = limit / max(norm, 1e-300) - (np.sqrt(query.shape[0]) / 2 if largest else 0.0)
        s = 0.0
        if length > 0 and norm > 0 and max_length > 0:
            s = max_length / length
        if not s * step < 1e300:
            s = 0.0

        # Round, and measure the rounding error δ = w − s·q.
        error_square, error_total = 0.0, 0.0
        for j in range(query.shape[0]):
            exact = s * np.float64(query[j])
            rounded = np.rint(exact) if largest else np.float64(np.float32(exact))
            error_square += (rounded - exact) * (rounded - exact)
            error_total += abs(rounded - exact)
            for sign in range(2):
                which = 2 * np.int64(latents[indptr[i] + j]) + sign
                if list_bounds[which, last_window] and not (upper and (rounded < 0) != sign):
                    lists[filled], weights[filled] = which, rounded
                    filled += 1
        list_indptr[i + 1] = filled

        # ε: float32 rounding of sums (in the lists or in rescoring), rounding of weights, rounding
        # of stored values.
        bound = (query.shape[0] + 4) * 2.0**-23 * limit
        if largest:
            bound += min(np.sqrt(error_square) * norm, error_total * largest)
            bound += s * min(length * error, total / 2)
        bands[i] = np.int64(np.ceil(2 * bound * (1 + 1e-9))) + 2
        unit[i] = step / s if s > 0 else 0.0


@numba.njit(nogil=True, cache=True)
def find(
    docs,
    values,
    bounds,
    offsets,
    n,
    indptr,
    lists,
    weights,
    bands,
    count,
    shift,
    mask,
    excluded_bounds,
    excluded,
    sums,
    counts,
    rows,
    scores,
    filled,
    complete,
    floors,
    edges,
    above,
    next_excluded,
    first,
    last,
):
    """Collect the candidates of m queries from windows first..last, in as many calls as one likes.

    ``indptr`` (m + 1,) divides ``lists`` and ``weights``, of ``weigh``.

    A histogram of the candidates' scores, ``counts`` (m, bins), gives the threshold: ``edge`` is
    the highest bin such that at least ``count`` candidates are in it or above, so the threshold
    approaches the K-th largest score from below. Only positive scores are candidates, so that the
    sums of rows that are excluded, or not in the mask, are set to zero.

    Fills rows and scores (m, capacity) up to ``filled`` (m,), ``complete`` (m,) bool, and
    ``floors`` (m,) float64, below which are the sums of all other rows; final after the last
    window. ``sums`` is scratch for the scores of a window, and zeros after each. ``edges``,
    ``above`` and ``next_excluded`` (m,) int64 are kept between calls: zeros, zeros and the queries'
    ``excluded_bounds`` before the first.
    """
    m = indptr.shape[0] - 1
    capacity = rows.shape[1]
    windows = bounds.shape[1] - 1
    if first == 0:
        complete[:] = True
        counts[:] = 0
        sums[:] = 0
    for w in range(first, last):
        base = np.int64(w) << 16
        end = min(n - base, 1 << 16)
        width = (end + 63) & ~63
        for i in range(m):
            if not complete[i]:
                continue

            # Add the query's lists to the scores of the window, zeros so far. Prefetch the next
            # list (after the last, for a single query, the first of the next window) and the bounds
            # after it.
            start, stop = indptr[i], indptr[i + 1]
            for j in range(start, stop):
                which = np.uint64(lists[j])
                a = offsets[which] + np.int64(bounds[which, w])
                b = offsets[which] + np.int64(bounds[which, w + 1])
                if j + 1 < stop:
                    _prefetch_list(docs, values, bounds, offsets, lists[j + 1], w)
                elif m == 1 and w + 1 < windows:
                    _prefetch_list(docs, values, bounds, offsets, lists[start], w + 1)
                if j + 2 < stop:
                    prefetch(bounds[np.uint64(lists[j + 2])], w)
                weight = weights[j]
                for p in range(np.uint64(a), np.uint64(b)):
                    sums[docs[p]] += sums.dtype.type(weight * values[p])
            sums[end:width] = 0  # Numbers of a damaged file that are no rows.
            if mask.shape[0]:
                if sums.itemsize == 2:
                    _clear_others(sums.view(np.int16), mask, base, end)
                else:  # Floats too, by their bits.
                    _clear_others(sums.view(np.int32), mask, base, end)

            while (
                next_excluded[i] < excluded_bounds[i + 1]
                and excluded[next_excluded[i]] < base + width
            ):
                sums[excluded[next_excluded[i]] - base] = 0
                next_excluded[i] += 1

            # No threshold yet: estimate one from a sample of the scores.
            edge, size = edges[i], filled[i]
            if edge == 0:
                limit = counts.shape[1] << shift
                edge = _first_threshold(sums, width, count, limit) >> shift
                above[i] = counts[i, edge:].sum()
            threshold = max(1, (edge << shift) - bands[i])
            level = sums.dtype.type(threshold)

            # Collect the scores that reach the threshold, 64 at a time, and set them to zero.
            for block in range(0, width, 64):
                bits = at_least(sums, block, level)
                if not bits:
                    for t in range(block, block + 64):
                        sums[np.uint64(t)] = 0
                    continue
                while bits:
                    local = block + np.int64(lowest_bit(bits))
                    bits &= bits - np.uint64(1)

                    # Full: drop the candidates below the current threshold. Give up the query if
                    # more than 3/4 remain.
                    if size == capacity:
                        size = _prune(rows[i], scores[i], size, threshold)
                        if 4 * size > 3 * capacity:
                            complete[i] = False
                            break
                    score = sums[np.uint64(local)]
                    rows[i, size], scores[i, size] = base + local, score
                    size += 1

                    # Raise the threshold while the bins above the edge hold ``count`` candidates.
                    bin_ = min(np.int64(score) >> shift, counts.shape[1] - 1)
                    if bin_ >= edge:
                        counts[i, bin_] += 1
                        above[i] += 1
                        while above[i] - counts[i, edge] >= count:
                            above[i] -= counts[i, edge]
                            edge += 1
                            threshold = max(1, (edge << shift) - bands[i])
                            level = sums.dtype.type(threshold)
                for t in range(block, block + 64):
                    sums[np.uint64(t)] = 0
                if not complete[i]:
                    sums[block:width] = 0
                    break
            edges[i], filled[i] = edge, size

    if last < windows:
        return

    # Prune to the final threshold. Complete: K candidates reach the edge, and the threshold is
    # positive, so no row below it was left out.
    for i in range(m):
        least = (edges[i] << shift) - bands[i]
        floors[i] = max(1, least) if complete[i] else np.inf
        complete[i] = complete[i] and above[i] >= count and least >= 1
        filled[i] = _prune(rows[i], scores[i], filled[i], max(1, least))


@numba.njit(nogil=True, cache=True)
def _first_threshold(sums, width, count, limit):
    """A threshold below ``limit`` that at least ``count`` scores reach, and few more; 0 if none.

    Bisection on an eighth of the scores, verified on all.
    """
    if 4 * count > width:
        return 0
    sample_count = count // 6 + 8
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) >> 1
        if _reaching(sums, width, middle, 512) >= sample_count:
            low = middle
        else:
            high = middle
    return low if low > 0 and _reaching(sums, width, low, 64) >= count else 0


@numba.njit(nogil=True, cache=True)
def _reaching(sums, width, least, stride):
    """Count the scores ≥ ``least`` in every ``stride // 64``-th block of 64."""
    level, reached = sums.dtype.type(least), np.uint64(0)
    for block in range(0, width, stride):
        reached += count_bits(at_least(sums, block, level))
    return np.int64(reached)


@numba.njit(nogil=True, cache=True)
def _clear_others(sums, mask, base, end):
    """Set to zero the sums of a window's rows that the mask leaves out. Branchless, in vectors."""
    ones = mask[base : base + end].view(np.int8)
    for row in range(end):
        sums[row] &= -ones[row]


@numba.njit(nogil=True, cache=True)
def _prefetch_list(docs, values, bounds, offsets, which, w):
    """Prefetch a list in a window."""
    which = np.uint64(which)
    first = offsets[which] + np.int64(bounds[which, w])
    last = offsets[which] + np.int64(bounds[which, w + 1])
    for p in range(first, last, _LINE // docs.itemsize):
        prefetch(docs, p)
    for p in range(first, last, _LINE // values.itemsize):
        prefetch(values, p)


@numba.njit(nogil=True, cache=True)
def _prune(rows, scores, size, threshold):
    """Drop candidates with scores below the threshold; return how many remain."""
    remaining = 0
    for c in range(size):  # Branchless: the branch is unpredictable.
        row, score = rows[c], scores[c]
        rows[remaining], scores[remaining] = row, score
        remaining += np.int64(score >= threshold)
    return remaining
