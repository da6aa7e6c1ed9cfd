"""Batched k×k ridge least squares on a GPU: Gram matrices in Triton, solves in torch."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

#: A batch's limits: bytes of Gram matrices, and rows per call of torch's batched solvers.
_HELD, _ROWS = 1 << 28, 1 << 15
#: A program's tile: latents per side of the Gram matrix, at most, and columns of W per step.
_TILE, _COLUMNS = 32, 32


@triton.jit
def _gram(
    x_ptr,
    ids_ptr,
    weights_ptr,
    gram_ptr,
    y_ptr,
    k,
    d,
    tile: tl.constexpr,
    columns: tl.constexpr,
):
    """One tile of one row's Gram matrix; tiles of the first column also fill y = W_i·x_i."""
    row = tl.program_id(0).to(tl.int64)
    a = tl.program_id(1) * tile + tl.arange(0, tile)
    b = tl.program_id(2) * tile + tl.arange(0, tile)
    lane = tl.arange(0, columns)
    ids_ptr += row * k
    left = weights_ptr + tl.load(ids_ptr + a, mask=a < k, other=0).to(tl.int64)[:, None] * d
    right = weights_ptr + tl.load(ids_ptr + b, mask=b < k, other=0).to(tl.int64)[None, :] * d
    dots = tl.zeros([tile, tile], tl.float32)
    y = tl.zeros([tile], tl.float32)
    for start in range(0, d, columns):
        t = start + lane
        w = tl.load(left + t[None, :], mask=(a < k)[:, None] & (t < d)[None, :], other=0.0)
        u = tl.load(right + t[:, None], mask=(b < k)[None, :] & (t < d)[:, None], other=0.0)
        dots = tl.dot(w, u, dots, input_precision="tf32x3")
        x = tl.load(x_ptr + row * d + t, mask=t < d, other=0.0)
        y += tl.sum(w * x[None, :], 1)
    inside = (a < k)[:, None] & (b < k)[None, :]
    tl.store(gram_ptr + row * k * k + a[:, None] * k + b[None, :], dots, mask=inside)
    tl.store(y_ptr + row * k + a, y, mask=(a < k) & (tl.program_id(2) == 0))


def gram(x: Tensor, indices: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices W_i W_iᵀ (n, k, k) and W_i x_i (n, k), float32, with W_i = weights[indices[i]].

    Lower bounds: n·k·d floats of W, from the L2 cache if it holds W; n·k² floats written; n·k²·d
    multiply-adds on the tensor cores, each in three of TF32 (which leaves less error than float32
    added up in order).
    """
    (n, k), d = indices.shape, weights.shape[1]
    dots = torch.empty(n, k, k, dtype=torch.float32, device=x.device)
    y = torch.empty(n, k, dtype=torch.float32, device=x.device)
    tile = min(_TILE, max(16, triton.next_power_of_2(k)))
    tiles = triton.cdiv(k, tile)
    if n:
        _gram[(n, tiles, tiles)](
            x_ptr=x.contiguous(),
            ids_ptr=indices.contiguous(),
            weights_ptr=weights.contiguous(),
            gram_ptr=dots,
            y_ptr=y,
            k=k,
            d=d,
            tile=tile,
            columns=_COLUMNS,
            num_warps=2,
        )
    return dots, y


def parts(n: int, k: int, number_bytes: int) -> Iterator[slice]:
    """Cut n rows into batches whose k×k matrices, ``number_bytes`` per entry, fit the limits."""
    size = max(1, min(_ROWS, _HELD // (k * k * number_bytes)))
    return (slice(start, start + size) for start in range(0, n, size))


def refit(x: Tensor, indices: Tensor, weights: Tensor, ridge: float, reductions: bool) -> Tensor:
    """Least-squares values (n, k), or error reductions of successive latents if ``reductions``.

    Lower bounds: those of ``gram``; the solves read n·k² float64 a few times and take n·k³/3
    multiply-adds.
    """
    n, k = indices.shape
    out = torch.empty(n, k, dtype=torch.float32, device=x.device)
    for part in parts(n, k, 8):
        dots, y = gram(x[part], indices[part], weights)
        system = dots.double()
        system.diagonal(dim1=1, dim2=2).add_(ridge)
        lower = torch.linalg.cholesky_ex(system).L
        z = torch.linalg.solve_triangular(lower, y.double()[:, :, None], upper=False)
        if not reductions:
            z = torch.linalg.solve_triangular(lower.mT, z, upper=True)
        out[part] = z.square()[:, :, 0] if reductions else z[:, :, 0]
    return out
