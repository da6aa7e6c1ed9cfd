"""Cosine losses in Triton: both reconstructions of a row, their cosines and gradients.

One program per row. Of sparse codes it keeps x and both reconstructions in registers and gathers
the row's decoder rows twice from the L2 cache: once to decode, once for the value gradients. Of
dense codes it reads both reconstructions.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.decode import gpu as sparse
from compressae.kernels.decode.gpu import decoded

#: Decoder rows gathered at a time.
_TOGETHER = 4
#: Largest d that fits the registers; wider rows take the unfused path.
_WIDEST = 2048


@triton.jit
def _value_gradients(
    ids_ptr,
    weights_ptr,
    out_ptr,
    gradient,
    first,
    last,
    d,
    column,
    together: tl.constexpr,
):
    """Gradients of values first…last of one row: W[ids] @ gradient."""
    for start in range(first, last, together):
        j = start + tl.arange(0, together)
        latent = tl.load(ids_ptr + j, mask=j < last, other=0).to(tl.int64)
        inside = (j < last)[:, None] & (column < d)[None, :]
        w = tl.load(weights_ptr + latent[:, None] * d + column[None, :], mask=inside, other=0.0)
        tl.store(out_ptr + j, tl.sum(w * gradient[None, :], 1), mask=j < last)


@triton.jit
def _slope(x, y, factor):
    """cos(x, y) and −factor·∂cos/∂y; both 0 if x or y is zero."""
    xy, xx, yy = tl.sum(x * y, 0), tl.sum(x * x, 0), tl.sum(y * y, 0)
    nonzero = (xx != 0) & (yy != 0)  # True for NaN, which shall stay.
    norms = tl.sqrt(tl.where(nonzero, xx, 1.0)) * tl.sqrt(tl.where(nonzero, yy, 1.0))
    cosine = tl.where(nonzero, xy / norms, 0.0)
    gradient = factor * (cosine / tl.where(nonzero, yy, 1.0) * y - x / norms)
    return cosine, tl.where(nonzero, gradient, 0.0)


@triton.jit(do_not_specialize=["m", "n"])
def _slopes(
    x_ptr,
    reconstructions_ptr,
    cosines_ptr,
    slopes_ptr,
    m,
    n,
    d,
    factor,
    wide_factor,
    levels: tl.constexpr,
    columns: tl.constexpr,
):
    """Cosines (levels, n) and gradients of the decoded levels (levels, m, d) of one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, columns)
    inside = column < d
    at, wide_at = row * d + column, (m + row) * d + column
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(reconstructions_ptr + at, mask=inside, other=0.0).to(tl.float32)
    cosine, gradient = _slope(x, y, factor)
    tl.store(cosines_ptr + row, cosine)
    if levels == 2:
        z = y + tl.load(reconstructions_ptr + wide_at, mask=inside, other=0.0).to(tl.float32)
        wide_cosine, wide_gradient = _slope(x, z, wide_factor)
        gradient += wide_gradient
        tl.store(cosines_ptr + n + row, wide_cosine)
        tl.store(slopes_ptr + wide_at, wide_gradient, mask=inside)
    tl.store(slopes_ptr + at, gradient, mask=inside)


@triton.jit(do_not_specialize=["n", "k", "w"])
def _cosine_gradients(
    ids_ptr,
    values_ptr,
    weights_ptr,
    x_ptr,
    n,
    k,
    w,
    d,
    factor,
    wide_factor,
    cosines_ptr,
    value_gradients_ptr,
    gradients_ptr,
    together: tl.constexpr,
    columns: tl.constexpr,
):
    """Cosines (2, n), value gradients (n, w) and reconstruction gradients (2, n, d) of one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, columns)
    ids_ptr += row * w
    values_ptr += row * w
    value_gradients_ptr += row * w

    # Decode the first k nonzeros, then add the rest.
    x = tl.load(x_ptr + row * d + column, mask=column < d, other=0.0)
    y = decoded(ids_ptr, values_ptr, weights_ptr, 0, k, d, column, together, columns)
    z = y + decoded(ids_ptr, values_ptr, weights_ptr, k, w, d, column, together, columns)

    # The first k nonzeros are in both reconstructions, so they receive both gradients.
    cosine, gradient = _slope(x, y, factor)
    wide_cosine, wide_gradient = _slope(x, z, wide_factor)
    gradient += wide_gradient
    tl.store(cosines_ptr + row, cosine)
    tl.store(cosines_ptr + n + row, wide_cosine)
    tl.store(gradients_ptr + row * d + column, gradient, mask=column < d)
    tl.store(gradients_ptr + (n + row) * d + column, wide_gradient, mask=column < d)

    # Value gradients: gather the decoder rows a second time.
    _value_gradients(ids_ptr, weights_ptr, value_gradients_ptr, gradient, 0, k, d, column, together)
    _value_gradients(
        ids_ptr, weights_ptr, value_gradients_ptr, wide_gradient, k, w, d, column, together
    )


def cosine_gradients(
    indices: Tensor, values: Tensor, weights: Tensor, x: Tensor, k: int, wide_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``kernels.cosine``.

    Lower bounds: 2·n·w·d floats of W from the L2 cache, 3·n·d floats from memory, 2·n·w·d
    multiply-adds.
    """
    (n, w), d = indices.shape, weights.shape[1]
    indices, values, weights, x = (t.contiguous() for t in (indices, values, weights, x))
    if d > _WIDEST:
        return _unfused(indices, values, weights, x, k, wide_weight)
    cosines = torch.empty(2, n, device=x.device)
    value_gradients = torch.empty(n, w, device=x.device)
    gradients = torch.empty(2, n, d, device=x.device)
    columns = max(16, triton.next_power_of_2(d))
    if n:
        _cosine_gradients[(n,)](
            ids_ptr=indices,
            values_ptr=values,
            weights_ptr=weights,
            x_ptr=x,
            n=n,
            k=k,
            w=w,
            d=d,
            factor=1 / n,
            wide_factor=wide_weight / n,
            cosines_ptr=cosines,
            value_gradients_ptr=value_gradients,
            gradients_ptr=gradients,
            together=_TOGETHER,
            columns=columns,
            num_warps=min(16, max(2, columns // 128)),
        )
    return cosines, value_gradients, gradients


def dense_slopes(
    x: Tensor, reconstructions: Tensor, cosines: Tensor, n: int, wide_weight: float
) -> Tensor:
    """Cosine losses of rows x (m, d) and decoded levels (levels·m, d).

    Writes cosines (levels, m), columns of (levels, n), and returns the gradients (levels·m, d) of
    the decoded levels. Lower bounds: (2 + 2·levels)·m·d numbers read or written.
    """
    (m, d), levels = x.shape, len(cosines)
    slopes = torch.empty_like(reconstructions)
    columns = triton.next_power_of_2(d)
    _slopes[(m,)](
        x_ptr=x,
        reconstructions_ptr=reconstructions,
        cosines_ptr=cosines,
        slopes_ptr=slopes,
        m=m,
        n=n,
        d=d,
        factor=(1 if levels == 2 else 1 + wide_weight) / n,
        wide_factor=wide_weight / n,
        levels=levels,
        columns=columns,
        num_warps=min(16, max(1, columns // 256)),
    )
    return slopes


def _unfused(
    indices: Tensor, values: Tensor, weights: Tensor, x: Tensor, k: int, wide_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``cosine_gradients`` with both reconstructions (n, d) in memory, for any d."""
    y = sparse.decode(indices[:, :k], values[:, :k], weights)
    z = y + sparse.decode(indices[:, k:], values[:, k:], weights)
    x_norm = x.norm(dim=1, keepdim=True)
    cosines, gradients = [], []
    for reconstruction, factor in ((y, 1.0), (z, wide_weight)):
        norm = reconstruction.norm(dim=1, keepdim=True)
        nonzero = (norm != 0) & (x_norm != 0)
        norm, norms = torch.where(nonzero, norm, 1.0), torch.where(nonzero, norm * x_norm, 1.0)
        dots = (x * reconstruction).sum(1, keepdim=True)
        cosine = torch.where(nonzero, dots / norms, 0.0)
        slope = (factor / len(x)) * (cosine * reconstruction / norm**2 - x / norms)
        cosines.append(cosine[:, 0])
        gradients.append(torch.where(nonzero, slope, 0.0))
    gradients[0] += gradients[1]
    value_gradients = [
        sparse.sampled_matmul(indices[:, part], gradient, weights)
        for part, gradient in zip((slice(k), slice(k, None)), gradients, strict=True)
    ]
    return torch.stack(cosines), torch.cat(value_gradients, 1), torch.stack(gradients)
