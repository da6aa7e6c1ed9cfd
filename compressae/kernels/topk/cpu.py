"""Top-k without a full sort, compiled by numba."""

import numba
import numpy as np

# The bits of |x|, as an integer, order like |x|. Their top 11 (exponent and 3 of the mantissa) are
# the bin of a histogram, which locates the k-th largest without comparisons.
_SHIFT = 20
_BINS = 1 << (31 - _SHIFT)


@numba.njit(nogil=True, cache=True)
def abs_topk(x, k, ids, values, start, stop):
    """Top k of |x| for rows start..stop of x (n, h), into ids (n, k) int32 and values (n, k)."""
    h = x.shape[1]
    keys = np.empty(h, np.uint32)
    counts = np.empty(_BINS, np.int32)
    candidates = np.empty(h, np.uint64)
    for i in range(start, stop):
        # Histogram of the keys.
        bits = x[i].view(np.uint32)
        counts[:] = 0
        for j in range(h):
            key = bits[j] & np.uint32(0x7FFFFFFF)
            keys[j] = key
            counts[key >> _SHIFT] += 1

        # Bin of the k-th largest key.
        above, edge = 0, _BINS - 1
        while above + counts[edge] < k:
            above += counts[edge]
            edge -= 1

        # Sort the entries of this bin and above. Ids are complemented, so that a descending sort
        # breaks ties by the smaller id.
        floor = np.uint32(edge) << _SHIFT
        m = 0
        for j in range(h):
            if keys[j] >= floor:
                candidates[m] = (np.uint64(keys[j]) << np.uint64(32)) | np.uint64(0xFFFFFFFF - j)
                m += 1
        ordered = np.sort(candidates[:m])
        for r in range(k):
            j = np.int64(0xFFFFFFFF) - np.int64(ordered[m - 1 - r] & np.uint64(0xFFFFFFFF))
            ids[i, r] = j
            values[i, r] = x[i, j]


@numba.njit(nogil=True, cache=True)
def best(scores, count, ids, top):
    """Top ``count`` of scores (n,) float32, into ids (count,) int64 and top (count,).

    A binary min-heap holds the best so far. Ids ascend, so a score equal to the root's loses the
    tie.
    """
    # Fill the heap, then replace its root by each larger score.
    size = 0
    for i in range(scores.shape[0]):
        s = scores[i]
        if size < count:
            node = size
            size += 1
            while node > 0:
                parent = (node - 1) >> 1
                if top[parent] < s or (top[parent] == s and ids[parent] > i):
                    break
                top[node], ids[node] = top[parent], ids[parent]
                node = parent
            top[node], ids[node] = s, i
        elif s > top[0]:
            _sift_down(top, ids, size, s, i)

    # Heap sort: move the root, the worst left, to the end.
    while size > 1:
        size -= 1
        s, i = top[size], ids[size]
        top[size], ids[size] = top[0], ids[0]
        _sift_down(top, ids, size, s, i)


@numba.njit(nogil=True, cache=True)
def _sift_down(top, ids, size, s, i):
    """Replace the root by (s, i) and restore the heap."""
    node = 0
    while True:
        child = 2 * node + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            top[right] < top[child] or (top[right] == top[child] and ids[right] > ids[child])
        ):
            child = right
        if s < top[child] or (s == top[child] and i > ids[child]):
            break
        top[node], ids[node] = top[child], ids[child]
        node = child
    top[node], ids[node] = s, i
