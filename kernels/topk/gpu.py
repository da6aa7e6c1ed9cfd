"""Top-k without a full sort, in Triton.

Two launches. ``_select`` leaves a few more than k candidates of each row: entries are dealt to
groups, and the k-th largest of the groups' maxima is a floor that the k largest entries reach; of
4·k groups about 1.15·k entries do. Where more do than there is room for (ties, or large entries
side by side) the exact cut is found bit by bit. ``_order`` sorts what was left. Entries are
compared as whole numbers that order like them, with the id in the low bits, so that no two are
equal and ties go to the smaller id.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: What ``_select`` takes: k, and entries of a row, whose ids have 16 bits.
_MOST, _LONGEST = 512, 1 << 16
_TILE = 2048
#: Programs that few long rows are cut into, and entries of a part at least.
_PARTS, _SHORTEST = 256, 4096


@triton.jit
def _keys(x, magnitude: tl.constexpr):
    """int32 that order like x, or like |x|, all above −2^31; x is a float or int32."""
    if x.dtype == tl.int32:
        return tl.abs(x) if magnitude else x
    x = x.to(tl.float32)
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    if magnitude:
        return bits & 0x7FFFFFFF
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _tagged(keys, ids):
    """int64 from 0 that order by key, then by descending id."""
    return ((keys.to(tl.int64) + 0x80000000) << 16) | (0xFFFF - ids).to(tl.int64)


@triton.jit
def _select(
    x_ptr, stride, h, k, out_ptr,
    magnitude: tl.constexpr, groups: tl.constexpr, room: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Tagged candidates of one row into out[row, :room], −1 after them."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    out_ptr += row * room
    lowest = -2147483648
    deal = tl.arange(0, tile // groups)[:, None] * groups + tl.arange(0, groups)[None, :]
    maxima = tl.full([groups], lowest, tl.int32)
    for start in range(0, h, tile):
        inside = start + deal < h
        x = tl.load(x_ptr + start + deal, mask=inside, other=0.0)
        maxima = tl.maximum(maxima, tl.max(tl.where(inside, _keys(x, magnitude), lowest), 0))
    ranked = tl.sort(maxima, descending=True)
    floor = tl.max(tl.where(tl.arange(0, groups) == k - 1, ranked, lowest), 0)

    lane = tl.arange(0, tile)
    passed = 0
    for start in range(0, h, tile):
        inside = start + lane < h
        x = tl.load(x_ptr + start + lane, mask=inside, other=0.0)
        passed += tl.sum((inside & (_keys(x, magnitude) >= floor)).to(tl.int32))

    cut = (floor.to(tl.int64) + 0x80000000) << 16
    if passed > room:  # The largest cut that k entries reach, from its highest bit down.
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

    filled = 0
    for start in range(0, h, tile):
        inside = start + lane < h
        x = tl.load(x_ptr + start + lane, mask=inside, other=0.0)
        tagged = _tagged(_keys(x, magnitude), start + lane)
        passes = (inside & (tagged >= cut)).to(tl.int32)
        place = filled + tl.cumsum(passes, 0) - 1
        tl.store(out_ptr + place, tagged, mask=passes != 0)
        filled += tl.sum(passes)
    slot = tl.arange(0, room)
    tl.store(out_ptr + slot, tl.full([room], -1, tl.int64), mask=slot >= filled)


@triton.jit
def _order(
    tagged_ptr, x_ptr, stride, n, k, ids_ptr, values_ptr, room: tl.constexpr, rows: tl.constexpr
):
    """The k largest of each row's candidates, best first: ids and the entries there."""
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)[:, None]
    slot = tl.arange(0, room)[None, :]
    tagged = tl.load(tagged_ptr + row * room + slot, mask=row < n, other=-1)
    tagged = tl.sort(tagged, 1, descending=True)
    kept = (row < n) & (slot < k)
    ids = 0xFFFF - (tagged & 0xFFFF).to(tl.int32)
    values = tl.load(x_ptr + row * stride + ids, mask=kept, other=0.0)
    tl.store(ids_ptr + row * k + slot, ids, mask=kept)
    tl.store(values_ptr + row * k + slot, values, mask=kept)


def top(x: Tensor, k: int, magnitude: bool) -> tuple[Tensor, Tensor]:
    """The k largest entries, or largest |entries|, of rows x (n, h).

    x is float32, bfloat16, float16, or int32 above −2^31. Floors on the GPU: n·h entries
    are read once from memory (twice more from the caches); about 15 operations an entry.

    Returns:
        ids (n, k) int32 and the entries there (n, k) in x's dtype; ties by smaller id.
    """
    n, h = x.shape
    if k > _MOST or h > _LONGEST:
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
    _select[(n,)](x, x.stride(0), h, k, tagged, magnitude, groups, room, _TILE, num_warps=8)
    rows = max(1, 1024 // room)
    _order[(triton.cdiv(n, rows),)](
        tagged, x, x.stride(0), n, k, ids, values, room, rows, num_warps=4
    )
    return ids, values


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of rows x (n, m): ids (n, k) int64 and entries. Rows that are long, or
    too few to keep a GPU busy, are cut to parts whose best are then compared."""
    (n, m), part = x.shape, _part(*x.shape, k)
    if m <= part or k > _MOST:
        ids, values = top(x, k, False)
        return ids.long(), values
    parts = triton.cdiv(m, part)
    if m < parts * part:  # What fills the last part is the smallest there is, and comes last.
        least = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min + 1
        filled = x.new_full((n, parts * part), least)
        filled[:, :m] = x
        x = filled
    ids, values = top(x.reshape(n * parts, part), k, False)
    ids = ids.view(n, parts, k) + part * torch.arange(parts, device=x.device)[:, None]
    place, values = largest(values.view(n, parts * k), k)
    return ids.view(n, parts * k).gather(1, place), values


def _part(n: int, m: int, k: int) -> int:
    """Entries of a part: few enough that n rows are ``_PARTS`` programs, but more than are kept."""
    wanted = triton.next_power_of_2(triton.cdiv(n * m, _PARTS))
    return min(_LONGEST, max(_SHORTEST, triton.next_power_of_2(4 * k), wanted))
