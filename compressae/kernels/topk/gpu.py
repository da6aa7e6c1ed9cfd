"""Top-k without a full sort, in Triton.

One launch, of programs that take a row at a time: few enough that the rows in flight stay in the
caches, because a program reads its row twice. It deals the entries to groups; a threshold that k to
1.125·k of the groups' maxima reach is one that at least k entries reach, and 1.4·k to 1.6·k do. It
compacts these candidates, bisects to the k-th largest of them, compacts again, and sorts k entries.
If too many entries reach the first threshold (ties, or large entries in one group), a bisection
over the row raises it. Few long rows are split in parts, whose candidates are the rows of a second
launch.

Everything compares integers. The *rank* of an entry orders like it. Its *tag* holds the rank in the
high bits and the complement of the id in the low ones, so that all are distinct and ties go to the
smaller id.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Largest k of the kernel; beyond _FEW of a short row's entries (k > h / 4), sorting it is faster.
_MOST, _FEW = 4096, 512
#: Entries of a tile per thread: to compact (16 bits of a word), and to find the groups' maxima.
_LINES, _LOADED = 16, 16
#: Bytes of rows in flight per multiprocessor that its level-1 cache holds beside candidates.
_CACHED = 192 << 10
#: Split of few long rows: programs in all, and least entries per part.
_PARTS, _SHORTEST = 256, 1 << 16


@triton.jit
def _numbers(x, kind: tl.constexpr):
    """float32 that order like |x| or x ("magnitude", "value"), or x itself ("integer", "tag")."""
    if kind == "magnitude":
        return tl.abs(x.to(tl.float32))
    elif kind == "value":
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def _tile(x_ptr, first, count, kind: tl.constexpr, lines: tl.constexpr, columns: tl.constexpr):
    """Numbers of entries ``first`` and on (lines, columns), lowest from ``count`` on."""
    bits: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth
    least: tl.constexpr = float("-inf") if kind == "value" else -1 << (bits - 1)
    lowest: tl.constexpr = 0.0 if kind == "magnitude" else least
    line, column = tl.arange(0, lines)[:, None] * columns, tl.arange(0, columns)[None, :]
    if first + lines * columns <= count:
        x = tl.load(x_ptr + first + column + line)
    else:
        x = tl.load(x_ptr + first + column + line, mask=first + column + line < count, other=lowest)
    return _numbers(x, kind)


@triton.jit
def _ranks(numbers, kind: tl.constexpr):
    """Integers that order like the numbers; the sign of a zero makes no difference."""
    if kind == "magnitude":
        return numbers.to(tl.int32, bitcast=True)
    elif kind == "value":
        bits = numbers.to(tl.int32, bitcast=True)
        return tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    else:
        return numbers


@triton.jit
def _tags(ranks, ids, kind: tl.constexpr, tag: tl.constexpr):
    """Tags of entries of these ranks: int64, or int32 if ranks end in 16 zeros (bfloat16)."""
    if kind == "tag":
        return ranks
    elif tag == tl.int32:
        return ranks + (0xFFFF - ids)
    else:
        return (ranks.to(tl.int64) << 32) | (~ids).to(tl.uint32).to(tl.int64)


@triton.jit
def _tile_tags(
    x_ptr,
    start,
    first,
    count,
    kind: tl.constexpr,
    tag: tl.constexpr,
    lines: tl.constexpr,
    columns: tl.constexpr,
):
    """Tags of entries ``first`` and on (lines, columns) of a part that starts at id ``start``."""
    line, column = tl.arange(0, lines)[:, None] * columns, tl.arange(0, columns)[None, :]
    ranks = _ranks(_tile(x_ptr, first, count, kind, lines, columns), kind)
    return _tags(ranks, (start + first) + column + line, kind, tag)


@triton.jit
def _middle(low, high):
    """⌈(low + high) / 2⌉ without overflow."""
    return (low | high) - ((low ^ high) >> 1)


@triton.jit
def _threshold(numbers, low, high, k, most):
    """A number that k to ``most`` reach, or the largest that k reach; k or more reach ``low``."""
    passed = most + 1
    while (passed > most) & (low < high):
        middle = _middle(low, high)
        reached = tl.sum(tl.ravel(numbers >= middle).to(tl.int32), 0)
        passed = tl.where(reached >= k, reached, passed)
        low = tl.where(reached >= k, middle, low)
        high = tl.where(reached >= k, high, middle - 1)
    return low


@triton.jit
def _maxima(x_ptr, count, kind: tl.constexpr, lines: tl.constexpr, groups: tl.constexpr):
    """Ranks of the largest entries of the groups; entry i is in group i % groups."""
    maxima = tl.max(_tile(x_ptr, 0, count, kind, lines, groups), 0)
    for first in range(lines * groups, count, lines * groups):
        maxima = tl.maximum(maxima, tl.max(_tile(x_ptr, first, count, kind, lines, groups), 0))
    ranks = _ranks(maxima, kind)
    if kind == "magnitude" or kind == "value":
        ranks = tl.minimum(ranks, 0x7F800000)  # Maxima ignore NaN, which rank above infinity.
    return ranks


@triton.jit
def _compact(
    x_ptr,
    start,
    count,
    cut,
    out_ptr,
    room,
    kind: tl.constexpr,
    tag: tl.constexpr,
    lines: tl.constexpr,
    columns: tl.constexpr,
):
    """Write the tags that reach ``cut``, if at most ``room`` do; return how many do.

    A thread notes in a word how many entries of its column of a tile reach, and which; then it
    visits those alone.
    """
    line, column = tl.arange(0, lines)[:, None], tl.arange(0, columns)
    passed = 0
    for first in range(0, count, lines * columns):
        reaches = _tile_tags(x_ptr, start, first, count, kind, tag, lines, columns) >= cut
        words = tl.sum(tl.where(reaches, (1 << lines) + (1 << line), 0), 0)
        counts, bits = words >> lines, words & ((1 << lines) - 1)
        slots = passed + tl.cumsum(counts, 0) - counts
        passed += tl.sum(counts, 0)
        if passed <= room:
            for _ in range(tl.max(counts, 0)):
                lowest = bits & -bits
                exponent = (lowest.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
                ids = first + exponent * columns + column
                ranks = _ranks(_numbers(tl.load(x_ptr + ids, mask=bits > 0), kind), kind)
                tl.store(out_ptr + slots, _tags(ranks, start + ids, kind, tag), mask=bits > 0)
                slots += 1
                bits -= lowest
    return passed


@triton.jit
def _raise(
    x_ptr,
    start,
    count,
    low,
    middle,
    high,
    k,
    most,
    kind: tl.constexpr,
    tag: tl.constexpr,
    lines: tl.constexpr,
    columns: tl.constexpr,
):
    """A tag that k to ``most`` entries reach, by bisection of [low, high] from ``middle`` on."""
    passed = most + 1
    while passed > most:
        reached = 0
        for first in range(0, count, lines * columns):
            tags = _tile_tags(x_ptr, start, first, count, kind, tag, lines, columns)
            reached += tl.sum(tl.ravel(tags >= middle).to(tl.int32), 0)
        passed = tl.where(reached >= k, reached, passed)
        low = tl.where(reached >= k, middle, low)
        high = tl.where(reached >= k, high, middle - 1)
        middle = _middle(low, high)
    return low


@triton.jit
def _candidates(
    x_ptr,
    start,
    count,
    k,
    out_ptr,
    room,
    kind: tl.constexpr,
    tag: tl.constexpr,
    groups: tl.constexpr,
    depth: tl.constexpr,
    lines: tl.constexpr,
    columns: tl.constexpr,
):
    """Write k to ``room`` tags of a part, the k largest among them; return how many."""
    maxima = _maxima(x_ptr, count, kind, depth, groups)
    high = tl.max(maxima, 0)
    low = tl.min(tl.where(tl.arange(0, groups) < count, maxima, high), 0)
    floor = _threshold(maxima, low, high, k, k + k // 8)
    cut = _tags(floor, start + count - 1, kind, tag)
    passed = room + 1
    while passed > room:
        passed = _compact(x_ptr, start, count, cut, out_ptr, room, kind, tag, lines, columns)
        if passed > room:  # Mostly ties: the first guess is the floor without its ties.
            guess = _tags(floor, start, kind, tag)
            top = tl.full([], (1 << (tag.primitive_bitwidth - 1)) - 1, tag)  # NaN reach it too.
            cut = _raise(
                x_ptr, start, count, cut, guess, top, k, room, kind, tag, lines, columns
            )  # fmt: skip
    return passed


@triton.jit
def _sorted(tag_ptr, count, k, least: tl.constexpr, width: tl.constexpr, columns: tl.constexpr):
    """The k largest of ``count`` ≤ 2·width tags, best first (width,); overwrites the tags."""
    tl.debug_barrier()
    slot = tl.arange(0, 2 * width // columns)[:, None] * columns + tl.arange(0, columns)[None, :]
    tags = tl.load(tag_ptr + slot, mask=slot < count, other=least)
    high = tl.max(tl.ravel(tags), 0)
    low = tl.min(tl.ravel(tl.where(slot < count, tags, high)), 0)
    chosen = ((slot < count) & (tags >= _threshold(tags, low, high, k, k))).to(tl.int32)
    counts = tl.sum(chosen, 0)
    before = tl.cumsum(counts, 0) - counts - 1
    tl.debug_barrier()
    tl.store(tag_ptr + before[None, :] + tl.cumsum(chosen, 0), tags, mask=chosen != 0)
    tl.debug_barrier()
    slot = tl.arange(0, width)
    tags = tl.load(tag_ptr + slot, mask=slot < k, other=least)
    tl.debug_barrier()
    return tl.sort(tags, descending=True)


_INTEGERS = ["stride", "n", "h", "parts", "part", "k", "room", "x_stride"]


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=["entries_ptr", "x_ptr"])
def _top(
    entries_ptr,
    stride,
    n,
    h,
    parts,
    part,
    k,
    room,
    x_ptr,
    x_stride,
    tag_ptr,
    ids_ptr,
    values_ptr,
    kind: tl.constexpr,
    whole: tl.constexpr,
    groups: tl.constexpr,
    depth: tl.constexpr,
    lines: tl.constexpr,
    columns: tl.constexpr,
    width: tl.constexpr,
):
    """Top k of rows (n, h), best first; or of their parts candidates, padded with the least tag.

    Entries are x, or tags of x. Tags (programs, room) are scratch if rows are ``whole``, else the
    output (n·parts, room).
    """
    tag: tl.constexpr = tag_ptr.dtype.element_ty
    least: tl.constexpr = -1 << (tag.primitive_bitwidth - 1)
    for piece in range(tl.program_id(0), n * parts, tl.num_programs(0)):
        row, start = (piece // parts).to(tl.int64), piece % parts * part
        row_ptr = entries_ptr + row * stride + start
        count = tl.minimum(part, h - start)
        own = tl.program_id(0).to(tl.int64) if whole else row * parts + piece % parts
        own_ptr = tag_ptr + own * room
        passed = _candidates(
            row_ptr, start, count, tl.minimum(k, count), own_ptr, room,
            kind, tag, groups, depth, lines, columns,
        )  # fmt: skip
        if whole:
            tags = _sorted(own_ptr, passed, k, least, width, columns)
            ids = ~tags.to(tl.int32) & (0xFFFF if tag == tl.int32 else 0x7FFFFFFF)
            slot = tl.arange(0, width)
            values = tl.load(x_ptr + row * x_stride + ids, mask=slot < k)
            tl.store(ids_ptr + row * k + slot, ids, mask=slot < k)
            tl.store(values_ptr + row * k + slot, values, mask=slot < k)
        else:
            for first in range(passed, room, columns):
                slot = first + tl.arange(0, columns)
                tl.store(own_ptr + slot, tl.full([columns], least, tag), mask=slot < room)


def top(x: Tensor, k: int, magnitude: bool) -> tuple[Tensor, Tensor]:
    """Top k entries, by |entry| if ``magnitude``, of rows x (n, h).

    x is float32, bfloat16, float16, or (not by magnitude) int32 above −2^31.

    Lower bounds: n·h entries read once from memory and once more from the caches; about 15
    operations per entry, and log²(k) per entry of the top k.

    Returns:
        ids (n, k) int32 and the entries (n, k) in x's dtype, best first, ties by smaller id.
    """
    n, h = x.shape
    if k > _MOST or (k > _FEW and h < 4 * k):
        return top_by_sorting(x, k, magnitude)
    if x.stride(1) != 1:
        x = x.contiguous()
    ids = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=x.dtype, device=x.device)
    if n > 0:
        kind = "magnitude" if magnitude else "value" if x.is_floating_point() else "integer"
        _select(x, kind, ids, values)
    return ids, values


def top_by_sorting(x: Tensor, k: int, magnitude: bool) -> tuple[Tensor, Tensor]:
    """``top`` by a sort of whole rows."""
    sizes = x.abs() if magnitude else x
    order = sizes.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return order.int(), x.gather(1, order)


def _select(x: Tensor, kind: str, ids: Tensor, values: Tensor) -> None:
    """Write the top k of rows x (n, h): ids and entries (n, k)."""
    (n, h), k = x.shape, ids.shape[1]
    part = _part(n, h)
    parts = triton.cdiv(h, part)
    warps = _warps(x, n, k)
    width = max(triton.next_power_of_2(k), 16 * warps)
    groups = max(128, 32 * warps, triton.next_power_of_2(2 * k))
    tag = torch.int32 if x.dtype == torch.bfloat16 and h <= 1 << 16 else torch.int64

    def launch(entries: Tensor, kind: str, programs: int, parts: int) -> Tensor:
        """Take the rows of entries, or their parts; return the programs' tags."""
        whole = parts == 1
        tags = torch.empty(programs, 2 * width, dtype=tag, device=x.device)
        _top[(programs,)](
            entries_ptr=entries,
            stride=entries.stride(0),
            n=n,
            h=entries.shape[1],
            parts=parts,
            part=entries.shape[1] if whole else part,
            k=k,
            room=2 * width,
            x_ptr=x,
            x_stride=x.stride(0),
            tag_ptr=tags,
            ids_ptr=ids,
            values_ptr=values,
            kind=kind,
            whole=whole,
            groups=groups,
            depth=max(1, _LOADED * 32 * warps // groups),
            lines=_LINES,
            columns=32 * warps,
            width=width,
            num_warps=warps,
            # A cap: left alone, the compiler spills a few registers to reach a tier of occupancy.
            maxnreg=128 if width <= 512 else 255,
        )
        return tags

    if parts == 1:
        launch(x, kind, _programs(x, n), 1)
    else:
        candidates = launch(x, kind, n * parts, parts)
        launch(candidates.view(n, -1), "tag", _programs(x, n), 1)


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k entries of rows x (n, m): ids (n, k) int64 and entries (n, k)."""
    ids, values = top(x, k, False)
    return ids.long(), values


def _part(n: int, h: int) -> int:
    """Entries per part: n rows give about ``_PARTS`` programs."""
    return max(_SHORTEST, triton.next_power_of_2(triton.cdiv(n * h, _PARTS)))


def _programs(x: Tensor, n: int) -> int:
    """Programs that take n whole rows: 4 to 16 a multiprocessor, their rows in its cache."""
    rows = _CACHED // (x.shape[1] * x.element_size())
    return min(n, processors(x) * min(16, max(4, rows)))


def _warps(x: Tensor, n: int, k: int) -> int:
    """Warps per program: one, which needs no barriers, if rows are short and many and k small."""
    return 1 if x.shape[1] <= 8192 and k <= 256 and n >= 8 * processors(x) else 8


def processors(x: Tensor) -> int:
    """Multiprocessors of x's GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
