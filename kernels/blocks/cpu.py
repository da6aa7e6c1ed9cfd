"""Bounds of blocks of rows, and scores of their rows, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.rescore.cpu import dot

#: After so many blocks, too many whose bounds are still above the K-th best: give up.
_PROBE = 64


@numba.njit(nogil=True, cache=True)
def block_bounds(indptr, ids, numbers, factors, h, size, starts, latents, values, fill):
    """Counts first; then, with ``fill``, latents and values."""
    best = np.zeros(2 * h, np.float32)
    met = np.empty(2 * h, np.int64)
    n, at = indptr.shape[0] - 1, 0
    for block in range(starts.shape[0] - 1):
        count = 0
        for row in range(block * size, min(n, (block + 1) * size)):
            for s in range(indptr[row], indptr[row + 1]):
                number = np.float64(numbers[s])
                if factors.shape[0]:
                    number *= np.float64(factors[row])
                latent = np.int64(ids[s]) + (h if number < 0 else 0)
                # Rounded up, so that float32 does not make a bound too small.
                bound = np.nextafter(np.float32(abs(number)), np.float32(np.inf))
                if number == 0:
                    continue
                if best[latent] == 0:
                    met[count] = latent
                    count += 1
                best[latent] = max(best[latent], bound)
        for m in range(count):
            if fill:
                latents[at], values[at] = met[m], best[met[m]]
            best[met[m]] = 0
            at += 1
        starts[block + 1] = at


@numba.njit(nogil=True, cache=True)
def leading_latents(indptr, ids, values, out):
    count = out.shape[1]
    sizes = np.empty(count, np.float64)
    for row in range(out.shape[0]):
        filled = 0
        for s in range(indptr[row], indptr[row + 1]):
            size = abs(np.float64(values[s]))
            if filled == count and size <= sizes[count - 1]:
                continue
            place = min(filled, count - 1)
            while place > 0 and sizes[place - 1] < size:
                sizes[place], out[row, place] = sizes[place - 1], out[row, place - 1]
                place -= 1
            sizes[place], out[row, place] = size, ids[s]
            filled = min(filled + 1, count)


@numba.njit(nogil=True, cache=True)
def score_blocks(
    blocks, bounds, rest, indptr, indices, values, table, scales, size, dense_query, count, mask,
    rows, scores,
):  # fmt: skip
    """How many rows were kept, and whether none of the best is missing."""
    heap = np.full(count, -np.inf, np.float32)  # The best scores, the worst of them at the root.
    n, found = indptr.shape[0] - 1, 0
    for b in range(blocks.shape[0]):
        if max(bounds[b], rest) < heap[0]:
            return found, True
        if b == _PROBE and max(bounds[-1], rest) >= heap[0]:
            return found, False
        first = np.int64(blocks[b]) * size
        for row in range(first, min(n, first + size)):
            if mask.shape[0] and not mask[row]:
                continue
            score = dot(indptr, indices, values, table, scales, dense_query, row)
            if score >= heap[0]:
                rows[found], scores[found] = row, score
                found += 1
                _replace_root(heap, score)
    return found, rest < heap[0]


@numba.njit(nogil=True, cache=True)
def _replace_root(heap, score):
    node = 0
    while True:
        child = 2 * node + 1
        if child >= heap.shape[0]:
            break
        if child + 1 < heap.shape[0] and heap[child + 1] < heap[child]:
            child += 1
        if score <= heap[child]:
            break
        heap[node] = heap[child]
        node = child
    heap[node] = score
