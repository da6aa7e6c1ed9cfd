"""Products with a sparse S (n, k nonzeros a row) that touch only its nonzeros, in Triton.

Rows of W (or of x) are gathered ``_TOGETHER`` at a time, so that as many loads are under way, into
that many running sums, which are added at the end: always in one order, so that results repeat.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TOGETHER = 8
#: Most parts that a latent's rows are cut to, and nonzeros of a part where they are fewer.
_PARTS, _PART = 16, 256
#: h / k up to which a dense product of S costs less than gathering rows. By arithmetic: a gathered
#: number is 4·k bytes a row and column at 3.3 TB/s, a dense one 2·h operations at 700 TFLOP/s and
#: its part of S written and read; scripts/bench_gpu.py measures both.
_DENSE_UP_TO = 256
#: Bytes of S that are held dense at a time.
_DENSE = 1 << 27


@triton.jit
def decoded(
    ids_ptr, values_ptr, weights_ptr, first, last, d, column,
    together: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Columns of the reconstruction by nonzeros first…last of one row."""
    sums = tl.zeros([together, columns], tl.float32)
    for start in range(first, last, together):
        j = start + tl.arange(0, together)
        latent = tl.load(ids_ptr + j, mask=j < last, other=0).to(tl.int64)
        value = tl.load(values_ptr + j, mask=j < last, other=0.0)
        inside = (j < last)[:, None] & (column < d)[None, :]
        w = tl.load(weights_ptr + latent[:, None] * d + column[None, :], mask=inside, other=0.0)
        sums += value[:, None] * w
    return tl.sum(sums, 0)


@triton.jit
def _decode(
    ids_ptr, values_ptr, weights_ptr, out_ptr, k, d, ids_stride, values_stride,
    together: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    ids_ptr += row * ids_stride
    values_ptr += row * values_stride
    out = decoded(ids_ptr, values_ptr, weights_ptr, 0, k, d, column, together, columns)
    tl.store(out_ptr + row * d + column, out, mask=column < d)


@triton.jit
def _project(
    ids_ptr, rows_ptr, weights_ptr, out_ptr, k, d, ids_stride,
    together: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
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


@triton.jit
def _outer_sum(
    slots_ptr, starts_ptr, values_ptr, rows_ptr, out_ptr, k, d, h, parts,
    together: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Part p of a latent's slots, every parts-th run of ``together``, into out[p, latent]."""
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
    place = (part * h + latent) * d
    tl.store(out_ptr + place + column, tl.sum(sums, 0), mask=column < d)


def columns_of(d: int) -> int:
    """Columns of a program's tile: the widest power of two up to 512 that leaves least unused."""
    choices = [512, 256, 128, 64, 32, 16]
    return min(choices, key=lambda c: (triton.cdiv(d, c) * c, -c))


def decode(indices: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """x̂ (n, d). Floors: n·k·d numbers of W, from the L2 cache where it holds W; n·k·d products."""
    (n, k), d = indices.shape, weights.shape[1]
    _check(values, weights)
    indices, values, weights = _lines(indices), _lines(values), weights.contiguous()
    out = torch.empty(n, d, dtype=torch.float32, device=weights.device)
    columns = columns_of(d)
    if n:
        _decode[(n, triton.cdiv(d, columns))](
            indices, values, weights, out, k, d, indices.stride(0), values.stride(0),
            _TOGETHER, columns, num_warps=4 if columns >= 256 else 2,
        )  # fmt: skip
    return out


def project(indices: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(rows @ Wᵀ) at indices (n, k). Floors: as of ``decode``."""
    (n, k), d = indices.shape, weights.shape[1]
    _check(rows, weights)
    indices, rows, weights = _lines(indices), rows.contiguous(), weights.contiguous()
    out = torch.empty(n, k, dtype=torch.float32, device=weights.device)
    columns = columns_of(d)
    if n:
        _project[(n,)](
            indices, rows, weights, out, k, d, indices.stride(0), _TOGETHER, columns,
            num_warps=4 if columns >= 256 else 2,
        )  # fmt: skip
    return out


def outer_sum(indices: Tensor, values: Tensor, rows: Tensor, h: int) -> Tensor:
    """Sᵀ·rows (h, d): slots are sorted by latent, each latent's rows summed in parts, the parts
    added. Floors: n·k·d numbers of x, read from memory where the L2 cache does not hold x."""
    (n, k), d = indices.shape, rows.shape[1]
    _check(values, rows)
    if n == 0:
        return torch.zeros(h, d, dtype=torch.float32, device=rows.device)
    latents, slots = indices.reshape(-1).sort(stable=True)
    wanted = torch.arange(h + 1, device=rows.device, dtype=latents.dtype)
    starts = torch.searchsorted(latents, wanted)
    parts = max(1, min(_PARTS, n * k // (h * _PART)))
    out = torch.empty(parts, h, d, dtype=torch.float32, device=rows.device)
    columns = columns_of(d)
    _outer_sum[(h * parts, triton.cdiv(d, columns))](
        slots, starts, values.reshape(-1), rows.contiguous(), out, k, d, h, parts,
        _TOGETHER, columns, num_warps=4 if columns >= 256 else 2,
    )  # fmt: skip
    return out.sum(0) if parts > 1 else out[0]


def dense_is_cheaper(k: int, h: int) -> bool:
    """Whether tensor cores take less time for SᵀX with S dense than gathers with S sparse."""
    return h <= _DENSE_UP_TO * k


def dense_outer_sum(
    indices: Tensor, values: Tensor, rows: Tensor, h: int, products: torch.dtype
) -> Tensor:
    """Sᵀ·rows (h, d) float32 with S dense, some rows at a time. Ids of a row are distinct. Floors:
    2·n·h·d operations of the tensor cores; n·h numbers of S, written and read."""
    out = torch.zeros(h, rows.shape[1], device=rows.device)
    size = max(1, _DENSE // (h * products.itemsize))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        s = torch.zeros(len(rows[part]), h, dtype=products, device=rows.device)
        s.scatter_(1, indices[part].long(), values[part].to(products))
        out += (s.T @ rows[part].to(products)).float()
    return out


def _check(*tensors: Tensor) -> None:
    """Refuse what the kernels would not add in its own precision."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"{tensor.dtype} on a GPU: expected float32; give tensor.float()")


def _lines(x: Tensor) -> Tensor:
    """x with each row's entries side by side; rows may lie apart."""
    return x if x.stride(1) == 1 else x.contiguous()
