"""Viterbi's search for the codes of a chain on a GPU: products by torch, steps in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: States of a part, and rows of a program.
_STATES = 256
_ROWS = 16
#: Bytes of the states of rows that are in memory together.
_BYTES = 1 << 28


@triton.jit(do_not_specialize=["n"])
def _min_plus(
    cost_ptr, pairs_ptr, least_ptr, state_ptr, n, states: tl.constexpr, rows: tl.constexpr
):
    """least (n, states) = min_j cost (n, j) + pairs (j, states), and the first such j as uint8."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.arange(0, states)
    inside = row < n
    least = tl.full([rows, states], float("inf"), tl.float32)
    state = tl.zeros([rows, states], tl.int32)
    for j in range(states):
        cost = tl.load(cost_ptr + row * states + j, mask=inside, other=0.0)
        total = cost[:, None] + tl.load(pairs_ptr + j * states + column)[None, :]
        state = tl.where(total < least, j, state)
        least = tl.minimum(least, total)
    at = row[:, None] * states + column[None, :]
    tl.store(least_ptr + at, least, mask=inside[:, None])
    tl.store(state_ptr + at, state.to(tl.uint8), mask=inside[:, None])


def encode_chain(parts: Tensor, codebooks: Tensor) -> Tensor:
    """Encode parts (n, p·s) to codes (n, p) uint8; see ``compressae.kernels.chain``.

    Args:
        parts: float32.
        codebooks: (p, 256, 2·s) float32.
    """
    together = max(_ROWS, _BYTES // (_STATES * len(codebooks)))
    return torch.cat([_encode(rows, codebooks) for rows in parts.split(together)])


def _encode(parts: Tensor, codebooks: Tensor) -> Tensor:
    """Codes of rows whose costs fit in memory."""
    p, _, width = codebooks.shape
    s, n = width // 2, len(parts)
    own, following = codebooks[:, :, :s], codebooks[:, :, s:]
    before = parts.new_empty(p, n, _STATES, dtype=torch.uint8)
    cost = _squares(parts[:, :s], own[0])
    for t in range(1, p):
        y = parts[:, t * s : (t + 1) * s]
        cost += _squares(y, following[t - 1])
        pairs = (following[t - 1] @ own[t].T).contiguous()
        least = torch.empty_like(cost)
        grid = (triton.cdiv(n, _ROWS),)
        _min_plus[grid](cost, pairs, least, before[t], n, states=_STATES, rows=_ROWS)
        cost = least.add_(_squares(y, own[t]))
    codes = parts.new_empty(n, p, dtype=torch.uint8)
    state = cost.argmin(1, keepdim=True)
    for t in range(p - 1, -1, -1):
        codes[:, t] = state[:, 0].to(torch.uint8)
        if t:
            state = before[t].gather(1, state).long()
    return codes


def _squares(y: Tensor, centroids: Tensor) -> Tensor:
    """‖c‖²/2 − y·c of parts y (n, s) and centroids c (256, s): (n, 256)."""
    return centroids.square().sum(1) / 2 - y @ centroids.T
