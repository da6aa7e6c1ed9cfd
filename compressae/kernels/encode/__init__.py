"""Encode on a GPU: dense projection and top-k, fused tile by tile of rows."""

from typing import TYPE_CHECKING

from compressae.kernels.backend import uses_triton

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def encode(
    x: "Tensor", weights: "Tensor", bias: "Tensor", k: int, products: "torch.dtype | None" = None
) -> "tuple[Tensor, Tensor]":
    """Encode rows: the k entries of x Wᵀ + b of largest |value|, signed (n, k).

    Equal to ``abs_topk(x @ W.T + b, k)`` without holding the (n, h) product. The product is only a
    shortlist: it selects a few more than k latents per row, whose entries are recomputed in
    float32 and reranked. With bfloat16 products a latent is missed only if rounding drops it below
    rank k + max(8, k / 4); values are always those of float32. Where k is so large that recomputing
    takes longer than float32 products (above about 400), these select.

    Args:
        x: (n, d) float32, on a GPU.
        weights: (h, d) float32.
        bias: (h,) float32.
        k: 1 ≤ k ≤ h.
        products: dtype of the dense product, bfloat16 (when None) or float32.

    Returns:
        ids (n, k) int32 and values (n, k) float32, by descending |value|, ties by smaller id.

    Raises:
        ValueError: k is out of range, or no GPU holds the tensors.
    """
    uses_triton(weights, "triton")
    if not 1 <= k <= len(weights):
        raise ValueError(f"k = {k} of {len(weights)} latents: expected 1 ≤ k ≤ {len(weights)}")
    from compressae.kernels.encode import gpu

    return gpu.encode(x, weights, bias, k, products)
