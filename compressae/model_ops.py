"""Differentiable sparse products: numba kernels on the CPU, Triton kernels on a GPU.

Letters: S is the sparse matrix (n, h) of ``values`` (n, k) at ``indices`` (n, k), W the ``weights``
(h, d). Products cost O(n·k·d) where dense ones cost O(n·h·d).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressae.kernels import decode as sparse
from compressae.kernels import encode, topk
from compressae.kernels.backend import current, uses_triton


def _by_kernel(kernel: Callable[..., Any], *tensors: Tensor) -> Any:
    """Call a kernel on tensors of one device, without gradients.

    On the CPU it receives and returns numpy arrays that share the memory of the tensors.
    """
    if uses_triton(tensors[0]):
        with current(tensors[0].device):
            return kernel(*(tensor.detach() for tensor in tensors))
    out = kernel(*(tensor.detach().numpy() for tensor in tensors))
    if isinstance(out, tuple):
        return tuple(map(torch.from_numpy, out))
    return torch.from_numpy(out)


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select the k entries of largest |x| of each row of x (n, h).

    Returns:
        ids (n, k) int32 and signed values (n, k), by descending |value|.

    >>> abs_topk(torch.tensor([[1.0, -3.0, 2.0]]), 2)
    (tensor([[1, 2]], dtype=torch.int32), tensor([[-3.,  2.]]))
    """
    if uses_triton(x) or x.dtype == torch.float32:
        ids, values = _by_kernel(lambda x: topk.abs_topk(x, k), x)
        return ids, values
    columns = x.abs().topk(k, dim=1).indices
    return columns.int(), x.gather(1, columns)


def sparse_t_matmul(indices: Tensor, values: Tensor, rows: Tensor, h: int) -> Tensor:
    """Multiply Sᵀ @ rows (h, d), without gradients.

    >>> indices = torch.tensor([[2], [0]], dtype=torch.int32)
    >>> sparse_t_matmul(indices, torch.tensor([[3.0], [1.0]]), torch.eye(2), h=3)
    tensor([[0., 1.],
            [0., 0.],
            [3., 0.]])
    """
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
        grad_values = grad_weights = None
        if ctx.needs_input_grad[1]:
            grad_values = sampled_matmul(indices, grad, weights)
        if ctx.needs_input_grad[2]:
            grad_weights = sparse_t_matmul(indices, values, grad, len(weights))
        return None, grad_values, grad_weights


def decode(indices: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Reconstruct rows S @ W (n, d); differentiable in values and weights.

    >>> indices = torch.tensor([[0, 2]], dtype=torch.int32)
    >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> decode(indices, torch.tensor([[1.0, 2.0]]), weights)
    tensor([[3., 2.]])
    """
    out: Tensor = _Decode.apply(indices.contiguous(), values.contiguous(), weights)
    return out


def sampled_matmul(indices: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Compute the entries of rows @ Wᵀ at indices (n, k), without gradients.

    Equal to ``(rows @ weights.T).gather(1, indices)``.
    """
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
        grad_x = decode(indices, grad, weights) if ctx.needs_input_grad[0] else None
        grad_weights = sparse_t_matmul(indices, grad, x, len(weights))
        if uses_triton(x):  # Deterministic order of summation, unlike index_add_ on a GPU.
            ones = torch.ones(len(x), 1, device=x.device)
            grad_bias = sparse_t_matmul(indices, grad, ones, len(weights))[:, 0]
        else:
            grad_bias = torch.zeros_like(bias).index_add_(0, indices.flatten(), grad.flatten())
        return grad_x, grad_weights, grad_bias, None


def encode_topk(x: Tensor, weights: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Encode rows: the k entries of largest |value| of x Wᵀ + b; differentiable in x, W and b.

    The forward pass is one dense product; the backward pass touches only the k selected rows of W.
    Equal, gradients included, to gathering ``x @ W.T + b`` at the ids.

    Args:
        x: (n, d).
        weights: W (h, d).
        bias: b (h,).
        k: nonzeros of a row.

    Returns:
        ids (n, k) int32 and signed values (n, k), by descending |value|.

    >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-2.0, -2.0]])
    >>> encode_topk(torch.tensor([[1.0, 0.5]]), weights, torch.zeros(3), 2)
    (tensor([[2, 0]], dtype=torch.int32), tensor([[-3.,  1.]]))
    """
    indices, values = _EncodeTopk.apply(x, weights, bias, k)
    return indices, values
