"""The sparse decoder and its gradients: work in proportion to nonzeros, not to latents.

S is the (n, h) matrix with k nonzeros a row given by ``indices`` (n, k) int32 and ``values``
(n, k); W is (h, d), one row a latent. Values, rows and W share one float dtype, float32 on a GPU.
Numpy arrays give numpy arrays, tensors on a GPU give tensors; ``backend`` is of
``compressae.kernels.backend``.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.decode import cpu
from compressae.kernels.threads import over_rows

if TYPE_CHECKING:
    import torch


def decode(
    indices: Any,
    values: Any,
    weights: Any,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """x̂ (n, d), equal to ``S @ W``, in O(n·k·d)."""
    if uses_triton(weights, backend):
        from compressae.kernels.decode import gpu

        return gpu.decode(indices, values, weights)
    out = np.empty((len(indices), weights.shape[1]), weights.dtype)
    over_rows(lambda a, b: cpu.decode(indices, values, weights, out, a, b), len(indices), threads)
    return out


def project(
    indices: Any,
    rows: Any,
    weights: Any,
    threads: int | None = None,
    backend: Backend = "auto",
) -> Any:
    """(n, k), equal to ``take_along_axis(rows @ W.T, indices, 1)``, in O(n·k·d).

    With rows = ∂L/∂x̂ this is ∂L/∂values of the decoder.
    """
    if uses_triton(weights, backend):
        from compressae.kernels.decode import gpu

        return gpu.project(indices, rows, weights)
    out = np.empty(indices.shape, rows.dtype)
    over_rows(lambda a, b: cpu.project(indices, rows, weights, out, a, b), len(indices), threads)
    return out


def outer_sum(
    indices: Any,
    values: Any,
    rows: Any,
    h: int,
    threads: int | None = None,
    backend: Backend = "auto",
    products: "torch.dtype | None" = None,
) -> Any:
    """(h, d), equal to ``S.T @ rows``, in O(n·k·d): each latent's rows are summed in one order.

    With rows = ∂L/∂x̂ this is ∂L/∂W of the decoder; with values = ∂L/∂values and rows = x, of the
    encoder.

    Args:
        indices, values, rows, h: as above; (n, k), (n, k), (n, d).
        threads: processors to use; all that the process may use when None.
        backend: see there.
        products: bfloat16 lets a GPU round what it multiplies to 8 bits of mantissa: its tensor
            cores then multiply the dense S, zeros and all, where h / k is small enough for that to
            take less time. float32 when None.
    """
    if uses_triton(rows, backend):
        from compressae.kernels.decode import gpu

        if products is not None and gpu.dense_is_cheaper(indices.shape[1], h):
            return gpu.dense_outer_sum(indices, values, rows, h, products)
        return gpu.outer_sum(indices, values, rows, h)
    out = np.empty((h, rows.shape[1]), rows.dtype)
    starts, slots = cpu.group_by_latent(indices, h)
    over_rows(lambda a, b: cpu.outer_sum(starts, slots, values, rows, out, a, b), h, threads)
    return out
