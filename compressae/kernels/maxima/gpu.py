"""Largest dot product of each block of rows, in Triton: products on tensor cores, no (q, n) scores.

A program holds one tile of rows and goes through all queries. The accumulator has queries as its
rows, so that the maximum of a block is taken within a thread and between four neighbours.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Rows of a program, and queries of a step.
_ROWS, _QUERIES = 256, 64
#: Columns of a step.
_COLUMNS = 64


@triton.jit(do_not_specialize=["q", "n", "blocks"])
def _block_maxima(
    queries_ptr,
    rows_ptr,
    mask_ptr,
    out_ptr,
    q,
    n,
    blocks,
    d: tl.constexpr,
    whole: tl.constexpr,
    masked: tl.constexpr,
    interpreted: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    together: tl.constexpr,
    columns: tl.constexpr,
):
    """Maxima of the tile's blocks with every query, into out (q, blocks)."""
    first = tl.program_id(0).to(tl.int64) * tile
    row = first + tl.arange(0, tile)
    column = tl.arange(0, columns)
    allowed = row < n
    if masked:
        allowed = allowed & (tl.load(mask_ptr + row, mask=allowed, other=0) != 0)
    out_block = first // block + tl.arange(0, tile // block)
    for start in range(0, q, together):
        query = start + tl.arange(0, together)
        if whole:
            sums = tl.zeros([together, tile], tl.int32)
        else:
            sums = tl.zeros([together, tile], tl.float32)
        for left in range(0, d, columns):
            at = left + column
            a = tl.load(
                queries_ptr + query.to(tl.int64)[:, None] * d + at[None, :],
                mask=(query < q)[:, None] & (at < d)[None, :],
                other=0,
            )
            b = tl.load(
                rows_ptr + row[:, None] * d + at[None, :],
                mask=(row < n)[:, None] & (at < d)[None, :],
                other=0,
            )
            if interpreted:
                sums += tl.dot(a.to(tl.float32), b.to(tl.float32).T).to(sums.dtype)
            else:
                sums = tl.dot(a, b.T, sums, out_dtype=sums.dtype)
        if whole:
            sums = tl.where(allowed[None, :], sums, -2147483648)
        else:
            sums = tl.where(allowed[None, :], sums, float("-inf"))
        maxima = tl.max(tl.reshape(sums, [together, tile // block, block]), 2)
        inside = (query < q)[:, None] & (out_block < blocks)[None, :]
        out = out_ptr + query.to(tl.int64)[:, None] * blocks + out_block[None, :]
        tl.store(out, maxima, mask=inside)


def block_maxima(
    queries: Tensor,
    rows: Tensor,
    block: int,
    mask: Tensor | None = None,
    tile: int = _ROWS,
    together: int = _QUERIES,
    warps: int = 4,
    stages: int = 3,
) -> Tensor:
    """See ``kernels.maxima``."""
    (q, d), n = queries.shape, len(rows)
    blocks = triton.cdiv(n, block)
    kind = torch.int32 if rows.dtype == torch.int8 else torch.float32
    out = torch.empty(q, blocks, dtype=kind, device=rows.device)
    from compressae.kernels.backend import interprets

    if q and n:
        _block_maxima[(triton.cdiv(n, tile),)](
            queries_ptr=queries,
            rows_ptr=rows,
            mask_ptr=rows if mask is None else mask.view(torch.uint8),
            out_ptr=out,
            q=q,
            n=n,
            blocks=blocks,
            d=d,
            whole=rows.dtype == torch.int8,
            masked=mask is not None,
            interpreted=interprets(),
            block=block,
            tile=tile,
            together=together,
            columns=min(_COLUMNS, triton.next_power_of_2(d)),
            num_warps=warps,
            num_stages=stages,
        )
    return out
