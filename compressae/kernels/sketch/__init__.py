"""Sketches: a few columns of each row in four bits, whose products choose the rows to score."""

import torch
from torch import Tensor

from compressae.kernels.backend import uses_triton
from compressae.kernels.topk import largest

__all__ = ["BLOCK", "best_blocks", "pack_columns", "pack_queries"]

#: Rows of a block.
BLOCK = 32
#: Steps of four bits, on either side of 0.
_STEPS = 8
#: Standard deviations of a column that four bits reach on either side: about the least squared
#: error of 16 even steps for a normal distribution (Max, Trans. IT 1960, table II).
_REACH = 2.5


def pack_columns(x: Tensor, deviation: Tensor) -> Tensor:
    """Round rows (n, m) float32 to four bits a number, two in a byte: (n, m / 2) int8.

    A number is 8 + ⌊x / step⌋ between 0 and 15, and stands for the middle of its step, 7.5 steps
    less: that adds the same to all products of a query and so changes no order, unless rows have
    lengths (see ``best_blocks``). Byte j holds column j in its low bits and column m / 2 + j in its
    high ones.

    Args:
        x: m even.
        deviation: () standard deviation of the numbers.

    >>> pack_columns(torch.tensor([[0.1, -0.1, 0.7, -9.0]]), torch.tensor(1.0)).tolist()
    [[-88, 7]]
    """
    step = _REACH / _STEPS * deviation
    numbers = ((x / step).floor().clamp(-_STEPS, _STEPS - 1) + _STEPS).to(torch.uint8)
    low, high = numbers.chunk(2, 1)
    return (low | high << 4).view(torch.int8)


def pack_queries(x: Tensor) -> Tensor:
    """Round queries (q, m) float32 to int8, each relative to its largest number.

    >>> pack_queries(torch.tensor([[0.5, -1.0], [0.0, 0.0]])).tolist()
    [[64, -127], [0, 0]]
    """
    largest_number = x.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / largest_number * 127).round().to(torch.int8)


def best_blocks(
    queries: Tensor,
    rows: Tensor,
    count: int,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The blocks of ``BLOCK`` rows with the largest products: (q, min(count, blocks)) int64.

    The best C rows by product lie in the best C blocks, and these in the best C tiles: each of any
    others is beaten by C of these. So tiles are selected first, an eighth as many as blocks. Order
    is ascending; ties go to the smaller block.

    Args:
        queries: (q, m) int8 of ``pack_queries``, on a GPU.
        rows: (n, m / 2) int8 of ``pack_columns``, n ≥ 1.
        count: C, at least 1.
        lengths: (n,) float32 that multiply a row's products with what its numbers stand for; 1 when
            None.
        mask: (n,) bool, True for rows that count; all when None.

    Raises:
        ValueError: shapes do not match, or no GPU holds the tensors.
    """
    uses_triton(rows, "triton")
    if queries.shape[1] != 2 * rows.shape[1]:
        raise ValueError(f"queries of {queries.shape[1]} columns: expected {2 * rows.shape[1]}")
    from compressae.kernels.sketch import gpu

    maxima, coarse = gpu.block_maxima(queries, rows, lengths, BLOCK, mask)
    blocks, each = maxima.shape[1], gpu.TILE // BLOCK
    if count >= blocks:
        return torch.arange(blocks, device=rows.device).expand(len(queries), -1)
    tiles = largest(coarse, min(count, coarse.shape[1]))[0].sort(dim=1).values
    among = tiles[:, :, None] * each + torch.arange(each, device=rows.device)
    among = among.flatten(1)
    inside = among < blocks
    found = maxima.gather(1, among.clamp(max=blocks - 1)).where(inside, float("-inf"))
    return among.gather(1, largest(found, count)[0]).sort(dim=1).values
