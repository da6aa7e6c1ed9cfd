"""The encoder on a GPU: a dense product and a top-k, tile by tile of rows."""

from typing import TYPE_CHECKING

from compressae.kernels.backend import uses_triton

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def encode(
    x: "Tensor", weights: "Tensor", bias: "Tensor", k: int, products: "torch.dtype | None" = None
) -> "tuple[Tensor, Tensor]":
    """The k largest |entries| of x Wᵀ + b, with their signs; (n, h) is never held.

    The dense product only proposes: of each row a few more than k latents, whose entries are then
    computed anew in float32, and the k largest of these are taken. Where ``products`` is bfloat16 a
    latent can be missed whose entry is smaller than the k-th by less than that product's error and
    smaller than k/4 others in it; values are right in any case.

    Args:
        x: (n, d) float32, on a GPU.
        weights: (h, d) float32; bias (h,) float32.
        k: 1 ≤ k ≤ h.
        products: bfloat16 (when None) or float32.

    Returns:
        ids (n, k) int32 and values (n, k) float32, by descending |value|, ties by smaller id.
    """
    uses_triton(weights, "triton")
    if not 1 <= k <= len(weights):
        raise ValueError(f"k = {k} of {len(weights)} latents: expected 1 ≤ k ≤ {len(weights)}")
    from compressae.kernels.encode import gpu

    return gpu.encode(x, weights, bias, k, products)
