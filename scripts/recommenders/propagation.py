"""LightGCN's propagation (arXiv 2002.02126, equations 3, 4 and 7) and its gradient."""

from typing import Any

import numba
import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from compressae.kernels.threads import over_rows


def normalised_adjacency(train: csr_array) -> csr_array:
    """D^−½ A D^−½ of the graph of users and items, (n, n) float32, n = n_users + n_items.

    Rows and columns are users first, then items; A is 1 where a user and an item interacted, D the
    degrees. It is symmetric.
    """
    pairs = train.tocoo()
    users, items = pairs.row, pairs.col + train.shape[0]
    n = sum(train.shape)
    degrees = np.bincount(np.concatenate([users, items]), minlength=n)
    weights = (1 / np.sqrt(degrees[users] * degrees[items].astype(np.float64))).astype(np.float32)
    ends = np.concatenate([users, items]), np.concatenate([items, users])
    found = csr_array(coo_array((np.concatenate([weights, weights]), ends), shape=(n, n)))
    found.sort_indices()
    return found


def propagate(adjacency: csr_array, rows: Tensor, layers: int) -> Tensor:
    """Mean of rows (n, d) float32, Ã·rows, …, Ã^layers·rows, on the CPU; differentiable.

    Ã is symmetric, so the gradient is the same mean of Ã^l times the gradient of the result.
    """
    return _Propagation.apply(rows, adjacency, layers)


def neighbours(adjacency: csr_array, rows: Tensor) -> Tensor:
    """Ã·rows (n, d) float32, on the CPU; differentiable. Ã is symmetric."""
    return _Product.apply(rows, adjacency)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, adjacency: csr_array) -> Tensor:
        ctx.graph = adjacency
        return torch.from_numpy(adjacency @ rows.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.graph @ gradients[0].contiguous().numpy()), None


class _Propagation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, adjacency: csr_array, layers: int) -> Tensor:
        ctx.graph = adjacency, layers
        return _mean_of_layers(adjacency, rows, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _mean_of_layers(ctx.graph[0], gradients[0], ctx.graph[1]), None, None


def _mean_of_layers(adjacency: csr_array, rows: Tensor, layers: int) -> Tensor:
    """By Horner's rule: x ← rows + Ã·x, ``layers`` times, over layers + 1."""
    x = first = np.ascontiguousarray(rows.detach().numpy())
    scale = np.float32(1)
    for layer in range(layers):
        if layer == layers - 1:
            scale = np.float32(1 / (layers + 1))
        out = np.empty_like(first)
        graph = adjacency.indptr, adjacency.indices, adjacency.data
        over_rows(lambda a, b: _add_product(*graph, x, first, scale, out, a, b), len(first))
        x = out
    return torch.from_numpy(x if layers else x.copy())


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add_product(indptr, indices, data, x, first, scale, out, start, stop):  # type: ignore[no-untyped-def]
    """out[i] = scale · (first[i] + Σ_j Ã[i, j]·x[j]) for i in start..stop."""
    d = x.shape[1]
    for i in range(start, stop):
        row = out[i]
        for c in range(d):
            row[c] = first[i, c]
        for p in range(indptr[i], indptr[i + 1]):
            other, weight = x[indices[p]], data[p]
            for c in range(d):
                row[c] += weight * other[c]
        for c in range(d):
            row[c] *= scale
