"""Orthogonal matching pursuit on a GPU: products by a library, supports extended in Triton.

With L the Cholesky factor of a row's W_i W_iᵀ + ridge·I, its inverse M is kept instead of L: a
latent more is a row more of M, found by products with M alone, and the values are Mᵀz with z = M y.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.backend import interprets
from compressae.kernels.topk.gpu import largest

#: Numbers of one batch's (rows, h) products.
_PRODUCTS = 1 << 26
#: Numbers of W, and of M, that a program holds at once.
_OF_WEIGHTS, _OF_INVERSE = 4096, 1024


@triton.jit(do_not_specialize=["filled", "last"])
def _extend(
    x_ptr, weights_ptr, chosen_ptr, inverse_ptr, z_ptr, values_ptr, residual_ptr,
    d, k, filled, ridge, last,
    lanes: tl.constexpr, columns: tl.constexpr, together: tl.constexpr,
):  # fmt: skip
    """Take the latent after the first ``filled`` into one row's fit.

    inverse (n, k, k) and z (n, k) float64 grow by a row; where ``last``, values (n, k) and residual
    (n, d) are those of the new fit.
    """
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * d
    residual_ptr += row * d
    chosen_ptr += row * k
    inverse_ptr += row * k * k
    z_ptr += row * k
    lane, column = tl.arange(0, lanes), tl.arange(0, columns)
    latent = tl.load(chosen_ptr + lane, mask=lane <= filled, other=0).to(tl.int64)
    mine = weights_ptr + latent[:, None] * d
    new_ptr = weights_ptr + tl.load(chosen_ptr + filled).to(tl.int64) * d

    dots = tl.zeros([lanes], tl.float32)  # Of the new latent with all, itself too.
    y = tl.zeros([columns], tl.float32)
    for start in range(0, d, columns):
        t = start + column
        new = tl.load(new_ptr + t, mask=t < d, other=0.0)
        inside = (lane <= filled)[:, None] & (t < d)[None, :]
        dots += tl.sum(tl.load(mine + t[None, :], mask=inside, other=0.0) * new[None, :], 1)
        y += new * tl.load(x_ptr + t, mask=t < d, other=0.0)
    dots = dots.to(tl.float64)
    size = tl.sum(tl.where(lane == filled, dots, 0.0), 0) + ridge
    old = tl.where(lane < filled, dots, 0.0)

    beyond, along = tl.sum(y, 0).to(tl.float64), tl.zeros([lanes], tl.float64)
    v = tl.zeros([lanes], tl.float64)
    for first in range(0, filled, together):
        a = first + tl.arange(0, together)
        inside = (a < filled)[:, None] & (lane[None, :] <= a[:, None])
        m = tl.load(inverse_ptr + a[:, None] * k + lane[None, :], mask=inside, other=0.0)
        known = tl.load(z_ptr + a, mask=a < filled, other=0.0)
        part = tl.sum(m * old[None, :], 1)
        size -= tl.sum(part * part, 0)
        beyond -= tl.sum(part * known, 0)
        along += tl.sum(part[:, None] * m, 0)
        v += tl.sum(known[:, None] * m, 0)
    length = tl.sqrt(tl.maximum(size, 1e-12))
    line = tl.where(lane == filled, 1.0, -along) / length
    z = beyond / length
    v += z * line
    tl.store(inverse_ptr + filled * k + lane, line, mask=lane <= filled)
    tl.store(z_ptr + filled, z)

    if last:
        value = v.to(tl.float32)
        tl.store(values_ptr + row * k + lane, value, mask=lane <= filled)
        for start in range(0, d, columns):
            t = start + column
            inside = (lane <= filled)[:, None] & (t < d)[None, :]
            near = tl.sum(value[:, None] * tl.load(mine + t[None, :], mask=inside, other=0.0), 0)
            x = tl.load(x_ptr + t, mask=t < d, other=0.0)
            tl.store(residual_ptr + t, x - near, mask=t < d)


def pursue(
    x: Tensor, weights: Tensor, counts: Sequence[int], ridge: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Indices (n, k) int32 in the order chosen and values (n, k) float32.

    Floors of a step that takes the j-th latent: d·h products in the tensor cores and h numbers
    written and read twice; 2·j·d numbers of W, from the L2 cache where it holds W, and j²/2
    float64 of M.
    """
    n, h, k = len(x), len(weights), sum(counts)
    x, weights = x.contiguous(), weights.contiguous()
    if dtype is None:
        dtype = torch.float32 if interprets() else torch.bfloat16
    projection = weights.to(dtype).T
    indices = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    batch = max(1, _PRODUCTS // max(h, 2 * k * k))  # float64 inverses of 256 MiB at most.
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        _pursue_batch(x[part], weights, projection, counts, ridge, indices[part], values[part])
    return indices, values


def _pursue_batch(
    x: Tensor,
    weights: Tensor,
    projection: Tensor,
    counts: Sequence[int],
    ridge: float,
    indices: Tensor,
    values: Tensor,
) -> None:
    """Fill the indices and values of one batch; ``projection`` (d, h) is the weights' transpose."""
    (m, k), d = indices.shape, x.shape[1]
    inverse = torch.empty(m, k, k, dtype=torch.float64, device=x.device)
    z = torch.empty(m, k, dtype=torch.float64, device=x.device)
    residual, filled = x.clone(), 0
    for count in counts:
        strength = (residual.to(projection.dtype) @ projection).abs_()
        strength.scatter_(1, indices[:, :filled].long(), -1)
        indices[:, filled : filled + count] = _strongest(strength, count)
        for latent in range(filled, filled + count):
            lanes = max(16, triton.next_power_of_2(latent + 1))
            _extend[(m,)](
                x, weights, indices, inverse, z, values, residual, d, k, latent, ridge,
                int(latent == filled + count - 1), lanes, _OF_WEIGHTS // lanes,
                _OF_INVERSE // lanes, num_warps=4,
            )  # fmt: skip
        filled += count


def _strongest(strength: Tensor, count: int) -> Tensor:
    """Ids (n, count) of the largest entries, best first, ties by smaller id."""
    if count == 1:  # A plain reduction reads the products once.
        return strength.argmax(1, keepdim=True)
    return largest(strength, count)[0]
