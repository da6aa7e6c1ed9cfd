"""Gradients of the cosine losses with sparse codes: gathers, whose cost does not grow with h."""

import torch
from torch import Tensor

from compressae.kernels.cosine.gpu import cosine_gradients
from compressae.kernels.cosine.gradients import Gradients
from compressae.kernels.decode.gpu import sparse_t_matmul
from compressae.kernels.encode.gpu import encode


def gradients(
    x: Tensor,
    encoder: Tensor,
    bias: Tensor,
    decoder: Tensor,
    k: int,
    w: int,
    wide_weight: float,
) -> Gradients:
    """See ``kernels.cosine.code_gradients``. All but the choice of latents is float32."""
    h, d = encoder.shape
    ids, values = encode(x, encoder, bias, w)
    cosines, to_values, slopes = cosine_gradients(ids, values, decoder, x, k, wide_weight)
    to_decoder = sparse_t_matmul(ids[:, :k], values[:, :k], slopes[0], h)
    if w > k:
        to_decoder += sparse_t_matmul(ids[:, k:], values[:, k:], slopes[1], h)

    # A column of ones beside x sums the bias; four columns keep rows aligned.
    x_and_ones = torch.nn.functional.pad(x, (0, 4))
    x_and_ones[:, d] = 1
    to_encoder = sparse_t_matmul(ids, to_values, x_and_ones, h)
    return Gradients(
        cosines[: 1 + (w > k)],
        ids[:, :k],
        values[:, :k],
        encoder=to_encoder[:, :d].contiguous(),
        bias=to_encoder[:, d].contiguous(),
        decoder=to_decoder,
    )
