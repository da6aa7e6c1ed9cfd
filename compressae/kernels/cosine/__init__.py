"""Cosine losses and their gradients, fused over a batch's codes (GPU only)."""

from typing import TYPE_CHECKING

from compressae.kernels.backend import uses_triton

if TYPE_CHECKING:
    from torch import Tensor


def cosine_gradients(
    indices: "Tensor", values: "Tensor", weights: "Tensor", x: "Tensor", k: int, wide_weight: float
) -> "tuple[Tensor, Tensor, Tensor]":
    """Cosines and gradients of mean(1 − cos(x, ŷ)) + wide_weight·mean(1 − cos(x, ẑ)).

    ŷ decodes the first k nonzeros of a row, ẑ all w of them. Equal to ``decode``,
    ``torch.cosine_similarity`` and backward, stopped at the decoder. A row whose x or
    reconstruction is zero has cosine 0 and gradient 0.

    Args:
        indices: (n, w) int32, w ≥ k, the latents of each row.
        values: (n, w) float32.
        weights: (h, d) float32, the decoder.
        x: (n, d) float32.
        k: 1 ≤ k ≤ w.
        wide_weight: weight of the second loss; 0 if w = k.

    Returns:
        cosines: (2, n) with ŷ and ẑ.
        value gradients: (n, w).
        reconstruction gradients: (2, n, d), g[0] for the first k nonzeros and g[1] for the rest.
        The decoder's gradient is ``sparse_t_matmul(indices[:, :k], values[:, :k], g[0]) +
        sparse_t_matmul(indices[:, k:], values[:, k:], g[1])``.

    Raises:
        ValueError: k is out of range, or no GPU holds the tensors.
    """
    uses_triton(weights, "triton")
    if not 1 <= k <= indices.shape[1]:
        raise ValueError(
            f"k = {k} of {indices.shape[1]} nonzeros: expected 1 ≤ k ≤ {indices.shape[1]}"
        )
    from compressae.kernels.cosine import gpu

    return gpu.cosine_gradients(indices, values, weights, x, k, wide_weight)
