"""Cosine losses of sparse codes and their gradients (GPU only)."""

from typing import TYPE_CHECKING

from compressae.kernels.backend import uses_triton
from compressae.kernels.cosine.gradients import Gradients

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def code_gradients(
    x: "Tensor",
    encoder: "Tensor",
    bias: "Tensor",
    decoder: "Tensor",
    k: int,
    w: int,
    wide_weight: float,
    products: "torch.dtype | None" = None,
) -> Gradients:
    """Gradients of mean(1 − cos(x, ŷ)) + wide_weight·mean(1 − cos(x, ẑ)) with respect to W, b, D.

    ŷ and ẑ are S D with S the k and the w entries of x Wᵀ + b of largest |value|. Equal to
    ``abs_topk``, gathers and backward. Products are dense on the tensor cores where h / w is small
    enough for that to be faster, else sparse.

    Args:
        x: (n, d) float32 unit rows.
        encoder, bias, decoder: W (h, d), b (h,) and D (h, d) float32.
        k: 1 ≤ k ≤ w.
        w: w ≤ h; if w = k, ŷ and ẑ are one.
        wide_weight: weight of the second loss.
        products: dtype of the dense products, activations and slopes: bfloat16 (when None) or
            float32. Sums over rows are float32.

    Raises:
        ValueError: k is out of range, or no GPU holds the tensors.
    """
    uses_triton(x, "triton")
    if not 1 <= k <= w <= len(encoder):
        raise ValueError(f"k = {k}, w = {w}: expected 1 ≤ k ≤ w ≤ {len(encoder)} latents")
    from compressae.kernels.cosine import dense, sparse
    from compressae.kernels.decode.gpu import dense_is_cheaper

    if dense_is_cheaper(w, len(encoder)):
        return dense.gradients(x, encoder, bias, decoder, k, w, wide_weight, products)
    return sparse.gradients(x, encoder, bias, decoder, k, w, wide_weight)


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
