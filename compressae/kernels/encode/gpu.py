"""The encoder on a GPU: tensor cores build a shortlist of latents, float32 reranks it.

Training takes dense codes of the activations themselves. Whether an activation is in the code
follows from the last one that is, so that no matrix is cleared and scattered to.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.decode.gpu import sampled_matmul
from compressae.kernels.topk.gpu import top

#: Bytes of one tile's products: the launches take less time than the work.
_TILE = 1 << 27
#: Columns of a program that writes codes; rows and columns of one that masks gradients.
_CODES, _MASK_ROWS, _MASK_COLUMNS = 2048, 32, 128
#: Shortlist beyond k: a fraction of k, and a minimum. A longer one than ``_LONGEST`` would take
#: longer to recompute than float32 products.
_SPARE, _LEAST_SPARE, _LONGEST = 0.25, 8, 512
#: Entries that a program reranks.
_RERANKED = 1024


@triton.jit
def _is_beyond(entries, column, ids_ptr, values_ptr, last):
    """Whether entries rank after the one at ``last`` of the top; False for NaN."""
    sizes, least = tl.abs(entries), tl.abs(tl.load(values_ptr + last).to(tl.float32))
    return (sizes < least) | ((sizes == least) & (column > tl.load(ids_ptr + last)))


@triton.jit(do_not_specialize=["m", "k", "w"])
def _split(
    activations_ptr,
    ids_ptr,
    values_ptr,
    codes_ptr,
    m,
    h,
    k,
    w,
    levels: tl.constexpr,
    columns: tl.constexpr,
):
    """Dense codes (levels, m, h) of one row: its k largest activations, and the next w − k."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = column < h
    a = tl.load(activations_ptr + row * h + column, mask=inside, other=0.0).to(tl.float32)
    beyond = _is_beyond(a, column, ids_ptr, values_ptr, row * w + k - 1)
    tl.store(codes_ptr + row * h + column, tl.where(beyond, 0.0, a), mask=inside)
    if levels == 2:
        outside = _is_beyond(a, column, ids_ptr, values_ptr, row * w + w - 1)
        rest = tl.where(beyond & (outside == 0), a, 0.0)
        tl.store(codes_ptr + (m + row) * h + column, rest, mask=inside)


@triton.jit(do_not_specialize=["m", "k", "w"])
def _mask(
    activations_ptr,
    ids_ptr,
    values_ptr,
    gradients_ptr,
    sums_ptr,
    m,
    h,
    k,
    w,
    levels: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    """Gradients of activations, in place of gradients[0]; sums of ``rows`` rows (parts, h)."""
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)[:, None]
    column = (tl.program_id(1) * columns + tl.arange(0, columns))[None, :]
    inside = (row < m) & (column < h)
    at, wide_at = row * h + column, (m + row) * h + column
    row = tl.minimum(row, m - 1)
    a = tl.load(activations_ptr + at, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.load(gradients_ptr + at, mask=inside, other=0.0).to(tl.float32)
    beyond = _is_beyond(a, column, ids_ptr, values_ptr, row * w + k - 1)
    rest = tl.zeros_like(gradient)
    if levels == 2:
        rest = tl.load(gradients_ptr + wide_at, mask=inside, other=0.0)
        outside = _is_beyond(a, column, ids_ptr, values_ptr, row * w + w - 1)
        rest = tl.where(outside, 0.0, rest.to(tl.float32))
    gradient = tl.where(beyond, rest, gradient)
    tl.store(gradients_ptr + at, gradient, mask=inside)
    sums = tl.sum(gradient, 0)[None, :]
    tl.store(sums_ptr + tl.program_id(0) * h + column, sums, mask=column < h)


@triton.jit(do_not_specialize=["n", "size", "k"])
def _rerank(
    ids_ptr,
    entries_ptr,
    bias_ptr,
    n,
    size,
    k,
    best_ptr,
    values_ptr,
    rows: tl.constexpr,
    width: tl.constexpr,
):
    """Top k of a shortlist by |entry + bias|, ties by smaller id: ids and sums (n, k)."""
    row = (tl.program_id(0) * rows + tl.arange(0, rows)).to(tl.int64)[:, None]
    slot = tl.arange(0, width)[None, :]
    inside = (row < n) & (slot < size)
    ids = tl.load(ids_ptr + row * size + slot, mask=inside, other=0)
    sums = tl.load(entries_ptr + row * size + slot, mask=inside, other=0.0)
    sums += tl.load(bias_ptr + ids, mask=inside, other=0.0)

    # 63 bits: |sum|, the complement of the id, the sign.
    bits = sums.to(tl.int32, bitcast=True)
    complement = (0x7FFFFFFF - ids).to(tl.int64)
    tags = ((bits & 0x7FFFFFFF).to(tl.int64) << 32) | (complement << 1) | (bits < 0).to(tl.int64)
    tags = tl.sort(tl.where(inside, tags, -1), 1, descending=True)
    ids = 0x7FFFFFFF - ((tags >> 1) & 0x7FFFFFFF).to(tl.int32)
    magnitudes = (tags >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    inside = (row < n) & (slot < k)
    tl.store(best_ptr + row * k + slot, ids, mask=inside)
    sums = tl.where((tags & 1) == 1, -magnitudes, magnitudes)
    tl.store(values_ptr + row * k + slot, sums, mask=inside)


def encode(
    x: Tensor, weights: Tensor, bias: Tensor, k: int, products: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """See ``kernels.encode``.

    Lower bounds: 2·n·d·h operations on the tensor cores; n·d numbers read and 2·n·k written; 1.25·k
    floats of W per row and column, from the L2 cache if it holds W.
    """
    n, h = len(x), len(weights)
    shortlist_size = min(h, k + max(_LEAST_SPARE, int(_SPARE * k)))
    if shortlist_size > _LONGEST:
        products = torch.float32
    products = products or torch.bfloat16
    columns, shift = weights.to(products).T, bias.to(products)
    ids = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    tile = max(1, _TILE // (h * products.itemsize))
    for start in range(0, n, tile):
        row_slice = slice(start, start + tile)
        rows = x[row_slice]
        activations = torch.addmm(shift, rows.to(products), columns)
        if products == torch.float32:
            ids[row_slice], values[row_slice] = top(activations, k, True)
            continue
        shortlist = top(activations, shortlist_size, True)[0]
        entries = sampled_matmul(shortlist, rows, weights)
        _best(shortlist, entries, bias, ids[row_slice], values[row_slice])
    return ids, values


def _best(shortlist: Tensor, entries: Tensor, bias: Tensor, ids: Tensor, values: Tensor) -> None:
    """Fill ids and values (m, k) with the best of a shortlist (m, s) of entries before the bias."""
    (m, size), k = shortlist.shape, ids.shape[1]
    width = triton.next_power_of_2(size)
    rows = max(1, _RERANKED // width)
    _rerank[(triton.cdiv(m, rows),)](
        ids_ptr=shortlist,
        entries_ptr=entries,
        bias_ptr=bias,
        n=m,
        size=size,
        k=k,
        best_ptr=ids,
        values_ptr=values,
        rows=rows,
        width=width,
        num_warps=4,
    )


def dense_codes(activations: Tensor, ids: Tensor, values: Tensor, k: int, levels: int) -> Tensor:
    """Split activations (m, h) with top ids and values (m, w) into codes (levels, m, h).

    Level 0 has the first k of the top, level 1 the rest. Lower bound: (1 + levels)·m·h numbers read
    or written.
    """
    m, h = activations.shape
    codes = activations.new_empty(levels, m, h)
    columns = min(_CODES, triton.next_power_of_2(h))
    _split[(m, triton.cdiv(h, columns))](
        activations_ptr=activations,
        ids_ptr=ids,
        values_ptr=values,
        codes_ptr=codes,
        m=m,
        h=h,
        k=k,
        w=ids.shape[1],
        levels=levels,
        columns=columns,
        num_warps=4,
    )
    return codes


def dense_backward(
    activations: Tensor, ids: Tensor, values: Tensor, gradients: Tensor, k: int, levels: int
) -> tuple[Tensor, Tensor]:
    """Select from gradients of dense codes (levels·m, h) those of the top activations (m, w).

    Lower bound: (2 + levels)·m·h numbers read or written.

    Returns:
        gradients of the activations (m, h), in place of level 0, and their sums (h,).
    """
    m, h = activations.shape
    parts = triton.cdiv(m, _MASK_ROWS)
    sums = torch.empty(parts, h, device=activations.device)
    _mask[(parts, triton.cdiv(h, _MASK_COLUMNS))](
        activations_ptr=activations,
        ids_ptr=ids,
        values_ptr=values,
        gradients_ptr=gradients,
        sums_ptr=sums,
        m=m,
        h=h,
        k=k,
        w=ids.shape[1],
        levels=levels,
        rows=_MASK_ROWS,
        columns=_MASK_COLUMNS,
        num_warps=4,
    )
    return gradients[:m], sums.sum(0)
