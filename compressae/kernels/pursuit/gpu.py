"""Orthogonal matching pursuit on a GPU: products by torch, supports extended in Triton.

L is the Cholesky factor of a row's W_i W_iᵀ + ridge·I. The kernel stores its inverse M = L⁻¹
instead: one more latent appends a row to M, computed by products with M alone, and the values are
Mᵀz with z = M y.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.backend import interprets
from compressae.kernels.topk.gpu import largest

#: Most entries of a batch's (rows, h) products.
_PRODUCTS = 1 << 26
#: Entries of W, and of M, in a program's tiles.
_OF_WEIGHTS, _OF_INVERSE = 4096, 1024


@triton.jit(do_not_specialize=["filled", "last"])
def _extend(
    x_ptr,
    weights_ptr,
    chosen_ptr,
    inverse_ptr,
    z_ptr,
    values_ptr,
    residual_ptr,
    d,
    k,
    filled,
    ridge,
    last,
    lanes: tl.constexpr,
    columns: tl.constexpr,
    together: tl.constexpr,
):
    """Add the latent at rank ``filled`` to the fit of one row.

    Appends a row to inverse (n, k, k) and z (n, k) float64. If ``last``, also writes the values
    (n, k) and the residual (n, d) of the new fit.
    """
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * d
    residual_ptr += row * d
    chosen_ptr += row * k
    inverse_ptr += row * k * k
    z_ptr += row * k
    lane, column = tl.arange(0, lanes), tl.arange(0, columns)
    latent = tl.load(chosen_ptr + lane, mask=lane <= filled, other=0).to(tl.int64)
    support_ptr = weights_ptr + latent[:, None] * d
    new_ptr = weights_ptr + tl.load(chosen_ptr + filled).to(tl.int64) * d

    # Dot products of the new latent with the support (itself included) and with x.
    dots = tl.zeros([lanes], tl.float32)
    y = tl.zeros([columns], tl.float32)
    for start in range(0, d, columns):
        t = start + column
        new = tl.load(new_ptr + t, mask=t < d, other=0.0)
        inside = (lane <= filled)[:, None] & (t < d)[None, :]
        dots += tl.sum(tl.load(support_ptr + t[None, :], mask=inside, other=0.0) * new[None, :], 1)
        y += new * tl.load(x_ptr + t, mask=t < d, other=0.0)
    dots = dots.to(tl.float64)
    size = tl.sum(tl.where(lane == filled, dots, 0.0), 0) + ridge
    old = tl.where(lane < filled, dots, 0.0)

    # One pass over M: the new row of L (M @ old), its product with M, and the values so far (Mᵀz).
    beyond, along = tl.sum(y, 0).to(tl.float64), tl.zeros([lanes], tl.float64)
    v = tl.zeros([lanes], tl.float64)
    for first in range(0, filled, together):
        a = first + tl.arange(0, together)
        inside = (a < filled)[:, None] & (lane[None, :] <= a[:, None])
        m = tl.load(inverse_ptr + a[:, None] * k + lane[None, :], mask=inside, other=0.0)
        z_old = tl.load(z_ptr + a, mask=a < filled, other=0.0)
        part = tl.sum(m * old[None, :], 1)
        size -= tl.sum(part * part, 0)
        beyond -= tl.sum(part * z_old, 0)
        along += tl.sum(part[:, None] * m, 0)
        v += tl.sum(z_old[:, None] * m, 0)

    # Append the new row of M and the new entry of z.
    pivot = tl.sqrt(tl.maximum(size, 1e-12))
    m_row = tl.where(lane == filled, 1.0, -along) / pivot
    z = beyond / pivot
    v += z * m_row
    tl.store(inverse_ptr + filled * k + lane, m_row, mask=lane <= filled)
    tl.store(z_ptr + filled, z)

    # Values and residual x − v @ W_i.
    if last:
        value = v.to(tl.float32)
        tl.store(values_ptr + row * k + lane, value, mask=lane <= filled)
        for start in range(0, d, columns):
            t = start + column
            inside = (lane <= filled)[:, None] & (t < d)[None, :]
            w = tl.load(support_ptr + t[None, :], mask=inside, other=0.0)
            reconstruction = tl.sum(value[:, None] * w, 0)
            x = tl.load(x_ptr + t, mask=t < d, other=0.0)
            tl.store(residual_ptr + t, x - reconstruction, mask=t < d)


def pursue(
    x: Tensor, weights: Tensor, counts: Sequence[int], ridge: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Encode rows: indices (n, k) int32 in order of selection and values (n, k) float32.

    Lower bounds of the step that adds the j-th latent, per row: d·h multiply-adds on the tensor
    cores and h numbers, written and read twice; 2·j·d floats of W, from the L2 cache if it holds
    W; j²/2 float64 of M.
    """
    n, h, k = len(x), len(weights), sum(counts)
    x, weights = x.contiguous(), weights.contiguous()
    if dtype is None:
        dtype = torch.float32 if interprets() else torch.bfloat16
    projection = weights.to(dtype).T
    indices = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    # The batch's float64 inverses (rows, k, k) take at most 256 MiB.
    batch_size = max(1, _PRODUCTS // max(h, 2 * k * k))
    for start in range(0, n, batch_size):
        batch = slice(start, start + batch_size)
        _pursue_batch(x[batch], weights, projection, counts, ridge, indices[batch], values[batch])
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
    """Fill indices and values (m, k) of one batch; ``projection`` (d, h) is Wᵀ."""
    (m, k), d = indices.shape, x.shape[1]
    inverse = torch.empty(m, k, k, dtype=torch.float64, device=x.device)
    z = torch.empty(m, k, dtype=torch.float64, device=x.device)
    residual, filled = x.clone(), 0
    for count in counts:
        # Select the latents most correlated with the residual, outside the support.
        strength = (residual.to(projection.dtype) @ projection).abs_()
        strength.scatter_(1, indices[:, :filled].long(), -1)
        indices[:, filled : filled + count] = _strongest(strength, count)

        # Extend the fit one latent at a time; the last one writes values and residual.
        for latent in range(filled, filled + count):
            lanes = max(16, triton.next_power_of_2(latent + 1))
            _extend[(m,)](
                x_ptr=x,
                weights_ptr=weights,
                chosen_ptr=indices,
                inverse_ptr=inverse,
                z_ptr=z,
                values_ptr=values,
                residual_ptr=residual,
                d=d,
                k=k,
                filled=latent,
                ridge=ridge,
                last=int(latent == filled + count - 1),
                lanes=lanes,
                columns=_OF_WEIGHTS // lanes,
                together=_OF_INVERSE // lanes,
                num_warps=4,
            )
        filled += count


def _strongest(strength: Tensor, count: int) -> Tensor:
    """Ids (n, count) of the largest entries, best first, ties by smaller id."""
    if count == 1:  # A plain reduction reads the products once.
        return strength.argmax(1, keepdim=True)
    return largest(strength, count)[0]
