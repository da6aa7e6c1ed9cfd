"""The losses of training and their gradients in one pass over a batch's codes (GPU only)."""

from typing import TYPE_CHECKING

from compressae.kernels.backend import uses_triton

if TYPE_CHECKING:
    from torch import Tensor


def cosine_gradients(
    indices: "Tensor", values: "Tensor", weights: "Tensor", x: "Tensor", k: int, wide_weight: float
) -> "tuple[Tensor, Tensor, Tensor]":
    """Gradients of mean(1 − cos(x, ŷ)) + wide_weight·mean(1 − cos(x, ẑ)), where ŷ is decoded from
    the first k nonzeros and ẑ from all.

    Equal to decoding, ``torch.cosine_similarity`` and its backward pass, up to the decoder; a row
    whose x or reconstruction is zero has cosine 0 and gradient 0.

    Args:
        indices: (n, w) int32 and values (n, w) float32, w ≥ k: the codes.
        weights: (h, d) float32, the decoder.
        x: (n, d) float32.
        k: 1 ≤ k ≤ w.
        wide_weight: 0 where w = k.

    Returns:
        cosines (2, n) with ŷ and ẑ; gradients of values (n, w); gradients (2, n, d) that reach the
        decoder through the first k nonzeros and through the others, so that the decoder's own is
        ``outer_sum(indices[:, :k], values[:, :k], g[0]) + outer_sum(… k: …, g[1])``.
    """
    uses_triton(weights, "triton")
    if not 1 <= k <= indices.shape[1]:
        raise ValueError(f"k = {k} of {indices.shape[1]} nonzeros: expected 1 or more, not above")
    from compressae.kernels.cosine import gpu

    return gpu.cosine_gradients(indices, values, weights, x, k, wide_weight)
