"""Gradients of the cosine losses with dense codes: products on tensor cores, tile by tile of rows.

A tile's code has one dense matrix a level: S[0] (m, h) has the k largest activations of each row,
S[1], where there is a wide loss, the next w − k.
"""

import math

import torch
from torch import Tensor

from compressae.kernels.backend import interprets
from compressae.kernels.cosine.gpu import dense_slopes
from compressae.kernels.cosine.gradients import Gradients
from compressae.kernels.encode.gpu import dense_backward, dense_codes
from compressae.kernels.topk.gpu import top

#: Most activations of a tile (256 MiB), of whose size it takes five matrices: enough for full
#: waves of products and few launches.
_TILE = 1 << 27


def gradients(
    x: Tensor,
    encoder: Tensor,
    bias: Tensor,
    decoder: Tensor,
    k: int,
    w: int,
    wide_weight: float,
    products: torch.dtype | None = None,
) -> Gradients:
    """See ``kernels.cosine.code_gradients``.

    Lower bounds, with one level, or two if w > k: (4 + 6·levels)·n·h·d operations on the tensor
    cores; (6 + 5·levels)·n·h numbers written or read, from memory unless the L2 cache holds a tile.
    """
    products = products or (torch.float32 if interprets() else torch.bfloat16)
    (n, d), h, levels = x.shape, len(encoder), 1 + (w > k)
    encode, decode, shift = encoder.to(products), decoder.to(products), bias.to(products)
    out = Gradients(
        cosines=torch.zeros(levels, n, device=x.device),
        ids=torch.zeros(n, k, dtype=torch.int32, device=x.device),
        values=torch.zeros(n, k, device=x.device),
        encoder=torch.zeros(h, d, device=x.device),
        bias=torch.zeros(h, device=x.device),
        decoder=torch.zeros(h, d, device=x.device),
    )
    size = math.ceil(n / math.ceil(n * h / _TILE))
    for start in range(0, n, size):
        # The code of the tile, dense.
        tile = slice(start, start + size)
        rows = x[tile].to(products)
        activations = torch.addmm(shift, rows, encode.T)
        ids, values = top(activations, w, True)
        out.ids[tile], out.values[tile] = ids[:, :k], values[:, :k]
        codes = dense_codes(activations, ids, values, k, levels)

        # Its reconstructions, their cosines, and gradients back to the activations.
        slopes = dense_slopes(
            rows, codes.view(-1, h) @ decode, out.cosines[:, tile], n, wide_weight
        )
        to_entries = slopes @ decode.T
        to_activations, to_bias = dense_backward(activations, ids, values, to_entries, k, levels)

        out.decoder.add_(codes.view(-1, h).T @ slopes)
        out.encoder.add_(to_activations.T @ rows)
        out.bias.add_(to_bias)
    return out
