"""Quantisation of values on a GPU: coordinate descent in Triton, scales of rows by torch."""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.refit.gpu import gram, parts

#: Rows of a program.
_TOGETHER = 16


@triton.jit
def _descend(
    gram_ptr, y_ptr, values_ptr, levels_ptr, sizes_ptr, codes_ptr, n, k, widest, sweeps,
    rows: tl.constexpr, ranks: tl.constexpr, choices: tl.constexpr,
):  # fmt: skip
    """Coordinate descent on ``rows`` rows side by side: all their first nonzeros, then the next."""
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)
    rank, choice = tl.arange(0, ranks), tl.arange(0, choices)
    kept = (row < n)[:, None] & (rank < k)[None, :]
    place = row[:, None] * k + rank[None, :]
    y = tl.load(y_ptr + place, mask=kept, other=0.0)
    v = tl.load(values_ptr + place, mask=kept, other=0.0)
    codes = tl.zeros([rows, ranks], tl.int32)
    for step in range(0, sweeps * k):
        a = step % k
        here = (rank == a)[None, :]
        dots = tl.load(gram_ptr + (row * k + a)[:, None] * k + rank[None, :], mask=kept, other=0.0)
        own = tl.sum(tl.where(here, dots, 0.0), 1)
        target = tl.sum(tl.where(here, y, 0.0), 1) - tl.sum(tl.where(here, 0.0, dots * v), 1)
        target = target / tl.maximum(own, 1e-12)
        size = tl.load(sizes_ptr + a)
        level = tl.load(levels_ptr + a * widest + choice, mask=choice < size, other=float("inf"))
        distance = tl.abs(level[None, :] - target[:, None])
        least = tl.min(distance, 1)
        nearest = tl.min(tl.where(distance == least[:, None], choice[None, :], choices), 1)
        nearest = tl.minimum(nearest, size - 1)  # Of NaN none is; stay within the levels.
        chosen = tl.load(levels_ptr + a * widest + nearest)
        v = tl.where(here, chosen[:, None], v)
        codes = tl.where(here, nearest[:, None], codes)
    tl.store(codes_ptr + place, codes.to(tl.uint8), mask=kept)


def quantize_on_support(
    x: Tensor,
    indices: Tensor,
    values: Tensor,
    weights: Tensor,
    levels: np.ndarray,
    sizes: np.ndarray,
    sweeps: int,
) -> Tensor:
    """Numbers of levels (n, k) uint8.

    Floors: those of ``refit.gpu.gram``; n·k² numbers read a sweep, from the caches after the first;
    n·k·(k + L) operations a sweep.
    """
    n, k = indices.shape
    choices = levels.shape[1]
    levels_here = torch.as_tensor(np.ascontiguousarray(levels[:k]), device=x.device)
    sizes_here = torch.as_tensor(np.asarray(sizes[:k], np.int32), device=x.device)
    codes = torch.empty(n, k, dtype=torch.uint8, device=x.device)
    for part in parts(n, k, 4):
        dots, y = gram(x[part], indices[part], weights)
        _descend[(triton.cdiv(len(y), _TOGETHER),)](
            dots, y, values[part].contiguous(), levels_here, sizes_here, codes[part], len(y), k,
            choices, sweeps, _TOGETHER, max(16, triton.next_power_of_2(k)),
            max(16, triton.next_power_of_2(choices)), num_warps=4,
        )  # fmt: skip
    return codes


def quantize_rows(values: Tensor, indptr: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes (nnz,) and float32 scales (n,). Floors: 9 bytes and a few operations a value."""
    n = len(indptr) - 1
    rows = torch.repeat_interleave(torch.arange(n, device=values.device), indptr.diff())
    peaks = torch.zeros(n, dtype=torch.float32, device=values.device)
    scales = peaks.scatter_reduce_(0, rows, values.abs(), "amax") / 127
    scales[scales == 0] = 1
    return (values / scales[rows]).round().to(torch.int8), scales
