"""Quantisation of values on a GPU: coordinate descent in Triton, row scales in torch."""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.refit.gpu import gram, parts

#: Rows per program.
_TOGETHER = 16


@triton.jit
def _descend(
    gram_ptr,
    y_ptr,
    values_ptr,
    levels_ptr,
    sizes_ptr,
    codes_ptr,
    n,
    k,
    widest,
    sweeps,
    rows: tl.constexpr,
    ranks: tl.constexpr,
    choices: tl.constexpr,
):
    """Coordinate descent on ``rows`` rows in lockstep: all first nonzeros, then all second, …"""
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)
    rank, choice = tl.arange(0, ranks), tl.arange(0, choices)
    inside = (row < n)[:, None] & (rank < k)[None, :]
    offset = row[:, None] * k + rank[None, :]
    y = tl.load(y_ptr + offset, mask=inside, other=0.0)
    v = tl.load(values_ptr + offset, mask=inside, other=0.0)
    codes = tl.zeros([rows, ranks], tl.int32)
    for step in range(0, sweeps * k):
        # Optimum of nonzero a, the others fixed.
        a = step % k
        is_a = (rank == a)[None, :]
        dots = tl.load(
            gram_ptr + (row * k + a)[:, None] * k + rank[None, :], mask=inside, other=0.0
        )
        own = tl.sum(tl.where(is_a, dots, 0.0), 1)
        target = tl.sum(tl.where(is_a, y, 0.0), 1) - tl.sum(tl.where(is_a, 0.0, dots * v), 1)
        target = target / tl.maximum(own, 1e-12)

        # Nearest level, ties to the first.
        size = tl.load(sizes_ptr + a)
        level = tl.load(levels_ptr + a * widest + choice, mask=choice < size, other=float("inf"))
        distance = tl.abs(level[None, :] - target[:, None])
        least = tl.min(distance, 1)
        nearest = tl.min(tl.where(distance == least[:, None], choice[None, :], choices), 1)
        nearest = tl.minimum(nearest, size - 1)  # NaN matches no level; stay in range.
        nearest_level = tl.load(levels_ptr + a * widest + nearest)
        v = tl.where(is_a, nearest_level[:, None], v)
        codes = tl.where(is_a, nearest[:, None], codes)
    tl.store(codes_ptr + offset, codes.to(tl.uint8), mask=inside)


def quantize_on_support(
    x: Tensor,
    indices: Tensor,
    values: Tensor,
    weights: Tensor,
    levels: np.ndarray,
    sizes: np.ndarray,
    sweeps: int,
) -> Tensor:
    """Quantise values jointly: codes (n, k) uint8. See ``kernels.quantize``.

    Lower bounds: those of ``refit.gpu.gram``; n·k² numbers read per sweep, from the caches after
    the first; n·k·(k + L) operations per sweep.
    """
    n, k = indices.shape
    choices = levels.shape[1]
    device_levels = torch.as_tensor(np.ascontiguousarray(levels[:k]), device=x.device)
    device_sizes = torch.as_tensor(np.asarray(sizes[:k], np.int32), device=x.device)
    codes = torch.empty(n, k, dtype=torch.uint8, device=x.device)
    for part in parts(n, k, 4):
        dots, y = gram(x[part], indices[part], weights)
        _descend[(triton.cdiv(len(y), _TOGETHER),)](
            gram_ptr=dots,
            y_ptr=y,
            values_ptr=values[part].contiguous(),
            levels_ptr=device_levels,
            sizes_ptr=device_sizes,
            codes_ptr=codes[part],
            n=len(y),
            k=k,
            widest=choices,
            sweeps=sweeps,
            rows=_TOGETHER,
            ranks=max(16, triton.next_power_of_2(k)),
            choices=max(16, triton.next_power_of_2(choices)),
            num_warps=4,
        )
    return codes


def quantize_rows(values: Tensor, indptr: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise values: int8 codes (nnz,) and float32 scales (n,). See ``kernels.quantize``.

    Lower bounds: 9 bytes and a few operations per value.
    """
    n = len(indptr) - 1
    rows = torch.repeat_interleave(torch.arange(n, device=values.device), indptr.diff())
    peaks = torch.zeros(n, dtype=torch.float32, device=values.device)
    scales = peaks.scatter_reduce_(0, rows, values.abs(), "amax") / 127
    scales[scales == 0] = 1
    return (values / scales[rows]).round().to(torch.int8), scales
