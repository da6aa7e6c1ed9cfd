"""Differentiable sparse products: numba kernels on the CPU, Triton's on a GPU.

Both touch only the nonzeros: O(n·k·d) where the dense product is O(n·h·d).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressae.kernels import decode as sparse
from compressae.kernels import encode, topk
from compressae.kernels.backend import current, uses_triton


def _by_kernel(kernel: Callable[..., Any], *tensors: Tensor) -> Any:
    """What a kernel makes of tensors of one device, without gradient: Triton's on a GPU, numba's on
    arrays that share their memory."""
    if uses_triton(tensors[0]):
        with current(tensors[0].device):
            return kernel(*(tensor.detach() for tensor in tensors))
    found = kernel(*(tensor.detach().numpy() for tensor in tensors))
    if isinstance(found, tuple):
        return tuple(map(torch.from_numpy, found))
    return torch.from_numpy(found)


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k entries of largest |x| of each row (n, h): ids (n, k) int32, signed values (n, k)."""
    if uses_triton(x) or x.dtype == torch.float32:
        ids, values = _by_kernel(lambda x: topk.abs_topk(x, k), x)
        return ids, values
    places = x.abs().topk(k, dim=1).indices
    return places.int(), x.gather(1, places)


def sparse_t_matmul(indices: Tensor, values: Tensor, rows: Tensor, h: int) -> Tensor:
    """S.T @ rows (h, d), where S (n, h) holds values (n, k) at indices (n, k)."""
    out: Tensor = _by_kernel(
        lambda i, v, x: sparse.sparse_t_matmul(i, v, x, h), indices, values, rows
    )
    return out


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(indices, values, weights)
        out: Tensor = _by_kernel(sparse.decode, indices, values, weights)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        indices, values, weights = ctx.saved_tensors
        grad = grads[0].contiguous()
        to_values = to_weights = None
        if ctx.needs_input_grad[1]:
            to_values = sampled_matmul(indices, grad, weights)
        if ctx.needs_input_grad[2]:
            to_weights = sparse_t_matmul(indices, values, grad, len(weights))
        return None, to_values, to_weights


def decode(indices: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """S @ W (n, d): differentiable in values (n, k) and weights (h, d)."""
    out: Tensor = _Decode.apply(indices.contiguous(), values.contiguous(), weights)
    return out


def sampled_matmul(indices: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(rows @ W.T) at indices (n, k), without gradient."""
    out: Tensor = _by_kernel(sparse.sampled_matmul, indices, rows, weights)
    return out


class _EncodeTopk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, bias: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        if uses_triton(x):
            indices, values = _by_kernel(
                lambda x, w, b: encode.encode(x, w, b, k), x, weights, bias
            )
        else:
            indices, values = abs_topk(torch.addmm(bias, x, weights.T), k)
        ctx.save_for_backward(x, weights, bias, indices)
        ctx.mark_non_differentiable(indices)
        return indices, values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, bias, indices = ctx.saved_tensors
        grad = grads[1].contiguous()
        to_x = decode(indices, grad, weights) if ctx.needs_input_grad[0] else None
        to_weights = sparse_t_matmul(indices, grad, x, len(weights))
        if uses_triton(x):  # Sums in one order, which index_add_ on a GPU does not keep.
            ones = torch.ones(len(x), 1, device=x.device)
            to_bias = sparse_t_matmul(indices, grad, ones, len(weights))[:, 0]
        else:
            to_bias = torch.zeros_like(bias).index_add_(0, indices.flatten(), grad.flatten())
        return to_x, to_weights, to_bias, None


def encode_topk(x: Tensor, weights: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """φ_k(x Wᵀ + b): ids (n, k) int32 and signed values (n, k) by descending |value|.

    One dense product forward; the backward pass touches the k chosen rows only. Equal, gradients
    included, to gathering ``x @ W.T + b`` at the ids.
    """
    indices, values = _EncodeTopk.apply(x, weights, bias, k)
    return indices, values
