"""Products of rows with panels of 16 columns, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.intrinsics import PANEL_ROWS, at_least, lowest_bit, panel_matmul

#: Columns of a panel, rows multiplied with one together, and rows that stay in the cache.
PANEL, TOGETHER, BLOCK = 16, PANEL_ROWS, 64


@numba.njit(nogil=True, cache=True)
def matmul(x, panels, out, start, stop):
    """Fill rows start..stop of out (m, n) with x (m, k) @ panels (n/16, k, 16); 8 divides all m."""
    k, n = x.shape[1], out.shape[1]
    flat_x, flat_panels, flat_out = x.reshape(-1), panels.reshape(-1), out.reshape(-1)
    for first in range(start, stop, BLOCK):
        for p in range(n // PANEL):
            for i in range(first, min(first + BLOCK, stop), TOGETHER):
                panel_matmul(
                    flat_x, i * k, k, flat_panels, p * PANEL * k, k, flat_out, i * n + PANEL * p, n
                )  # fmt: skip


@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def fold_largest(numbers):
    """The largest of 2^m numbers, which are overwritten: a running maximum is not vectorised."""
    half = len(numbers) // 2
    while half > 0:
        for t in range(half):
            numbers[t] = max(numbers[t], numbers[half + t])
        half //= 2
    return numbers[0]


@numba.njit(nogil=True, cache=True)
def _first_at_least(scores, least):
    """Index of the first of 256 scores that is at least ``least``."""
    for at in range(0, len(scores), 64):
        bits = at_least(scores, at, least)
        if bits:
            return at + np.int64(lowest_bit(bits))
    return 0


@numba.njit(nogil=True, cache=True, error_model="numpy")
def multiply_part(parts, at, width, panels, p, out):
    """Fill out (8, 256) with y·c of eight rows' parts y and the 256 centroids c of part p.

    The first row's part begins at entry ``at`` of ``parts``, the others ``width`` apart.
    """
    s = panels.shape[2]
    flat_parts, flat_panels, flat_out = parts.reshape(-1), panels.reshape(-1), out.reshape(-1)
    for q in range(256 // PANEL):
        panel_matmul(
            flat_parts, at, width, flat_panels, (p * (256 // PANEL) + q) * s * PANEL, s,
            flat_out, PANEL * q, 256,
        )  # fmt: skip


@numba.njit(nogil=True, cache=True)
def nearest(parts, panels, half_norms, codes, start, stop):
    """Fill rows start..stop of codes (m, p) with the nearest of 256 centroids of each part.

    ``parts`` (m, p·s); ``panels`` (p, 16, s, 16) of the centroids as columns; ``half_norms``
    (p, 256); 8 divides all m.
    """
    count, s = panels.shape[0], panels.shape[2]
    width = parts.shape[1]
    scores, copy = np.empty((TOGETHER, 256), np.float32), np.empty(256, np.float32)
    for p in range(count):
        for i in range(start, stop, TOGETHER):
            multiply_part(parts, i * width + p * s, width, panels, p, scores)
            for r in range(TOGETHER):
                for c in range(256):
                    scores[r, c] -= half_norms[p, c]
                    copy[c] = scores[r, c]
                codes[i + r, p] = _first_at_least(scores[r], fold_largest(copy))
