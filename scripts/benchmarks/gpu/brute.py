"""The fair rival: dense rows in bfloat16 with the selection that our own search uses."""

import torch
import triton
import triton.language as tl

from compressae.kernels.backend import interprets


@triton.jit
def _dense_maxima(
    queries_ptr,
    rows_ptr,
    out_ptr,
    q,
    n,
    blocks,
    d: tl.constexpr,
    interpreted: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    together: tl.constexpr,
    columns: tl.constexpr,
):
    """Maxima of the blocks of a tile of rows with every query, into out (q, blocks)."""
    first = tl.program_id(0).to(tl.int64) * tile
    row = first + tl.arange(0, tile)
    out_block = first // block + tl.arange(0, tile // block)
    for start in range(0, q, together):
        query = start + tl.arange(0, together)
        sums = tl.zeros([together, tile], tl.float32)
        for left in range(0, d, columns):
            at = left + tl.arange(0, columns)
            a = tl.load(
                queries_ptr + query[:, None] * d + at[None, :], mask=(query < q)[:, None], other=0
            )
            b = tl.load(rows_ptr + row[:, None] * d + at[None, :], mask=(row < n)[:, None], other=0)
            if interpreted:
                a, b = a.to(tl.float32), b.to(tl.float32)
            sums = tl.dot(a, b.T, sums)
        sums = tl.where((row < n)[None, :], sums, float("-inf"))
        maxima = tl.max(tl.reshape(sums, [together, tile // block, block]), 2)
        inside = (query < q)[:, None] & (out_block < blocks)[None, :]
        out = out_ptr + query.to(tl.int64)[:, None] * blocks + out_block[None, :]
        tl.store(out, maxima, mask=inside)


def dense_maxima(queries: torch.Tensor, rows: torch.Tensor, block: int) -> torch.Tensor:
    """Largest product of each block of rows (n, d) bfloat16 with each query (q, d): (q, ⌈n /
    block⌉). d is a multiple of 64."""
    (q, d), n, tile = queries.shape, len(rows), 128
    blocks = triton.cdiv(n, block)
    out = torch.empty(q, blocks, device=rows.device)
    _dense_maxima[(triton.cdiv(n, tile),)](
        queries, rows, out, q, n, blocks, d, interprets(), block, tile, 128, 64, num_warps=8
    )
    return out
