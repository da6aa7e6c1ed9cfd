"""Largest products of blocks of sketches, in Triton: int8 products on tensor cores, and maxima of
blocks in their epilogue, so that no (q, n) products reach memory.

A program unpacks one tile of rows and goes through all queries. The accumulator has queries as its
rows: the maximum of a block is taken within a thread, then between four neighbours. The two halves
of a row's columns lie in the low and the high bits of its bytes, so that each is unpacked where it
is and multiplied with its half of the queries.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.backend import interprets

#: Rows of a program, queries of a step, and warps: measured on an H100, where eight warps take
#: three times as long, since the maxima of a block then cross warps.
TILE, _QUERIES, _WARPS = 256, 64, 4


@triton.jit
def _halves(packed, interpreted: tl.constexpr):
    """Low and high four bits of bytes. In machine code, four bytes at once: the compiler would take
    them one by one, and the products wait twice as long."""
    if interpreted:
        low, high = packed & 15, (packed >> 4) & 15
    else:
        low, high = tl.inline_asm_elementwise(
            "and.b32 $0, $2, 0x0F0F0F0F; shr.b32 $1, $2, 4; and.b32 $1, $1, 0x0F0F0F0F;",
            "=&r,=r,r",
            [packed],
            dtype=(tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    return low, high


@triton.jit(do_not_specialize=["q", "n", "first_tile", "blocks", "tiles"])
def _block_maxima(
    queries_ptr,
    rows_ptr,
    lengths_ptr,
    mask_ptr,
    maxima_ptr,
    coarse_ptr,
    q,
    n,
    first_tile,
    blocks,
    tiles,
    columns: tl.constexpr,
    scaled: tl.constexpr,
    masked: tl.constexpr,
    whole: tl.constexpr,
    interpreted: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    together: tl.constexpr,
):
    """Maxima of a tile with every query: of its blocks (q, blocks), and of all of it (q, tiles).

    All rows of a ``whole`` tile exist.
    """
    # Unpack the rows: (tile, columns / 2) int8 twice.
    half: tl.constexpr = columns // 2
    this = first_tile + tl.program_id(0).to(tl.int64)
    row, column = this * tile + tl.arange(0, tile), tl.arange(0, half)
    allowed = row < n
    at = rows_ptr + row[:, None] * half + column[None, :]
    packed = tl.load(at, mask=allowed[:, None], other=0)
    low, high = _halves(packed, interpreted)
    if scaled:
        lengths = tl.load(lengths_ptr + row, mask=allowed, other=0.0)
    if masked:
        allowed = allowed & (tl.load(mask_ptr + row, mask=allowed, other=0) != 0)
    out_block = this * (tile // block) + tl.arange(0, tile // block)

    for start in range(0, q, together):
        # Products of 8-bit queries with 4-bit rows.
        query = start + tl.arange(0, together)
        of_query = queries_ptr + query.to(tl.int64)[:, None] * columns + column[None, :]
        first = tl.load(of_query, mask=(query < q)[:, None], other=0)
        second = tl.load(of_query + half, mask=(query < q)[:, None], other=0)
        if interpreted:
            sums = tl.dot(first.to(tl.float32), low.to(tl.float32).T)
            sums = tl.dot(second.to(tl.float32), high.to(tl.float32).T, sums).to(tl.int32)
        else:
            sums = tl.dot(first, low.T, out_dtype=tl.int32)
            sums = tl.dot(second, high.T, sums, out_dtype=tl.int32)

        # Maxima; in float32 where rows have lengths, which multiply what the numbers stand for.
        if scaled:
            middle = tl.sum(first.to(tl.int32) + second.to(tl.int32), 1).to(tl.float32) * 7.5
            sums = (sums.to(tl.float32) - middle[:, None]) * lengths[None, :]
        if masked or not whole:
            sums = tl.where(allowed[None, :], sums, float("-inf") if scaled else -2147483648)
        maxima = tl.max(tl.reshape(sums, [together, tile // block, block]), 2).to(tl.float32)
        inside = (query < q)[:, None] & (out_block < blocks)[None, :]
        out = query.to(tl.int64)[:, None] * blocks + out_block[None, :]
        tl.store(maxima_ptr + out, maxima, mask=inside)
        tl.store(coarse_ptr + query.to(tl.int64) * tiles + this, tl.max(maxima, 1), mask=query < q)


def block_maxima(
    queries: Tensor, rows: Tensor, lengths: Tensor | None, block: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Largest product of each block of rows, and of each ``TILE`` rows, with each query.

    Products are those with the numbers as they are stored, 0 to 15; where rows have lengths, with
    what they stand for.

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
    # The last tile by itself, if rows are missing: to ask in all takes a fifth of the time.
    whole_tiles = n // TILE
    for first, count in ((0, whole_tiles), (whole_tiles, tiles - whole_tiles)):
        if q == 0 or count == 0:
            continue
        _block_maxima[(count,)](
            queries_ptr=queries,
            rows_ptr=rows,
            lengths_ptr=maxima if lengths is None else lengths,
            mask_ptr=rows if mask is None else mask.view(torch.uint8),
            maxima_ptr=maxima,
            coarse_ptr=coarse,
            q=q,
            n=n,
            first_tile=first,
            blocks=blocks,
            tiles=tiles,
            columns=queries.shape[1],
            scaled=lengths is not None,
            masked=mask is not None,
            whole=first < whole_tiles,
            interpreted=interprets(),
            block=block,
            tile=TILE,
            together=_QUERIES,
            num_warps=_WARPS,
        )
    return maxima, coarse
