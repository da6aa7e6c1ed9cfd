"""Largest products of blocks of sketches, in Triton: int8 products on tensor cores, and maxima of
blocks in their epilogue, so that no (q, n) products reach memory.

A program unpacks one tile of rows and goes through all queries. The accumulator has queries as its
rows: the maximum of a block is taken within a thread, then between four neighbours.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.backend import interprets

#: Rows of a program, and queries of a step: measured on an H100.
TILE, _QUERIES = 256, 64


@triton.jit(do_not_specialize=["q", "n", "blocks", "tiles"])
def _block_maxima(
    queries_ptr,
    rows_ptr,
    lengths_ptr,
    mask_ptr,
    maxima_ptr,
    coarse_ptr,
    q,
    n,
    blocks,
    tiles,
    columns: tl.constexpr,
    scaled: tl.constexpr,
    masked: tl.constexpr,
    interpreted: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    together: tl.constexpr,
):
    """Maxima of a tile with every query: of its blocks (q, blocks), and of all of it (q, tiles)."""
    # Unpack the rows: (tile, columns) int8.
    this = tl.program_id(0).to(tl.int64)
    row, column = this * tile + tl.arange(0, tile), tl.arange(0, columns)
    allowed = row < n
    at = rows_ptr + row[:, None] * (columns // 2) + tl.arange(0, columns // 2)[None, :]
    packed = tl.load(at, mask=allowed[:, None], other=0)
    numbers = tl.reshape(tl.join((packed << 4) >> 4, packed >> 4), [tile, columns])
    if scaled:
        lengths = tl.load(lengths_ptr + row, mask=allowed, other=0.0)
    if masked:
        allowed = allowed & (tl.load(mask_ptr + row, mask=allowed, other=0) != 0)
    out_block = this * (tile // block) + tl.arange(0, tile // block)

    for start in range(0, q, together):
        # Products of 8-bit queries with 4-bit rows.
        query = start + tl.arange(0, together)
        of_query = queries_ptr + query.to(tl.int64)[:, None] * columns
        asked = tl.load(of_query + column[None, :], mask=(query < q)[:, None], other=0)
        if interpreted:
            sums = tl.dot(asked.to(tl.float32), numbers.to(tl.float32).T).to(tl.int32)
        else:
            sums = tl.dot(asked, numbers.T, out_dtype=tl.int32)

        # Maxima; in float32 where rows have lengths, which multiply the half steps too.
        if scaled:
            halves = 0.5 * tl.sum(asked.to(tl.int32), 1).to(tl.float32)
            sums = (sums.to(tl.float32) + halves[:, None]) * lengths[None, :]
            sums = tl.where(allowed[None, :], sums, float("-inf"))
        else:
            sums = tl.where(allowed[None, :], sums, -2147483648)
        maxima = tl.max(tl.reshape(sums, [together, tile // block, block]), 2).to(tl.float32)
        inside = (query < q)[:, None] & (out_block < blocks)[None, :]
        out = query.to(tl.int64)[:, None] * blocks + out_block[None, :]
        tl.store(maxima_ptr + out, maxima, mask=inside)
        tl.store(coarse_ptr + query.to(tl.int64) * tiles + this, tl.max(maxima, 1), mask=query < q)


def block_maxima(
    queries: Tensor, rows: Tensor, lengths: Tensor | None, block: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Largest product of each block of rows, and of each ``TILE`` rows, with each query.

    Lower bounds: 2·q·n·m operations on the tensor cores for m columns; n·m/2 bytes read and
    4·q·n / block written; q·n maxima outside the tensor cores.

    Args:
        queries: (q, m) int8.
        rows: (n, m / 2) int8, see ``kernels.sketch``.
        lengths: (n,) float32 that multiply a row's products, or None.
        block: rows of a block: a power of two, at most ``TILE``.
        mask: (n,) bool, True for rows that count; all when None.

    Returns:
        (q, ⌈n / block⌉) and (q, ⌈n / TILE⌉) float32; where no row counts −2^31, with lengths −inf.
    """
    q, n = len(queries), len(rows)
    blocks, tiles = triton.cdiv(n, block), triton.cdiv(n, TILE)
    maxima = torch.empty(q, blocks, device=rows.device)
    coarse = torch.empty(q, tiles, device=rows.device)
    if q and n:
        _block_maxima[(tiles,)](
            queries_ptr=queries,
            rows_ptr=rows,
            lengths_ptr=maxima if lengths is None else lengths,
            mask_ptr=rows if mask is None else mask.view(torch.uint8),
            maxima_ptr=maxima,
            coarse_ptr=coarse,
            q=q,
            n=n,
            blocks=blocks,
            tiles=tiles,
            columns=queries.shape[1],
            scaled=lengths is not None,
            masked=mask is not None,
            interpreted=interprets(),
            block=block,
            tile=TILE,
            together=_QUERIES,
            num_warps=8,
        )
    return maxima, coarse
