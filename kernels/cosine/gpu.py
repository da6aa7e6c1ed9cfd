"""Both reconstructions of a row, their cosines and the gradients of its values, in Triton.

One program a row: it keeps x and both reconstructions in registers, so that W's rows are gathered
twice (to decode, and for the gradients), from the L2 cache, and nothing else is read again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.decode import gpu as sparse
from compressae.kernels.decode.gpu import decoded

_TOGETHER = 4
#: Widest rows that fit the registers; wider ones take a launch a step.
_WIDEST = 2048


@triton.jit
def _projected(
    ids_ptr, weights_ptr, out_ptr, gradient, first, last, d, column, together: tl.constexpr
):
    for start in range(first, last, together):
        j = start + tl.arange(0, together)
        latent = tl.load(ids_ptr + j, mask=j < last, other=0).to(tl.int64)
        inside = (j < last)[:, None] & (column < d)[None, :]
        w = tl.load(weights_ptr + latent[:, None] * d + column[None, :], mask=inside, other=0.0)
        tl.store(out_ptr + j, tl.sum(w * gradient[None, :], 1), mask=j < last)


@triton.jit
def _slope(x, y, factor):
    """cos(x, y) and −factor·∂cos/∂y; both zero where x or y is zero."""
    xy, xx, yy = tl.sum(x * y, 0), tl.sum(x * x, 0), tl.sum(y * y, 0)
    some = (xx > 0) & (yy > 0)
    lengths = tl.sqrt(tl.where(some, xx, 1.0)) * tl.sqrt(tl.where(some, yy, 1.0))
    cosine = tl.where(some, xy / lengths, 0.0)
    gradient = factor * (cosine / tl.where(some, yy, 1.0) * y - x / lengths)
    return cosine, tl.where(some, gradient, 0.0)


@triton.jit
def _cosine_gradients(
    ids_ptr, values_ptr, weights_ptr, x_ptr, n, k, w, d, factor, wide_factor,
    cosines_ptr, to_values_ptr, gradients_ptr,
    together: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, columns)
    ids_ptr += row * w
    values_ptr += row * w
    to_values_ptr += row * w
    x = tl.load(x_ptr + row * d + column, mask=column < d, other=0.0)
    near = decoded(ids_ptr, values_ptr, weights_ptr, 0, k, d, column, together, columns)
    far = near + decoded(ids_ptr, values_ptr, weights_ptr, k, w, d, column, together, columns)
    cosine, gradient = _slope(x, near, factor)
    wide_cosine, wide_gradient = _slope(x, far, wide_factor)
    gradient += wide_gradient
    tl.store(cosines_ptr + row, cosine)
    tl.store(cosines_ptr + n + row, wide_cosine)
    tl.store(gradients_ptr + row * d + column, gradient, mask=column < d)
    tl.store(gradients_ptr + (n + row) * d + column, wide_gradient, mask=column < d)
    _projected(ids_ptr, weights_ptr, to_values_ptr, gradient, 0, k, d, column, together)
    _projected(ids_ptr, weights_ptr, to_values_ptr, wide_gradient, k, w, d, column, together)


def cosine_gradients(
    indices: Tensor, values: Tensor, weights: Tensor, x: Tensor, k: int, wide_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``kernels.cosine``. Floors: 2·n·w·d numbers of W from the L2 cache, 3·n·d of memory;
    2·n·w·d products."""
    (n, w), d = indices.shape, weights.shape[1]
    indices, values, weights, x = (t.contiguous() for t in (indices, values, weights, x))
    if d > _WIDEST:
        return _in_steps(indices, values, weights, x, k, wide_weight)
    cosines = torch.empty(2, n, device=x.device)
    to_values = torch.empty(n, w, device=x.device)
    gradients = torch.empty(2, n, d, device=x.device)
    columns = max(16, triton.next_power_of_2(d))
    if n:
        _cosine_gradients[(n,)](
            indices, values, weights, x, n, k, w, d, 1 / n, wide_weight / n,
            cosines, to_values, gradients, _TOGETHER, columns,
            num_warps=min(16, max(2, columns // 128)),
        )  # fmt: skip
    return cosines, to_values, gradients


def _in_steps(
    indices: Tensor, values: Tensor, weights: Tensor, x: Tensor, k: int, wide_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, by way of both reconstructions in memory."""
    near = sparse.decode(indices[:, :k], values[:, :k], weights)
    far = near + sparse.decode(indices[:, k:], values[:, k:], weights)
    size = x.norm(dim=1, keepdim=True)
    cosines, gradients = [], []
    for y, factor in ((near, 1.0), (far, wide_weight)):
        length = y.norm(dim=1, keepdim=True)
        some = (length > 0) & (size > 0)
        length, lengths = torch.where(some, length, 1.0), torch.where(some, length * size, 1.0)
        cosine = torch.where(some, (x * y).sum(1, keepdim=True) / lengths, 0.0)
        slope = (factor / len(x)) * (cosine * y / length**2 - x / lengths)
        cosines.append(cosine[:, 0])
        gradients.append(torch.where(some, slope, 0.0))
    gradients[0] += gradients[1]
    to_values = [
        sparse.project(indices[:, part], gradient, weights)
        for part, gradient in zip((slice(k), slice(k, None)), gradients, strict=True)
    ]
    return torch.stack(cosines), torch.cat(to_values, 1), torch.stack(gradients)
