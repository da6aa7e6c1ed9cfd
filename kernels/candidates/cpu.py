"""Integer sums over posting lists and their largest, compiled by numba.

A sum takes two loads, a multiplication and an addition in the cache; indices are unsigned, so that
numba leaves out its check for negative ones, and the next list's lines are asked for while one list
is read, since the lists of a window lie anywhere in memory. 64 sums are compared with the threshold
at once.
"""

import numba
import numpy as np

from compressae.kernels.intrinsics import at_least, count_bits, lowest_bit, prefetch

_LINE = 64  # Bytes of a cache line.


@numba.njit(nogil=True, cache=True)
def weigh(indptr, values, limit, norm, error, largest, step, weights, bands, unit):
    """Round queries to weights; ``bands`` gets 2ε in whole units, rounded up, and one unit more
    for what float32 results cannot tell apart."""
    for i in range(indptr.shape[0] - 1):
        here = values[indptr[i] : indptr[i + 1]]
        square, total = 0.0, 0.0
        for v in here:
            square += np.float64(v) * np.float64(v)
            total += abs(np.float64(v))
        length = np.sqrt(square)
        # ‖rint(s·q)‖ ≤ s·‖q‖ + √m / 2.
        room = limit / max(norm, 1e-300) - (np.sqrt(here.shape[0]) / 2 if largest else 0.0)
        s = 0.0
        if length > 0 and norm > 0 and room > 0:
            s = room / length
        if not s * step < 1e300:
            s = 0.0
        off_square, off_total = 0.0, 0.0
        for j in range(here.shape[0]):
            exact = s * np.float64(here[j])
            kept = np.rint(exact) if largest else np.float64(np.float32(exact))
            weights[indptr[i] + j] = kept
            off_square += (kept - exact) * (kept - exact)
            off_total += abs(kept - exact)
        # What rounding of sums in float32 may take, in the lists or where rows are scored.
        bound = (here.shape[0] + 4) * 2.0**-23 * limit
        if largest:
            bound += min(np.sqrt(off_square) * norm, off_total * largest)
            bound += s * min(length * error, total / 2)
        bands[i] = np.int64(np.ceil(2 * bound * (1 + 1e-9))) + 2
        unit[i] = step / s if s > 0 else 0.0


@numba.njit(nogil=True, cache=True)
def find(
    docs, values, bounds, places, n, indptr, latents, weights, bands, count, shift, mask, sums,
    counts, rows, scores, filled, complete,
):  # fmt: skip
    """Candidates of each query, window by window.

    ``counts`` bins the candidates' sums; ``edge`` is the highest bin with at least ``count`` of
    them in it and above, so that the threshold follows the K-th largest sum from below. Sums of 0
    and less are never candidates.
    """
    m = indptr.shape[0] - 1
    room = rows.shape[1]
    edges, above = np.zeros(m, np.int64), np.zeros(m, np.int64)
    complete[:] = True
    counts[:] = 0
    for w in range(bounds.shape[0]):
        base = np.int64(w) << 16
        width = (min(n - base, 1 << 16) + 63) & ~63
        here, place = bounds[w], places[w]
        for i in range(m):
            if not complete[i]:
                continue
            sums[:width] = 0
            start, stop = indptr[i], indptr[i + 1]
            for j in range(start, stop):
                latent = np.uint64(latents[j])
                a = place + np.int64(here[latent])
                b = place + np.int64(here[latent + np.uint64(1)])
                if j + 1 < stop:
                    _ask(docs, values, here, place, latents[j + 1])
                elif m == 1 and w + 1 < bounds.shape[0]:
                    _ask(docs, values, bounds[w + 1], places[w + 1], latents[start])
                if j + 2 < stop:
                    prefetch(here, np.uint64(latents[j + 2]))
                weight = weights[j]
                for p in range(np.uint64(a), np.uint64(b)):
                    sums[docs[p]] += sums.dtype.type(weight * values[p])
            edge, found = edges[i], filled[i]
            if edge == 0 and mask.shape[0] == 0:
                most = counts.shape[1] << shift
                edge = _first_threshold(sums, width, count, most) >> shift
                above[i] = counts[i, edge:].sum()
            threshold = max(1, (edge << shift) - bands[i])
            level = sums.dtype.type(threshold)
            for block in range(0, width, 64):
                bits = at_least(sums, block, level)
                while bits:
                    local = block + np.int64(lowest_bit(bits))
                    bits &= bits - np.uint64(1)
                    if mask.shape[0] and not mask[base + local]:
                        continue
                    if found == room:
                        found = _keep(rows[i], scores[i], found, threshold)
                        if 4 * found > 3 * room:
                            complete[i] = False
                            break
                    score = sums[np.uint64(local)]
                    rows[i, found], scores[i, found] = base + local, score
                    found += 1
                    bin_ = min(np.int64(score) >> shift, counts.shape[1] - 1)
                    if bin_ >= edge:
                        counts[i, bin_] += 1
                        above[i] += 1
                        while above[i] - counts[i, edge] >= count:
                            above[i] -= counts[i, edge]
                            edge += 1
                            threshold = max(1, (edge << shift) - bands[i])
                            level = sums.dtype.type(threshold)
                if not complete[i]:
                    break
            edges[i], filled[i] = edge, found
    for i in range(m):
        least = (edges[i] << shift) - bands[i]
        complete[i] = complete[i] and above[i] >= count and least >= 1
        filled[i] = _keep(rows[i], scores[i], filled[i], max(1, least))


@numba.njit(nogil=True, cache=True)
def _first_threshold(sums, width, count, most):
    """A number below ``most`` that at least ``count`` of the sums reach, and not many more; 0 if
    none is found.

    It is searched for among an eighth of them; then all are counted.
    """
    if 4 * count > width:
        return 0
    wanted = count // 6 + 8
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) >> 1
        if _reaching(sums, width, middle, 512) >= wanted:
            low = middle
        else:
            high = middle
    return low if low > 0 and _reaching(sums, width, low, 64) >= count else 0


@numba.njit(nogil=True, cache=True)
def _reaching(sums, width, least, stride):
    """How many sums of every ``stride // 64``-th block of 64 are at least ``least``."""
    level, reached = sums.dtype.type(least), np.uint64(0)
    for block in range(0, width, stride):
        reached += count_bits(at_least(sums, block, level))
    return np.int64(reached)


@numba.njit(nogil=True, cache=True)
def _ask(docs, values, here, place, latent):
    """Prefetch the list of a latent."""
    first = place + np.int64(here[np.uint64(latent)])
    last = place + np.int64(here[np.uint64(latent) + np.uint64(1)])
    for p in range(first, last, _LINE // docs.itemsize):
        prefetch(docs, p)
    for p in range(first, last, _LINE // values.itemsize):
        prefetch(values, p)


@numba.njit(nogil=True, cache=True)
def _keep(rows, scores, found, threshold):
    """Drop candidates below the threshold; their number is returned."""
    kept = 0
    for c in range(found):  # Written without a branch, which could not be foretold.
        row, score = rows[c], scores[c]
        rows[kept], scores[kept] = row, score
        kept += np.int64(score >= threshold)
    return kept
