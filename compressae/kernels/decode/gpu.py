"""Sparse matrix products of S (n, h), k nonzeros per row, in Triton.

A program gathers ``_TOGETHER`` rows of W (or of x) at a time, to have that many loads in flight,
and adds each to its own accumulator. Accumulators are reduced at the end in a fixed order, so
results are deterministic.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Rows gathered at a time.
_TOGETHER = 8
#: Split-K of ``sparse_t_matmul``: most parts per latent, and least nonzeros per part.
_PARTS, _PART = 16, 256
#: Largest h / k at which a dense product costs less than gathers, by arithmetic: a gather reads
#: 4·k bytes per row and column at 3.3 TB/s; a dense product takes 2·h operations at 700 TFLOP/s
#: and writes and reads its share of S. The GPU benchmarks measure both.
_DENSE_UP_TO = 256


@triton.jit
def decoded(
    ids_ptr,
    values_ptr,
    weights_ptr,
    first,
    last,
    d,
    column,
    together: tl.constexpr,
    columns: tl.constexpr,
):
    """Reconstruction (columns,) of one row from its nonzeros first…last."""
    sums = tl.zeros([together, columns], tl.float32)
    for start in range(first, last, together):
        j = start + tl.arange(0, together)
        latent = tl.load(ids_ptr + j, mask=j < last, other=0).to(tl.int64)
        value = tl.load(values_ptr + j, mask=j < last, other=0.0)
        inside = (j < last)[:, None] & (column < d)[None, :]
        w = tl.load(weights_ptr + latent[:, None] * d + column[None, :], mask=inside, other=0.0)
        sums += value[:, None] * w
    return tl.sum(sums, 0)


@triton.jit(do_not_specialize=["k", "ids_stride", "values_stride"])
def _decode(
    ids_ptr,
    values_ptr,
    weights_ptr,
    out_ptr,
    k,
    d,
    ids_stride,
    values_stride,
    together: tl.constexpr,
    columns: tl.constexpr,
):
    """One row and tile of columns of S @ W, into out (n, d)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    ids_ptr += row * ids_stride
    values_ptr += row * values_stride
    out = decoded(ids_ptr, values_ptr, weights_ptr, 0, k, d, column, together, columns)
    tl.store(out_ptr + row * d + column, out, mask=column < d)


@triton.jit(do_not_specialize=["k", "ids_stride"])
def _sampled_matmul(
    ids_ptr,
    rows_ptr,
    weights_ptr,
    out_ptr,
    k,
    d,
    ids_stride,
    together: tl.constexpr,
    columns: tl.constexpr,
):
    """One row of rows @ W.T at its latents, into out (n, k)."""
    row = tl.program_id(0).to(tl.int64)
    for first in range(0, k, together):
        j = first + tl.arange(0, together)
        latent = tl.load(ids_ptr + row * ids_stride + j, mask=j < k, other=0).to(tl.int64)
        sums = tl.zeros([together, columns], tl.float32)
        for start in range(0, d, columns):
            column = start + tl.arange(0, columns)
            x = tl.load(rows_ptr + row * d + column, mask=column < d, other=0.0)
            inside = (j < k)[:, None] & (column < d)[None, :]
            w = tl.load(weights_ptr + latent[:, None] * d + column[None, :], mask=inside, other=0.0)
            sums += x[None, :] * w
        tl.store(out_ptr + row * k + j, tl.sum(sums, 1), mask=j < k)


@triton.jit(do_not_specialize=["k", "parts"])
def _sparse_t_matmul(
    slots_ptr,
    starts_ptr,
    values_ptr,
    rows_ptr,
    out_ptr,
    k,
    d,
    h,
    parts,
    together: tl.constexpr,
    columns: tl.constexpr,
):
    """One part of one latent's sum, into out (parts, h, d).

    A part takes every parts-th run of ``together`` slots.
    """
    latent, part = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    start, stop = tl.load(starts_ptr + latent), tl.load(starts_ptr + latent + 1)
    sums = tl.zeros([together, columns], tl.float32)
    for first in range(start + part * together, stop, parts * together):
        s = first + tl.arange(0, together)
        slot = tl.load(slots_ptr + s, mask=s < stop, other=0)
        value = tl.load(values_ptr + slot, mask=s < stop, other=0.0)
        inside = (s < stop)[:, None] & (column < d)[None, :]
        x = tl.load(rows_ptr + (slot // k)[:, None] * d + column[None, :], mask=inside, other=0.0)
        sums += value[:, None] * x
    offset = (part * h + latent) * d
    tl.store(out_ptr + offset + column, tl.sum(sums, 0), mask=column < d)


def columns_of(d: int) -> int:
    """Columns of a program's tile: the widest power of two up to 512 that pads d least.

    768 gives 256, 96 gives 32.
    """
    choices = [512, 256, 128, 64, 32, 16]
    return min(choices, key=lambda c: (triton.cdiv(d, c) * c, -c))


def decode(indices: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Reconstruct rows (n, d). Equal to ``S @ W``.

    Lower bounds: n·k·d floats of W, from the L2 cache if it holds W; n·k·d multiply-adds.
    """
    (n, k), d = indices.shape, weights.shape[1]
    _check(values, weights)
    indices, values, weights = _unit_stride(indices), _unit_stride(values), weights.contiguous()
    out = torch.empty(n, d, dtype=torch.float32, device=weights.device)
    columns = columns_of(d)
    if n:
        _decode[(n, triton.cdiv(d, columns))](
            ids_ptr=indices,
            values_ptr=values,
            weights_ptr=weights,
            out_ptr=out,
            k=k,
            d=d,
            ids_stride=indices.stride(0),
            values_stride=values.stride(0),
            together=_TOGETHER,
            columns=columns,
            num_warps=4 if columns >= 256 else 2,
        )
    return out


def sampled_matmul(indices: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Multiply rows by Wᵀ at indices (n, k). Lower bounds: those of ``decode``."""
    (n, k), d = indices.shape, weights.shape[1]
    _check(rows, weights)
    indices, rows, weights = _unit_stride(indices), rows.contiguous(), weights.contiguous()
    out = torch.empty(n, k, dtype=torch.float32, device=weights.device)
    columns = columns_of(d)
    if n:
        _sampled_matmul[(n,)](
            ids_ptr=indices,
            rows_ptr=rows,
            weights_ptr=weights,
            out_ptr=out,
            k=k,
            d=d,
            ids_stride=indices.stride(0),
            together=_TOGETHER,
            columns=columns,
            num_warps=4 if columns >= 256 else 2,
        )
    return out


def sparse_t_matmul(indices: Tensor, values: Tensor, rows: Tensor, h: int) -> Tensor:
    """Multiply Sᵀ by rows: (h, d). Equal to ``S.T @ rows``.

    Sort the slots by latent, sum each latent's rows in parts, add the parts.

    Lower bounds: n·k·d floats of x, read from memory if the L2 cache does not hold x.
    """
    (n, k), d = indices.shape, rows.shape[1]
    _check(values, rows)
    if n == 0:
        return torch.zeros(h, d, dtype=torch.float32, device=rows.device)
    latents, slots = indices.reshape(-1).sort(stable=True)
    boundaries = torch.arange(h + 1, device=rows.device, dtype=latents.dtype)
    starts = torch.searchsorted(latents, boundaries)
    parts = max(1, min(_PARTS, n * k // (h * _PART)))
    out = torch.empty(parts, h, d, dtype=torch.float32, device=rows.device)
    columns = columns_of(d)
    _sparse_t_matmul[(h * parts, triton.cdiv(d, columns))](
        slots_ptr=slots,
        starts_ptr=starts,
        values_ptr=values.contiguous(),
        rows_ptr=rows.contiguous(),
        out_ptr=out,
        k=k,
        d=d,
        h=h,
        parts=parts,
        together=_TOGETHER,
        columns=columns,
        num_warps=4 if columns >= 256 else 2,
    )
    return out.sum(0) if parts > 1 else out[0]


def dense_is_cheaper(k: int, h: int) -> bool:
    """Whether products with S cost less with a dense S on tensor cores than with gathers."""
    return h <= _DENSE_UP_TO * k


def _check(*tensors: Tensor) -> None:
    """Raise ValueError unless tensors are float32: kernels accumulate in float32."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"{tensor.dtype} on a GPU: expected float32; give tensor.float()")


def _unit_stride(x: Tensor) -> Tensor:
    """x (n, k) with stride 1 along k; rows may have any stride."""
    return x if x.stride(1) == 1 else x.contiguous()
