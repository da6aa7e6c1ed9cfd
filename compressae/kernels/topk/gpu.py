"""Top-k without a full sort, in Triton.

Two launches. ``_select`` reduces a row to a few more than k candidates: it deals the entries to
groups, and takes the k-th largest of the groups' maxima as a threshold, which at least k entries
reach; with 4·k groups about 1.15·k do. If more reach it than the candidates hold (ties, or large
entries in one group), a binary search over the bits finds the exact threshold. ``_order`` sorts
the candidates. Entries compare as integers that order like them, with the id in the low bits, so
that all are distinct and ties go to the smaller id.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Limits of ``_select``: k, and entries per row (ids have 16 bits).
_MOST, _LONGEST = 512, 1 << 16
_TILE = 2048
#: Split of few long rows: programs in all, and least entries per part.
_PARTS, _SHORTEST = 256, 4096


@triton.jit
def _keys(x, magnitude: tl.constexpr):
    """int32 keys above −2^31 that order like x (float or int32), or like |x| if ``magnitude``."""
    if x.dtype == tl.int32:
        return tl.abs(x) if magnitude else x
    x = x.to(tl.float32)
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    if magnitude:
        return bits & 0x7FFFFFFF
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _tagged(keys, ids):
    """Nonnegative int64 that order by key, then by descending id; id in the low 16 bits."""
    return ((keys.to(tl.int64) + 0x80000000) << 16) | (0xFFFF - ids).to(tl.int64)


@triton.jit
def _select(
    x_ptr,
    stride,
    h,
    k,
    out_ptr,
    magnitude: tl.constexpr,
    groups: tl.constexpr,
    room: tl.constexpr,
    tile: tl.constexpr,
):
    """Tagged candidates of one row, into out (n, room) padded with −1."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    out_ptr += row * room
    lowest = -2147483648

    # Threshold: the k-th largest of the groups' maxima.
    deal = tl.arange(0, tile // groups)[:, None] * groups + tl.arange(0, groups)[None, :]
    maxima = tl.full([groups], lowest, tl.int32)
    for start in range(0, h, tile):
        inside = start + deal < h
        x = tl.load(x_ptr + start + deal, mask=inside, other=0.0)
        maxima = tl.maximum(maxima, tl.max(tl.where(inside, _keys(x, magnitude), lowest), 0))
    ranked = tl.sort(maxima, descending=True)
    floor = tl.max(tl.where(tl.arange(0, groups) == k - 1, ranked, lowest), 0)

    # Count the entries that reach it.
    lane = tl.arange(0, tile)
    passed = 0
    for start in range(0, h, tile):
        inside = start + lane < h
        x = tl.load(x_ptr + start + lane, mask=inside, other=0.0)
        passed += tl.sum((inside & (_keys(x, magnitude) >= floor)).to(tl.int32))

    # If too many do, find the largest threshold that k entries reach, highest bit first.
    cut = (floor.to(tl.int64) + 0x80000000) << 16
    if passed > room:
        cut = tl.zeros_like(cut)
        bit = tl.full([], 1 << 47, tl.int64)
        while bit > 0:
            reached = 0
            for start in range(0, h, tile):
                inside = start + lane < h
                x = tl.load(x_ptr + start + lane, mask=inside, other=0.0)
                reaches = _tagged(_keys(x, magnitude), start + lane) >= (cut | bit)
                reached += tl.sum((inside & reaches).to(tl.int32))
            cut = tl.where(reached >= k, cut | bit, cut)
            bit = bit >> 1

    # Compact the entries that reach the threshold, and pad.
    filled = 0
    for start in range(0, h, tile):
        inside = start + lane < h
        x = tl.load(x_ptr + start + lane, mask=inside, other=0.0)
        tagged = _tagged(_keys(x, magnitude), start + lane)
        passes = (inside & (tagged >= cut)).to(tl.int32)
        position = filled + tl.cumsum(passes, 0) - 1
        tl.store(out_ptr + position, tagged, mask=passes != 0)
        filled += tl.sum(passes)
    slot = tl.arange(0, room)
    tl.store(out_ptr + slot, tl.full([room], -1, tl.int64), mask=slot >= filled)


@triton.jit
def _order(
    tagged_ptr,
    x_ptr,
    stride,
    n,
    k,
    ids_ptr,
    values_ptr,
    room: tl.constexpr,
    rows: tl.constexpr,
):
    """Sort the candidates of ``rows`` rows: ids and entries (n, k), best first."""
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)[:, None]
    slot = tl.arange(0, room)[None, :]
    tagged = tl.load(tagged_ptr + row * room + slot, mask=row < n, other=-1)
    tagged = tl.sort(tagged, 1, descending=True)
    inside = (row < n) & (slot < k)
    ids = 0xFFFF - (tagged & 0xFFFF).to(tl.int32)
    values = tl.load(x_ptr + row * stride + ids, mask=inside, other=0.0)
    tl.store(ids_ptr + row * k + slot, ids, mask=inside)
    tl.store(values_ptr + row * k + slot, values, mask=inside)


def top(x: Tensor, k: int, magnitude: bool) -> tuple[Tensor, Tensor]:
    """Top k entries, by |entry| if ``magnitude``, of rows x (n, h).

    x is float32, bfloat16, float16, or int32 above −2^31.

    Lower bounds: n·h entries read once from memory, and twice more from the caches; about 15
    operations per entry.

    Returns:
        ids (n, k) int32 and the entries (n, k) in x's dtype, best first, ties by smaller id.
    """
    n, h = x.shape
    if k > _MOST or h > _LONGEST:  # Out of range: sort whole rows.
        sizes = x.abs() if magnitude else x
        order = sizes.sort(dim=1, descending=True, stable=True).indices[:, :k]
        return order.int(), x.gather(1, order)
    if x.stride(1) != 1:
        x = x.contiguous()
    groups = max(128, triton.next_power_of_2(4 * k))
    room = max(64, triton.next_power_of_2(2 * k))
    tagged = torch.empty(n, room, dtype=torch.int64, device=x.device)
    ids = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=x.dtype, device=x.device)
    if n == 0:
        return ids, values
    _select[(n,)](
        x_ptr=x,
        stride=x.stride(0),
        h=h,
        k=k,
        out_ptr=tagged,
        magnitude=magnitude,
        groups=groups,
        room=room,
        tile=_TILE,
        num_warps=8,
    )
    rows = max(1, 1024 // room)
    _order[(triton.cdiv(n, rows),)](
        tagged_ptr=tagged,
        x_ptr=x,
        stride=x.stride(0),
        n=n,
        k=k,
        ids_ptr=ids,
        values_ptr=values,
        room=room,
        rows=rows,
        num_warps=4,
    )
    return ids, values


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k entries of rows x (n, m): ids (n, k) int64 and entries (n, k).

    Rows that are too long, or too few to occupy the GPU, are split in parts; the parts' top k are
    merged.
    """
    (n, m), part = x.shape, _part(*x.shape, k)
    if m <= part or k > _MOST:
        ids, values = top(x, k, False)
        return ids.long(), values
    parts = triton.cdiv(m, part)

    # Pad the last part with the lowest value, which sorts last.
    if m < parts * part:
        least = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min + 1
        padded = x.new_full((n, parts * part), least)
        padded[:, :m] = x
        x = padded

    # Top k of each part, then of their union.
    ids, values = top(x.reshape(n * parts, part), k, False)
    ids = ids.view(n, parts, k) + part * torch.arange(parts, device=x.device)[:, None]
    position, values = largest(values.view(n, parts * k), k)
    return ids.view(n, parts * k).gather(1, position), values


def _part(n: int, m: int, k: int) -> int:
    """Entries per part: n rows give about ``_PARTS`` programs, each with at least 4·k entries."""
    balanced = triton.next_power_of_2(triton.cdiv(n * m, _PARTS))
    return min(_LONGEST, max(_SHORTEST, triton.next_power_of_2(4 * k), balanced))
