"""Viterbi's search for the codes of a chain quantiser, compiled by numba."""

import numba
import numpy as np

from compressae.kernels.intrinsics import panel_matmul, panel_min_plus
from compressae.kernels.matmul.cpu import PANEL, TOGETHER

#: States of a part, and columns of a panel of pairs.
STATES, PAIR_PANEL = 256, 32
#: Rows whose costs lie in the cache together.
BLOCK = 32
#: Largest cost of a pair in steps, and of a state before it. A state at the limit never wins: the
#: cheapest one, of cost 0, is ahead of it with any pair.
LARGEST_PAIR, LARGEST_COST = 8000, 24000


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})
def _squares_less(parts, at, width, panels, p, half_norms, out):
    """Fill out (4, 256) with ‖c‖²/2 − y·c of four rows' parts y and 256 centroids c."""
    s = panels.shape[2]
    flat_parts, flat_panels, flat_out = parts.reshape(-1), panels.reshape(-1), out.reshape(-1)
    for q in range(STATES // PANEL):
        panel_matmul(
            flat_parts, at, width, flat_panels, (p * (STATES // PANEL) + q) * s * PANEL, s,
            flat_out, PANEL * q, STATES,
        )  # fmt: skip
    for r in range(TOGETHER):
        for c in range(STATES):
            out[r, c] = half_norms[p, c] - out[r, c]


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})
def _in_steps(cost, scores, step, out):
    """Add scores (256,) to costs and round them to int16 steps above the least, into out."""
    low = np.float32(np.inf)
    for j in range(len(cost)):
        cost[j] += scores[j]
    for j in range(len(cost)):
        low = min(low, cost[j])
    inverse, limit = np.float32(1) / step, np.float32(LARGEST_COST)
    for j in range(len(cost)):
        total = (cost[j] - low) * inverse + np.float32(0.5)
        out[j] = np.int16(np.int32(min(total, limit)))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _traced(costs, pairs):
    """The first state of least cost + pair, (256,) int16 each."""
    best = np.int32(1 << 30)
    for j in range(len(costs)):  # The state in the low bits: a minimum that vectorises.
        total = ((np.int32(costs[j]) + np.int32(pairs[j])) << np.int32(8)) + np.int32(j)
        best = min(best, total)
    return best & 255


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"})
def encode(
    parts, own, own_half_norms, following, half_norms, panels, pairs, steps, codes, start, stop
):
    """Fill rows start..stop of codes (n, p) uint8; 4 divides all n.

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
    scores = np.empty((TOGETHER, STATES), np.float32)
    arriving = np.empty((count, BLOCK, STATES), np.int16)
    least = np.empty((BLOCK, STATES), np.int16)
    flat_least = least.reshape(-1)
    for first in range(start, stop, BLOCK):
        rows = min(BLOCK, stop - first)
        for i in range(0, rows, TOGETHER):
            _squares_less(
                parts, (first + i) * width, width, own, 0, own_half_norms, cost[i : i + TOGETHER]
            )
        for t in range(1, count):
            for i in range(0, rows, TOGETHER):
                at = (first + i) * width + t * s
                _squares_less(parts, at, width, following, t - 1, half_norms, scores)
                for r in range(TOGETHER):
                    _in_steps(cost[i + r], scores[r], steps[t], arriving[t, i + r])
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
                _squares_less(parts, at, width, own, t, own_half_norms, scores)
                for r in range(TOGETHER):
                    for b in range(STATES):
                        cost[i + r, b] = least[i + r, b] * steps[t] + scores[r, b]
        for i in range(rows):
            state = np.argmin(cost[i])
            for t in range(count - 1, 0, -1):
                codes[first + i, t] = state
                state = _traced(arriving[t, i], pairs[t, state])
            codes[first + i, 0] = state
