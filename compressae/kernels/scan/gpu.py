"""Exhaustive scan with fused top-K, in Triton.

Two launches. The first scores every row and writes the maximum of each block of rows. The top K
rows lie in the K blocks of largest maxima (ties by smaller block): a row of any other block is
beaten by one row in each of these K. The second launch scores the rows of these blocks.

Both launches must give a row bit-identical scores, or a block could be missed. So all kernels add
a row's terms in one order (residual codes, which are then scaled, and ranks), with explicit fused
multiply-adds that the compiler may not reorder or split, and multiply by the row's factor last.
Padding nonzeros multiply by 0 and do not change the sum. Ranks are unrolled by four, to have their
loads in flight together.
"""

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.scan.planes import SCAN_BLOCK, Planes

#: How the first launch reads queries: one per program, from shared memory or through the L1 cache,
#: or a group of queries per program.
Form = Literal["shared", "cached", "together"]

#: Longest query that fits shared memory and registers.
_SHARED_WIDTH = 1 << 14
#: Bytes of an SM's L1 cache for a group of queries.
_L1 = 160 << 10
#: Least queries to read in groups.
_MANY = 4
_TILE = 256


@triton.jit
def _nonzero(
    slots_ptr,
    values_ptr,
    levels_ptr,
    offset,
    inside,
    counts,
    r,
    ranks,
    id_bits: tl.constexpr,
    level_count: tl.constexpr,
    separate_values: tl.constexpr,
    ragged: tl.constexpr,
):
    """Latents and values of the r-th nonzeros of a tile of rows; value 0 from ``counts`` on."""
    # Split the slot into latent and level number, or load the value.
    valid = inside & (r < ranks)
    slot = tl.load(slots_ptr + offset, mask=valid, other=0)
    ids = slot.to(tl.int32)
    if slot.dtype == tl.int16:
        ids = ids & 0xFFFF
    if separate_values:
        number = tl.load(values_ptr + offset, mask=valid, other=0)
    else:
        number = ids >> id_bits
    ids = ids & ((1 << id_bits) - 1)  # A damaged slot too stays within the query.

    # Dequantise.
    if level_count > 0:
        level = r * level_count + number.to(tl.int32)
        value = tl.load(levels_ptr + level, mask=valid, other=0.0)
    else:
        value = number.to(tl.float32)
    if ragged:
        value = tl.where(r < counts, value, 0.0)
    return ids, value


@triton.jit
def _factor(gains_ptr, table_ptr, row, inside, factor: tl.constexpr):
    """Factors of rows: stored, or looked up in a table."""
    number = tl.load(gains_ptr + row, mask=inside, other=0)
    if factor == "table":
        number = tl.load(table_ptr + number.to(tl.int32), mask=inside, other=0.0)
    return number


@triton.jit
def _allowed(row, n, mask_ptr, inside, masked: tl.constexpr):
    """Whether rows exist and pass the mask."""
    allowed = inside & (row < n)
    if masked:
        allowed = allowed & (tl.load(mask_ptr + row, mask=allowed, other=0) != 0)
    return allowed


@triton.jit(do_not_specialize=["n", "blocks", "ranks", "parts", "tiles"])
def _maxima_of_one(
    slots_ptr,
    values_ptr,
    levels_ptr,
    counts_ptr,
    residual_ptr,
    gains_ptr,
    gain_table_ptr,
    scale_table_ptr,
    mask_ptr,
    queries_ptr,
    tables_ptr,
    out_ptr,
    n,
    blocks,
    ranks,
    parts,
    tiles,
    width: tl.constexpr,
    id_bits: tl.constexpr,
    level_count: tl.constexpr,
    separate_values: tl.constexpr,
    ragged: tl.constexpr,
    factor: tl.constexpr,
    scaled: tl.constexpr,
    masked: tl.constexpr,
    shared: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """Block maxima of one tile of ``rows`` rows with one query, into out (q, blocks)."""
    # Rows of this tile; block_id and local address them in the planes (B, ·, block).
    query = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles).to(tl.int64) * (rows // block)
    lane = tl.arange(0, rows)
    block_id = first + lane // block
    local = lane % block
    inside = block_id < blocks
    row = block_id * block + local
    queries_ptr += query.to(tl.int64) * width
    tables_ptr += query.to(tl.int64) * parts * 256
    counts = lane
    if ragged:
        counts = tl.load(counts_ptr + row, mask=inside, other=0)

    # Residual codes: one table lookup each.
    score = tl.zeros([rows], tl.float32)
    for b in range(parts):
        code = tl.load(residual_ptr + (block_id * parts + b) * block + local, mask=inside, other=0)
        score += tl.load(tables_ptr + b * 256 + code.to(tl.int32), mask=inside, other=0.0)
    if scaled:
        score = score * _factor(gains_ptr, scale_table_ptr, row, inside, "table")

    # Nonzeros: gather the query at their latents, from shared memory or through the L1 cache.
    base = block_id * ranks * block + local
    if shared:
        q = tl.load(queries_ptr + tl.arange(0, width))
        for r in range(0, ranks, 4):
            # Four ranks share one gather, since each gather copies the query to shared memory.
            i0, v0 = _nonzero(
                slots_ptr, values_ptr, levels_ptr, base + r * block, inside, counts, r,
                ranks, id_bits, level_count, separate_values, ragged,
            )  # fmt: skip
            i1, v1 = _nonzero(
                slots_ptr, values_ptr, levels_ptr, base + (r + 1) * block, inside, counts, r + 1,
                ranks, id_bits, level_count, separate_values, ragged,
            )  # fmt: skip
            i2, v2 = _nonzero(
                slots_ptr, values_ptr, levels_ptr, base + (r + 2) * block, inside, counts, r + 2,
                ranks, id_bits, level_count, separate_values, ragged,
            )  # fmt: skip
            i3, v3 = _nonzero(
                slots_ptr, values_ptr, levels_ptr, base + (r + 3) * block, inside, counts, r + 3,
                ranks, id_bits, level_count, separate_values, ragged,
            )  # fmt: skip
            ids = tl.join(tl.join(i0, i1), tl.join(i2, i3))
            gathered = tl.gather(q, tl.reshape(ids, [4 * rows]), 0)
            even, odd = tl.split(tl.reshape(gathered, [rows, 2, 2]))
            q0, q1 = tl.split(even)
            q2, q3 = tl.split(odd)
            score = tl.fma(q0, v0, score)
            score = tl.fma(q1, v1, score)
            score = tl.fma(q2, v2, score)
            score = tl.fma(q3, v3, score)
    else:
        for start in range(0, ranks, 4):
            for i in tl.static_range(4):
                r = start + i
                ids, value = _nonzero(
                    slots_ptr,
                    values_ptr,
                    levels_ptr,
                    base + r * block,
                    inside,
                    counts,
                    r,
                    ranks,
                    id_bits,
                    level_count,
                    separate_values,
                    ragged,
                )
                score = tl.fma(tl.load(queries_ptr + ids), value, score)

    # Factor, mask, maximum per block.
    if factor != "one":
        score = score * _factor(gains_ptr, gain_table_ptr, row, inside, factor)
    score = tl.where(_allowed(row, n, mask_ptr, inside, masked), score, float("-inf"))
    maxima = tl.max(tl.reshape(score, [rows // block, block]), 1)
    out_block = first + tl.arange(0, rows // block)
    tl.store(out_ptr + query.to(tl.int64) * blocks + out_block, maxima, mask=out_block < blocks)


@triton.jit(do_not_specialize=["q", "n", "blocks", "ranks", "parts", "groups"])
def _maxima_of_many(
    slots_ptr,
    values_ptr,
    levels_ptr,
    counts_ptr,
    residual_ptr,
    gains_ptr,
    gain_table_ptr,
    scale_table_ptr,
    mask_ptr,
    queries_ptr,
    tables_ptr,
    out_ptr,
    q,
    n,
    blocks,
    ranks,
    parts,
    groups,
    width: tl.constexpr,
    id_bits: tl.constexpr,
    level_count: tl.constexpr,
    separate_values: tl.constexpr,
    ragged: tl.constexpr,
    factor: tl.constexpr,
    scaled: tl.constexpr,
    masked: tl.constexpr,
    group_size: tl.constexpr,
    block: tl.constexpr,
):
    """Maxima of one block with a group of ``group_size`` queries, into out (q, blocks).

    Queries are (groups, width, group_size), so that a nonzero loads one contiguous row. The groups
    of a block are consecutive programs, so that the block is read from memory once.
    """
    group = (tl.program_id(0) % groups).to(tl.int64)
    block_id = (tl.program_id(0) // groups).to(tl.int64)
    local = tl.arange(0, block)
    inside = local < block
    lane = tl.arange(0, group_size)[None, :]
    queries_ptr += group * width * group_size
    tables_ptr += group * parts * 256 * group_size
    row = block_id * block + local
    counts = local
    if ragged:
        counts = tl.load(counts_ptr + row)

    # Residual codes: one table lookup each.
    score = tl.zeros([block, group_size], tl.float32)
    for b in range(parts):
        code = tl.load(residual_ptr + (block_id * parts + b) * block + local)
        entry = (b * 256 + code.to(tl.int32))[:, None] * group_size
        score += tl.load(tables_ptr + entry + lane)
    if scaled:
        score = score * _factor(gains_ptr, scale_table_ptr, row, inside, "table")[:, None]

    # Nonzeros: load the row of queries at each latent.
    base = block_id * ranks * block + local
    for start in range(0, ranks, 4):
        for i in tl.static_range(4):
            r = start + i
            ids, value = _nonzero(
                slots_ptr,
                values_ptr,
                levels_ptr,
                base + r * block,
                inside,
                counts,
                r,
                ranks,
                id_bits,
                level_count,
                separate_values,
                ragged,
            )
            gathered = tl.load(queries_ptr + ids[:, None] * group_size + lane).to(tl.float32)
            score = tl.fma(gathered, tl.broadcast_to(value[:, None], [block, group_size]), score)

    # Factor, mask, maximum over the block.
    if factor != "one":
        score = score * _factor(gains_ptr, gain_table_ptr, row, inside, factor)[:, None]
    allowed = _allowed(row, n, mask_ptr, inside, masked)
    maxima = tl.max(tl.where(allowed[:, None], score, float("-inf")), 0)
    query = group * group_size + tl.arange(0, group_size)
    tl.store(out_ptr + query * blocks + block_id, maxima, mask=query < q)


@triton.jit(do_not_specialize=["n", "ranks", "parts", "columns", "tiles"])
def _scores_of_rows(
    slots_ptr,
    values_ptr,
    levels_ptr,
    counts_ptr,
    residual_ptr,
    gains_ptr,
    gain_table_ptr,
    scale_table_ptr,
    mask_ptr,
    queries_ptr,
    tables_ptr,
    rows_ptr,
    out_ptr,
    n,
    ranks,
    parts,
    columns,
    tiles,
    width: tl.constexpr,
    id_bits: tl.constexpr,
    level_count: tl.constexpr,
    separate_values: tl.constexpr,
    ragged: tl.constexpr,
    factor: tl.constexpr,
    scaled: tl.constexpr,
    masked: tl.constexpr,
    each: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    """Scores of a tile of a query's rows, into out (q, columns).

    ``rows_ptr`` holds numbers (q, columns / each) of runs of ``each`` rows, −1 for none.
    """
    # Row numbers of this tile.
    query = (tl.program_id(0) // tiles).to(tl.int64)
    lane = (tl.program_id(0) % tiles) * rows + tl.arange(0, rows)
    inside = lane < columns
    row = tl.load(rows_ptr + query * (columns // each) + lane // each, mask=inside, other=-1)
    row = row * each + lane % each
    allowed = _allowed(row, n, mask_ptr, inside & (row >= 0), masked)
    row = tl.where(allowed, row, 0)
    block_id = row // block
    local = row % block
    queries_ptr += query * width
    tables_ptr += query * parts * 256
    counts = lane
    if ragged:
        counts = tl.load(counts_ptr + row)

    # Residual codes: one table lookup each.
    score = tl.zeros([rows], tl.float32)
    for b in range(parts):
        code = tl.load(residual_ptr + (block_id * parts + b) * block + local, mask=allowed, other=0)
        score += tl.load(tables_ptr + b * 256 + code.to(tl.int32), mask=allowed, other=0.0)
    if scaled:
        score = score * _factor(gains_ptr, scale_table_ptr, row, allowed, "table")

    # Nonzeros: gather the query at their latents.
    base = block_id * ranks * block + local
    for start in range(0, ranks, 4):
        for i in tl.static_range(4):
            r = start + i
            ids, value = _nonzero(
                slots_ptr,
                values_ptr,
                levels_ptr,
                base + r * block,
                allowed,
                counts,
                r,
                ranks,
                id_bits,
                level_count,
                separate_values,
                ragged,
            )
            score = tl.fma(tl.load(queries_ptr + ids), value, score)

    # Factor and mask.
    if factor != "one":
        score = score * _factor(gains_ptr, gain_table_ptr, row, allowed, factor)
    score = tl.where(allowed, score, float("-inf"))
    tl.store(out_ptr + query * columns + lane, score, mask=inside)


class _Arguments:
    """Arguments common to all launches; an absent tensor is replaced by a placeholder."""

    def __init__(self, planes: Planes, mask: Tensor | None) -> None:
        p = planes
        factor = p.factors if p.factors is not None else p.gains
        tensors = {
            "slots_ptr": p.slots,
            "values_ptr": p.values,
            "levels_ptr": p.levels,
            "counts_ptr": p.counts,
            "residual_ptr": p.residual,
            "gains_ptr": factor,
            "gain_table_ptr": p.gain_table,
            "scale_table_ptr": p.scale_table,
            "mask_ptr": None if mask is None else mask.view(torch.uint8),
        }
        self.tensors = {name: p.slots if t is None else t for name, t in tensors.items()}
        self.ranks = p.slots.shape[1]
        self.parts = 0 if p.residual is None else p.residual.shape[1]
        self.width = max(16, 1 << p.id_bits)
        kind = "one" if factor is None else "table" if p.factors is None else "each"
        self.constants = {
            "width": self.width,
            "id_bits": p.id_bits,
            "level_count": 0 if p.levels is None else p.levels.shape[1],
            "separate_values": p.values is not None,
            "ragged": p.counts is not None,
            "factor": kind,
            "scaled": p.scale_table is not None and p.residual is not None,
            "masked": mask is not None,
            "block": SCAN_BLOCK,
        }

    def padded(self, queries: Tensor) -> Tensor:
        """Pad queries (q, h) to (q, width), so that even a corrupt slot reads within bounds."""
        if queries.shape[1] == self.width:
            return queries.contiguous()
        out = torch.zeros(len(queries), self.width, device=queries.device)
        out[:, : queries.shape[1]] = queries
        return out


def side_by_side(width: int, half: bool) -> int:
    """Queries per group: 8, 16 or 32, the most that fit the L1 cache.

    If not even 8 fit, 32: each nonzero then reads a line or two of the L2 cache anyway.
    """
    count = _L1 // (width * (2 if half else 4))
    return 32 if count < 8 or count >= 32 else 16 if count >= 16 else 8


def form_for(queries: int, width: int) -> Form:
    """Choose the form: groups for many queries, else one at a time, in shared memory if it fits."""
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
    """Maximum score of each block with each query: (q, blocks) float32.

    Lower bounds: the planes are read from memory once, for one query or for a batch that the L2
    cache serves; n·q·(K + m) reads of 4 bytes (2 with ``half``) from the L1 cache or shared
    memory, and as many multiply-adds.

    Args:
        planes: n rows.
        queries: (q, h) float32.
        tables: (q, m, 256) float32 if the planes hold residual codes, else None.
        mask: (n,) bool, True for rows that may be returned; all rows when None.
        half: store groups of queries in float16.
        form: how queries are read; ``form_for`` chooses when None.
    """
    a = _Arguments(planes, mask)
    q, blocks = len(queries), planes.blocks
    out = torch.empty(q, blocks, device=queries.device)
    if q == 0 or blocks == 0:
        return out
    if form is None:
        form = form_for(q, a.width)
    padded = a.padded(queries)

    # Many queries: groups of them share each row's loads.
    if form == "together":
        group_size = side_by_side(a.width, half)
        groups = triton.cdiv(q, group_size)
        grouped = _grouped(padded.half() if half else padded, groups, group_size)
        _maxima_of_many[(groups * blocks,)](
            **a.tensors,
            queries_ptr=grouped,
            tables_ptr=(
                grouped if tables is None else _grouped(tables.flatten(1), groups, group_size)
            ),
            out_ptr=out,
            q=q,
            n=planes.n,
            blocks=blocks,
            ranks=a.ranks,
            parts=a.parts,
            groups=groups,
            **a.constants,
            group_size=group_size,
            num_warps=4,
        )
        return out

    # Few queries: one per program.
    rows = _TILE * (4 if form == "shared" else 2)
    tiles = triton.cdiv(blocks * SCAN_BLOCK, rows)
    _maxima_of_one[(q * tiles,)](
        **a.tensors,
        queries_ptr=padded,
        tables_ptr=padded if tables is None else tables.contiguous(),
        out_ptr=out,
        n=planes.n,
        blocks=blocks,
        ranks=a.ranks,
        parts=a.parts,
        tiles=tiles,
        **a.constants,
        shared=form == "shared",
        rows=rows,
        num_warps=4,
    )
    return out


def _grouped(x: Tensor, groups: int, group_size: int) -> Tensor:
    """Pad rows (q, w) with zeros and transpose them to (groups, w, group_size)."""
    out = x.new_zeros(groups * group_size, x.shape[1])
    out[: len(x)] = x
    return out.view(groups, group_size, -1).transpose(1, 2).contiguous()


def scores(
    planes: Planes,
    queries: Tensor,
    tables: Tensor | None,
    which: Tensor,
    mask: Tensor | None = None,
    each: int = 1,
) -> Tensor:
    """Score the rows ``which`` (q, C) int64 of each query: (q, C) float32, −inf for row −1.

    ``which`` may hold numbers of runs of ``each`` rows, a power of two: then (q, C·each).

    Lower bounds: C rows per query, each of a row's K + m entries from a 32-byte sector of its own
    unless rows are neighbours; q·C·(K + m) multiply-adds.
    """
    a = _Arguments(planes, mask)
    q, columns = len(queries), which.shape[1] * each
    out = torch.empty(q, columns, device=queries.device)
    if q == 0 or columns == 0:
        return out
    padded = a.padded(queries)
    tiles = triton.cdiv(columns, _TILE)
    _scores_of_rows[(q * tiles,)](
        **a.tensors,
        queries_ptr=padded,
        tables_ptr=padded if tables is None else tables.contiguous(),
        rows_ptr=which.contiguous(),
        out_ptr=out,
        n=planes.n,
        ranks=a.ranks,
        parts=a.parts,
        columns=columns,
        tiles=tiles,
        **a.constants,
        each=each,
        rows=_TILE,
        num_warps=4,
    )
    return out
