"""The encoder: tensor cores propose latents, float32 decides."""

import torch
from torch import Tensor

from compressae.kernels.decode.gpu import project
from compressae.kernels.topk.gpu import top

#: Bytes of a tile's products, so that the top-k finds them in the L2 cache.
_TILE = 1 << 25
#: Latents proposed beyond k: a share of k, and at least so many.
_SPARE, _LEAST_SPARE = 0.25, 8


def encode(
    x: Tensor, weights: Tensor, bias: Tensor, k: int, products: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """See ``kernels.encode``. Floors: 2·n·d·h operations of the tensor cores; n·d numbers read and
    2·n·k written, while the products (n·h numbers) stay in the L2 cache."""
    products = products or torch.bfloat16
    n, h = len(x), len(weights)
    proposed = min(h, k + max(_LEAST_SPARE, int(_SPARE * k)))
    exact = products == torch.float32
    columns, shift = weights.to(products).T, bias.to(products)
    ids = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    tile = max(1, _TILE // (h * products.itemsize))
    for start in range(0, n, tile):
        rows = x[start : start + tile]
        tops = torch.addmm(shift, rows.to(products), columns)
        part = slice(start, start + len(rows))
        if exact:
            ids[part], values[part] = top(tops, k, True)
            continue
        near = top(tops, proposed, True)[0].sort(1).values  # Ties by id, not by proposal.
        entries = project(near, rows, weights) + bias[near.long()]
        place, values[part] = top(entries, k, True)
        ids[part] = near.gather(1, place.long())
    return ids, values
