"""Viterbi's search for the codes of a chain quantiser, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.intrinsics import panel_min_plus
from compressae.kernels.matmul.cpu import TOGETHER, fold_largest, multiply_part

#: States of a part, and columns of a panel of pairs.
STATES, PAIR_PANEL = 256, 32
#: Rows whose costs lie in the cache together.
BLOCK = 32
#: Largest cost of a pair in steps, and of a state before it. A state at the limit never wins: the
#: cheapest one, of cost 0, is ahead of it with any pair.
LARGEST_PAIR, LARGEST_COST = 8000, 24000


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})
def _in_steps(cost, half_norms, products, step, out):
    """Add ‖c‖²/2 − y·c to costs (256,) and round them to int16 steps above the least, into out.

    Products are overwritten.
    """
    for j in range(len(cost)):
        cost[j] += half_norms[j] - products[j]
        products[j] = -cost[j]
    low = -fold_largest(products)
    inverse, limit = np.float32(1) / step, np.float32(LARGEST_COST)
    for j in range(len(cost)):
        total = (cost[j] - low) * inverse + np.float32(0.5)
        out[j] = np.int16(np.int32(min(total, limit)))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _traced(costs, pairs):
    """The first state of least cost + pair, (256,) int16 each."""
    best = np.int32(1 << 30)
    for j in range(len(costs)):  # The state in the low bits: a minimum that vectorises.
        best = min(best, np.int32((costs[j] + pairs[j]) * 256 + j))
    return best & 255


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})
def encode(
    parts, own, own_half_norms, following, half_norms, panels, pairs, steps, codes, start, stop
):
    """Fill rows start..stop of codes (n, p) uint8; 8 divides all n.

    Args:
        parts: (n, p·s) float32.
        own, following: (p, 16, s, 16) centroids of the code's part and of the next, as columns.
        own_half_norms, half_norms: (p, 256), half their squared lengths.
        panels: (p, 8, 256, 32) int16, products of ``following`` of the part before with ``own``.
        pairs: (p, 256, 256) int16, the same: of code b with all codes before it.
        steps: (p,) what a pair of 1 stands for.
    """
    count, s = own.shape[0], own.shape[2]
    width = parts.shape[1]
    flat_panels = panels.reshape(-1)
    cost = np.empty((BLOCK, STATES), np.float32)
    products = np.empty((TOGETHER, STATES), np.float32)
    arriving = np.empty((count, BLOCK, STATES), np.int16)
    least = np.empty((BLOCK, STATES), np.int16)
    flat_least = least.reshape(-1)
    for first in range(start, stop, BLOCK):
        rows = min(BLOCK, stop - first)
        for i in range(0, rows, TOGETHER):
            multiply_part(parts, (first + i) * width, width, own, 0, products)
            for r in range(TOGETHER):
                for b in range(STATES):
                    cost[i + r, b] = own_half_norms[0, b] - products[r, b]
        for t in range(1, count):
            for i in range(0, rows, TOGETHER):
                at = (first + i) * width + t * s
                multiply_part(parts, at, width, following, t - 1, products)
                for r in range(TOGETHER):
                    norms, out = half_norms[t - 1], arriving[t, i + r]
                    _in_steps(cost[i + r], norms, products[r], steps[t], out)
            flat_arriving = arriving[t].reshape(-1)
            for q in range(STATES // PAIR_PANEL):
                for i in range(0, rows, TOGETHER):
                    panel_min_plus(
                        flat_arriving, i * STATES, STATES, flat_panels,
                        (t * (STATES // PAIR_PANEL) + q) * STATES * PAIR_PANEL, STATES,
                        flat_least, i * STATES + q * PAIR_PANEL, STATES,
                    )  # fmt: skip
            for i in range(0, rows, TOGETHER):
                at = (first + i) * width + t * s
                multiply_part(parts, at, width, own, t, products)
                for r in range(TOGETHER):
                    for b in range(STATES):
                        square = own_half_norms[t, b] - products[r, b]
                        cost[i + r, b] = least[i + r, b] * steps[t] + square
        for i in range(rows):
            codes[first + i, count - 1] = np.argmin(cost[i])
        for t in range(count - 1, 0, -1):
            for i in range(rows):  # Rows in turn: none waits for another's pairs.
                codes[first + i, t - 1] = _traced(arriving[t, i], pairs[t, codes[first + i, t]])
