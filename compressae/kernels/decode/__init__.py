"""Sparse matrix products of the decoder and its gradients; cost scales with nonzeros, not latents.

S is the sparse matrix (n, h) with k nonzeros per row: ``indices`` (n, k) int32 and ``values``
(n, k). W is (h, d), one row per latent. ``values``, ``rows`` and W share one float dtype, float32
on a GPU. Numpy arrays return numpy arrays; tensors on a GPU return tensors. For ``backend`` see
``compressae.kernels.backend``.
"""

from typing import Any

import numpy as np

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.decode import cpu
from compressae.kernels.threads import over_rows


def decode(
    indices: Any,
    values: Any,
    weights: Any,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """Reconstruct rows x̂ (n, d).

    Equal to ``S @ W``, in O(n·k·d).

    >>> indices = np.array([[0, 2], [1, 2]], np.int32)
    >>> values = np.array([[1, 2], [3, 0]], np.float32)
    >>> weights = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    >>> decode(indices, values, weights)
    array([[3., 2.],
           [0., 3.]], dtype=float32)
    """
    if uses_triton(weights, backend):
        from compressae.kernels.decode import gpu

        return gpu.decode(indices, values, weights)
    out = np.empty((len(indices), weights.shape[1]), weights.dtype)
    over_rows(lambda a, b: cpu.decode(indices, values, weights, out, a, b), len(indices), threads)
    return out


def sampled_matmul(
    indices: Any,
    rows: Any,
    weights: Any,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """Multiply rows (n, d) by Wᵀ, at the given latents only: (n, k).

    Equal to ``take_along_axis(rows @ W.T, indices, 1)``, in O(n·k·d). With rows = ∂L/∂x̂ it is
    ∂L/∂values of the decoder.

    >>> indices = np.array([[0, 2], [1, 2]], np.int32)
    >>> rows = np.array([[3, 2], [0, 3]], np.float32)
    >>> weights = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    >>> sampled_matmul(indices, rows, weights)
    array([[3., 5.],
           [3., 3.]], dtype=float32)
    """
    if uses_triton(weights, backend):
        from compressae.kernels.decode import gpu

        return gpu.sampled_matmul(indices, rows, weights)
    out = np.empty(indices.shape, rows.dtype)
    over_rows(
        lambda a, b: cpu.sampled_matmul(indices, rows, weights, out, a, b), len(indices), threads
    )
    return out


def sparse_t_matmul(
    indices: Any,
    values: Any,
    rows: Any,
    h: int,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """Multiply Sᵀ by rows (n, d): (h, d). Deterministic: each latent sums its rows in one order.

    Equal to ``S.T @ rows``, in O(n·k·d). With rows = ∂L/∂x̂ it is ∂L/∂W of the decoder; with
    values = ∂L/∂values and rows = x it is the encoder's.

    Args:
        indices: (n, k) int32.
        values: (n, k).
        rows: (n, d).
        h: number of latents.
        threads: number of threads; every processor the process may use when None.
        backend: see the module.

    >>> indices = np.array([[0, 2], [1, 2]], np.int32)
    >>> values = np.array([[1, 2], [3, 0]], np.float32)
    >>> rows = np.array([[3, 2], [0, 3]], np.float32)
    >>> sparse_t_matmul(indices, values, rows, h=3)
    array([[3., 2.],
           [0., 9.],
           [6., 4.]], dtype=float32)
    """
    if uses_triton(rows, backend):
        from compressae.kernels.decode import gpu

        return gpu.sparse_t_matmul(indices, values, rows, h)
    out = np.empty((h, rows.shape[1]), rows.dtype)
    starts, slots = cpu.group_by_latent(indices, h)
    over_rows(lambda a, b: cpu.sparse_t_matmul(starts, slots, values, rows, out, a, b), h, threads)
    return out


def second_moment(
    indices: np.ndarray, values: np.ndarray, h: int, threads: int | None = None
) -> np.ndarray:
    """S.T @ S (h, h) float32 of codes S (n, h): sums of products of two latents' values.

    O(n·k²), on the CPU.

    Args:
        indices: (n, k) int32, distinct within a row.
        values: (n, k) float32.
        h: number of latents.
        threads: number of threads; every processor the process may use when None.

    >>> indices = np.array([[0, 2], [2, 1]], np.int32)
    >>> values = np.array([[1, 2], [3, 4]], np.float32)
    >>> second_moment(indices, values, h=3)
    array([[ 1.,  0.,  2.],
           [ 0., 16., 12.],
           [ 2., 12., 13.]], dtype=float32)
    """
    out = np.empty((h, h), np.float32)
    starts, slots = cpu.group_by_latent(indices, h)
    over_rows(lambda a, b: cpu.second_moment(starts, slots, indices, values, out, a, b), h, threads)
    return out
