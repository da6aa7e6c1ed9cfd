"""A scan of all rows with fused top-K, in Triton.

The first launch scores every row and writes the largest score of each block of rows. The K best
rows lie in the K blocks of largest maxima, ties by smaller block: were one of them in another
block, each of those K would hold a row with a larger score, or with the same score and a smaller
number, and K rows would be better than it. The second launch scores the rows of these blocks.

Both must give a row the same bits, or a block might be missed. So every kernel here adds a row's
terms one after another in the order of its residual codes and ranks, by explicit fused
multiply-adds that no compiler may reorder or split, and multiplies by the row's factor last.
Nonzeros that only fill a row multiply by 0 and change no sum. Ranks go by four, so that their
loads are under way at once.
"""

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.scan.planes import BLOCK, Planes

#: How the first launch reads q': one query a program from shared memory or through the L1 cache,
#: or queries side by side.
Form = Literal["shared", "cached", "together"]

#: The longest q' that shared memory and registers hold.
_SHARED_WIDTH = 1 << 14
#: Bytes of q' side by side that the L1 cache of an SM shall hold beside the rows.
_L1 = 160 << 10
#: Queries from which they are read side by side.
_MANY = 4
_TILE = 256


@triton.jit
def _nonzero(
    slots_ptr, values_ptr, levels_ptr, at, inside, filled, r, ranks,
    id_bits: tl.constexpr, named: tl.constexpr, apart: tl.constexpr, ragged: tl.constexpr,
):  # fmt: skip
    """Latents and values of the r-th nonzeros of rows; 0 and 0 from ``filled`` on."""
    there = inside & (r < ranks)
    slot = tl.load(slots_ptr + at, mask=there, other=0)
    ids = slot.to(tl.int32)
    if slot.dtype == tl.int16:
        ids = ids & 0xFFFF
    if apart:
        number = tl.load(values_ptr + at, mask=there, other=0)
    else:
        number = ids >> id_bits
        ids = ids & ((1 << id_bits) - 1)
    if named > 0:
        value = tl.load(levels_ptr + r * named + number.to(tl.int32), mask=there, other=0.0)
    else:
        value = number.to(tl.float32)
    if ragged:
        value = tl.where(r < filled, value, 0.0)
    return ids, value


@triton.jit
def _factor(gains_ptr, table_ptr, at, inside, factor: tl.constexpr):
    """What the scores of rows are multiplied by: from a table, or as it is."""
    number = tl.load(gains_ptr + at, mask=inside, other=0)
    if factor == "table":
        number = tl.load(table_ptr + number.to(tl.int32), mask=inside, other=0.0)
    return number


@triton.jit
def _found(row, n, mask_ptr, inside, masked: tl.constexpr):
    """Whether rows are there and may be found."""
    found = inside & (row < n)
    if masked:
        found = found & (tl.load(mask_ptr + row, mask=found, other=0) != 0)
    return found


@triton.jit
def _maxima_of_one(
    slots_ptr, values_ptr, levels_ptr, counts_ptr, residual_ptr, gains_ptr, gain_table_ptr,
    mask_ptr, queries_ptr, tables_ptr, out_ptr, n, blocks, ranks, parts, tiles,
    width: tl.constexpr, id_bits: tl.constexpr, named: tl.constexpr, apart: tl.constexpr,
    ragged: tl.constexpr, factor: tl.constexpr, masked: tl.constexpr, shared: tl.constexpr,
    rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Largest scores of the blocks of one tile of rows with one query, into out (q, blocks)."""
    query = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles).to(tl.int64) * (rows // block)
    lane = tl.arange(0, rows)
    here = first + lane // block
    within = lane % block
    inside = here < blocks
    at = here * block + within
    queries_ptr += query.to(tl.int64) * width
    tables_ptr += query.to(tl.int64) * parts * 256
    filled = lane
    if ragged:
        filled = tl.load(counts_ptr + at, mask=inside, other=0)
    total = tl.zeros([rows], tl.float32)
    for b in range(parts):
        code = tl.load(residual_ptr + (here * parts + b) * block + within, mask=inside, other=0)
        total += tl.load(tables_ptr + b * 256 + code.to(tl.int32), mask=inside, other=0.0)
    place = here * ranks * block + within
    if shared:
        q = tl.load(queries_ptr + tl.arange(0, width))
        for r in range(0, ranks, 4):
            # Four ranks a gather: each one puts q' into shared memory anew.
            i0, v0 = _nonzero(
                slots_ptr, values_ptr, levels_ptr, place + r * block, inside, filled, r,
                ranks, id_bits, named, apart, ragged,
            )  # fmt: skip
            i1, v1 = _nonzero(
                slots_ptr, values_ptr, levels_ptr, place + (r + 1) * block, inside, filled, r + 1,
                ranks, id_bits, named, apart, ragged,
            )  # fmt: skip
            i2, v2 = _nonzero(
                slots_ptr, values_ptr, levels_ptr, place + (r + 2) * block, inside, filled, r + 2,
                ranks, id_bits, named, apart, ragged,
            )  # fmt: skip
            i3, v3 = _nonzero(
                slots_ptr, values_ptr, levels_ptr, place + (r + 3) * block, inside, filled, r + 3,
                ranks, id_bits, named, apart, ragged,
            )  # fmt: skip
            ids = tl.join(tl.join(i0, i1), tl.join(i2, i3))
            found = tl.gather(q, tl.reshape(ids, [4 * rows]), 0)
            even, odd = tl.split(tl.reshape(found, [rows, 2, 2]))
            q0, q1 = tl.split(even)
            q2, q3 = tl.split(odd)
            total = tl.fma(q0, v0, total)
            total = tl.fma(q1, v1, total)
            total = tl.fma(q2, v2, total)
            total = tl.fma(q3, v3, total)
    else:
        for start in range(0, ranks, 4):
            for i in tl.static_range(4):
                r = start + i
                ids, value = _nonzero(
                    slots_ptr, values_ptr, levels_ptr, place + r * block, inside, filled, r,
                    ranks, id_bits, named, apart, ragged,
                )  # fmt: skip
                total = tl.fma(tl.load(queries_ptr + ids), value, total)
    if factor != "one":
        total = total * _factor(gains_ptr, gain_table_ptr, at, inside, factor)
    total = tl.where(_found(at, n, mask_ptr, inside, masked), total, float("-inf"))
    best = tl.max(tl.reshape(total, [rows // block, block]), 1)
    here = first + tl.arange(0, rows // block)
    tl.store(out_ptr + query.to(tl.int64) * blocks + here, best, mask=here < blocks)


@triton.jit
def _maxima_of_many(
    slots_ptr, values_ptr, levels_ptr, counts_ptr, residual_ptr, gains_ptr, gain_table_ptr,
    mask_ptr, queries_ptr, tables_ptr, out_ptr, q, n, blocks, ranks, parts, groups,
    width: tl.constexpr, id_bits: tl.constexpr, named: tl.constexpr, apart: tl.constexpr,
    ragged: tl.constexpr, factor: tl.constexpr, masked: tl.constexpr, together: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """Largest scores of one block with ``together`` queries, into out (q, blocks).

    Queries are (groups, width, together), so that one nonzero reads one row; programs of all
    groups for a block follow one another, so that the block is read from memory once.
    """
    group = (tl.program_id(0) % groups).to(tl.int64)
    here = (tl.program_id(0) // groups).to(tl.int64)
    within = tl.arange(0, block)
    inside = within < block
    side = tl.arange(0, together)[None, :]
    queries_ptr += group * width * together
    tables_ptr += group * parts * 256 * together
    at = here * block + within
    filled = within
    if ragged:
        filled = tl.load(counts_ptr + at)
    total = tl.zeros([block, together], tl.float32)
    for b in range(parts):
        code = tl.load(residual_ptr + (here * parts + b) * block + within)
        total += tl.load(tables_ptr + (b * 256 + code.to(tl.int32))[:, None] * together + side)
    place = here * ranks * block + within
    for start in range(0, ranks, 4):
        for i in tl.static_range(4):
            r = start + i
            ids, value = _nonzero(
                slots_ptr, values_ptr, levels_ptr, place + r * block, inside, filled, r,
                ranks, id_bits, named, apart, ragged,
            )  # fmt: skip
            found = tl.load(queries_ptr + ids[:, None] * together + side).to(tl.float32)
            total = tl.fma(found, tl.broadcast_to(value[:, None], [block, together]), total)
    if factor != "one":
        total = total * _factor(gains_ptr, gain_table_ptr, at, inside, factor)[:, None]
    found = _found(at, n, mask_ptr, inside, masked)
    best = tl.max(tl.where(found[:, None], total, float("-inf")), 0)
    query = group * together + tl.arange(0, together)
    tl.store(out_ptr + query * blocks + here, best, mask=query < q)


@triton.jit
def _scores_of_rows(
    slots_ptr, values_ptr, levels_ptr, counts_ptr, residual_ptr, gains_ptr, gain_table_ptr,
    mask_ptr, queries_ptr, tables_ptr, rows_ptr, out_ptr, n, ranks, parts, wanted, tiles,
    width: tl.constexpr, id_bits: tl.constexpr, named: tl.constexpr, apart: tl.constexpr,
    ragged: tl.constexpr, factor: tl.constexpr, masked: tl.constexpr, whole: tl.constexpr,
    rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Scores of each query's own rows, or of its own blocks' rows, into out (q, wanted)."""
    query = (tl.program_id(0) // tiles).to(tl.int64)
    lane = (tl.program_id(0) % tiles) * rows + tl.arange(0, rows)
    asked = lane < wanted
    if whole:
        row = tl.load(rows_ptr + query * (wanted // block) + lane // block, mask=asked, other=0)
        row = row * block + lane % block
    else:
        row = tl.load(rows_ptr + query * wanted + lane, mask=asked, other=-1)
    found = _found(row, n, mask_ptr, asked & (row >= 0), masked)
    row = tl.where(found, row, 0)
    here = row // block
    within = row % block
    queries_ptr += query * width
    tables_ptr += query * parts * 256
    filled = lane
    if ragged:
        filled = tl.load(counts_ptr + row)
    total = tl.zeros([rows], tl.float32)
    for b in range(parts):
        code = tl.load(residual_ptr + (here * parts + b) * block + within, mask=found, other=0)
        total += tl.load(tables_ptr + b * 256 + code.to(tl.int32), mask=found, other=0.0)
    place = here * ranks * block + within
    for start in range(0, ranks, 4):
        for i in tl.static_range(4):
            r = start + i
            ids, value = _nonzero(
                slots_ptr, values_ptr, levels_ptr, place + r * block, found, filled, r,
                ranks, id_bits, named, apart, ragged,
            )  # fmt: skip
            total = tl.fma(tl.load(queries_ptr + ids), value, total)
    if factor != "one":
        total = total * _factor(gains_ptr, gain_table_ptr, row, found, factor)
    total = tl.where(found, total, float("-inf"))
    tl.store(out_ptr + query * wanted + lane, total, mask=asked)


class _Arguments:
    """What every launch passes of planes, with a tensor to stand where there is none."""

    def __init__(self, planes: Planes, mask: Tensor | None) -> None:
        p, none = planes, planes.slots
        factor = p.factors if p.factors is not None else p.gains
        self.tensors = [
            none if tensor is None else tensor
            for tensor in (
                p.slots, p.values, p.levels, p.counts, p.residual, factor, p.gain_table,
                None if mask is None else mask.view(torch.uint8),
            )
        ]  # fmt: skip
        self.ranks = p.slots.shape[1]
        self.parts = 0 if p.residual is None else p.residual.shape[1]
        self.width = max(16, 1 << p.id_bits)
        kind = "one" if factor is None else "table" if p.factors is None else "each"
        self.constants = {
            "width": self.width,
            "id_bits": p.id_bits,
            "named": 0 if p.levels is None else p.levels.shape[1],
            "apart": p.values is not None,
            "ragged": p.counts is not None,
            "factor": kind,
            "masked": mask is not None,
            "block": BLOCK,
        }

    def padded(self, queries: Tensor) -> Tensor:
        """Queries (q, h) as (q, width): no latent in a slot, be it damaged, reads beyond them."""
        out = torch.zeros(len(queries), self.width, device=queries.device)
        out[:, : queries.shape[1]] = queries
        return out


def side_by_side(width: int, half: bool) -> int:
    """How many queries stand side by side: the most whose q' the L1 cache holds, from 8; where it
    does not hold 8, 32, since each nonzero then reads a line or two of the L2 cache."""
    count = _L1 // (width * (2 if half else 4))
    return 32 if count < 8 or count >= 32 else 16 if count >= 16 else 8


def form_for(queries: int, width: int) -> Form:
    """Few queries are read one at a time, from shared memory where q' fits."""
    if queries >= _MANY:
        return "together"
    return "shared" if width <= _SHARED_WIDTH else "cached"


def block_maxima(
    planes: Planes,
    queries: Tensor,
    tables: Tensor | None,
    mask: Tensor | None = None,
    half: bool = False,
    form: Form | None = None,
) -> Tensor:
    """The largest score of each block with each query: (q, blocks) float32.

    Floors on the GPU: the planes are read once from memory, for one query as for a batch that
    the L2 cache serves; n·q·(K + m) reads of 4 bytes (2 with ``half``) from the L1 cache or shared
    memory and as many multiply-adds.

    Args:
        planes: n rows.
        queries: (q, h) float32.
        tables: (q, m, 256) float32, where the planes carry residual codes.
        mask: (n,) bool, the rows that may be found; all when None.
        half: q' side by side in float16.
        form: how q' is read; see ``form_for``.
    """
    a = _Arguments(planes, mask)
    q, blocks = len(queries), planes.blocks
    out = torch.empty(q, blocks, device=queries.device)
    if q == 0 or blocks == 0:
        return out
    if form is None:
        form = form_for(q, a.width)
    padded = a.padded(queries)
    shape = (planes.n, blocks, a.ranks, a.parts)
    if form == "together":
        count = side_by_side(a.width, half)
        groups = triton.cdiv(q, count)
        beside = _beside(padded.half() if half else padded, groups, count)
        tabled = beside if tables is None else _beside(tables.flatten(1), groups, count)
        _maxima_of_many[(groups * blocks,)](
            *a.tensors, beside, tabled, out, q, *shape, groups,
            **a.constants, together=count, num_warps=4,
        )  # fmt: skip
        return out
    rows = _TILE * (8 if form == "shared" else 2)
    tiles = triton.cdiv(blocks * BLOCK, rows)
    _maxima_of_one[(q * tiles,)](
        *a.tensors, padded, padded if tables is None else tables.contiguous(), out, *shape, tiles,
        **a.constants, shared=form == "shared", rows=rows,
        num_warps=8 if form == "shared" else 4,
    )  # fmt: skip
    return out


def _beside(x: Tensor, groups: int, count: int) -> Tensor:
    """Rows (q, w) as (groups, w, count), zeros after the last."""
    out = x.new_zeros(groups * count, x.shape[1])
    out[: len(x)] = x
    return out.view(groups, count, -1).transpose(1, 2).contiguous()


def scores(
    planes: Planes,
    queries: Tensor,
    tables: Tensor | None,
    which: Tensor,
    mask: Tensor | None = None,
    whole: bool = False,
) -> Tensor:
    """Scores (q, C) float32 of each query's rows ``which`` (q, C) int64, −inf for row −1, or with
    ``whole`` (q, C·BLOCK) of all rows of its blocks ``which``.

    Floors on the GPU: C rows a query are read, each of its K + m entries from a sector of its own
    (32 bytes) unless rows are neighbours; q·C·(K + m) multiply-adds.
    """
    a = _Arguments(planes, mask)
    q, wanted = len(queries), which.shape[1] * (BLOCK if whole else 1)
    out = torch.empty(q, wanted, device=queries.device)
    if q == 0 or wanted == 0:
        return out
    padded = a.padded(queries)
    rows = _TILE
    tiles = triton.cdiv(wanted, rows)
    _scores_of_rows[(q * tiles,)](
        *a.tensors, padded, padded if tables is None else tables.contiguous(),
        which.contiguous(), out, planes.n, a.ranks, a.parts, wanted, tiles,
        **a.constants, whole=whole, rows=rows, num_warps=4,
    )  # fmt: skip
    return out
