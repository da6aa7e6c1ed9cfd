"""The loss of one batch and its gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressae.kernels import decode as sparse
from compressae.kernels.backend import uses_triton
from compressae.kernels.cosine import cosine_gradients
from compressae.kernels.encode import encode
from compressae.model import CompresSAE


@dataclass(frozen=True)
class Step:
    """What one pass over a batch of n rows found.

    Attributes:
        loss: mean(1 − cos) at k nonzeros, and ``wide_weight`` times that at 4k.
        cosines: (n,) cos(x, x̂) at k.
        indices: (n, k) int32 latents of the rows.
        values: (n, k) float32.
    """

    loss: Tensor
    cosines: Tensor
    indices: Tensor
    values: Tensor


def take_gradients(model: CompresSAE, x: Tensor, wide_weight: float) -> Step:
    """Set the ``grad`` of each of the model's parameters to that of the loss of rows x (n, d).

    On the CPU by autograd; on a GPU by kernels that hold neither (n, h) nor (n, k, d), with
    products in bfloat16 for the choice of latents and for the sums over rows.
    """
    if uses_triton(x):
        return _by_kernels(model, x, wide_weight)
    k = model.nonzeros
    output = model(x, wide=bool(wide_weight))
    cosines = torch.cosine_similarity(x, output.reconstruction)
    loss = 1 - cosines.mean()
    if wide_weight:
        wide = torch.cosine_similarity(x, output.wide_reconstruction)
        loss = loss + wide_weight * (1 - wide.mean())
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    return Step(
        loss.detach(),
        cosines.detach(),
        output.indices[:, :k],
        output.values[:, :k].detach(),
    )


@torch.no_grad()
def _by_kernels(model: CompresSAE, x: Tensor, wide_weight: float) -> Step:
    k, h, d = model.nonzeros, model.latents, model.dim
    x = torch.nn.functional.normalize(x)
    ids, values = encode(x, model.encoder, model.encoder_bias, min(4 * k, h) if wide_weight else k)
    cosines, to_values, to_rows = cosine_gradients(ids, values, model.decoder, x, k, wide_weight)
    products = torch.bfloat16
    to_decoder = sparse.outer_sum(ids[:, :k], values[:, :k], to_rows[0], h, products=products)
    if ids.shape[1] > k:
        to_decoder += sparse.outer_sum(ids[:, k:], values[:, k:], to_rows[1], h, products=products)
    with_ones = torch.nn.functional.pad(x, (0, 4))  # Four, so that rows stay aligned.
    with_ones[:, d] = 1
    to_encoder = sparse.outer_sum(ids, to_values, with_ones, h, products=products)
    model.decoder.grad = to_decoder
    model.encoder.grad = to_encoder[:, :d].contiguous()
    model.encoder_bias.grad = to_encoder[:, d].contiguous()
    loss = 1 - cosines[0].mean() + wide_weight * (1 - cosines[1].mean())
    return Step(loss, cosines[0], ids[:, :k], values[:, :k])
