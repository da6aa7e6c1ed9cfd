"""The encoder on a GPU: tensor cores build a shortlist of latents, float32 reranks it."""

import torch
from torch import Tensor

from compressae.kernels.decode.gpu import sampled_matmul
from compressae.kernels.topk.gpu import top

#: Bytes of one tile's products; the top-k then reads them from the L2 cache.
_TILE = 1 << 25
#: Shortlist beyond k: a fraction of k, and a minimum.
_SPARE, _LEAST_SPARE = 0.25, 8


def encode(
    x: Tensor, weights: Tensor, bias: Tensor, k: int, products: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """See ``kernels.encode``.

    Lower bounds: 2·n·d·h operations on the tensor cores; n·d numbers read and 2·n·k written. The
    products (n·h numbers) stay in the L2 cache.
    """
    products = products or torch.bfloat16
    n, h = len(x), len(weights)
    shortlist_size = min(h, k + max(_LEAST_SPARE, int(_SPARE * k)))
    exact = products == torch.float32
    columns, shift = weights.to(products).T, bias.to(products)
    ids = torch.empty(n, k, dtype=torch.int32, device=x.device)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    tile = max(1, _TILE // (h * products.itemsize))
    for start in range(0, n, tile):
        # Dense projection of one tile of rows.
        rows = x[start : start + tile]
        activations = torch.addmm(shift, rows.to(products), columns)
        row_slice = slice(start, start + len(rows))
        if exact:
            ids[row_slice], values[row_slice] = top(activations, k, True)
            continue

        # Shortlist by low-precision entries, rerank by float32 ones. The shortlist is sorted by
        # id, so that ties of float32 entries go to the smaller id.
        shortlist = top(activations, shortlist_size, True)[0].sort(1).values
        entries = sampled_matmul(shortlist, rows, weights) + bias[shortlist.long()]
        ranks, values[row_slice] = top(entries, k, True)
        ids[row_slice] = shortlist.gather(1, ranks.long())
    return ids, values
