"""Blocks of neighbouring rows with a bound on every row's score, so that most need no reading.

A block's bound for latent l is the largest positive value its rows have there, for h + l the
largest |negative| one. A query asks for l where it is positive and for h + l where it is negative,
with |q|: the sum is no less than any row's score (block-max pruning: Ding and Suel, SIGIR 2011;
Mallia et al., "Faster learned sparse retrieval with block-max pruning", SIGIR 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compressae.kernels.blocks import cpu

_NONE = np.empty(0, np.float32)
_NO_MASK = np.empty(0, np.bool_)


def block_bounds(
    indptr: np.ndarray,
    ids: np.ndarray,
    numbers: np.ndarray,
    factors: np.ndarray | None,
    h: int,
    size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bounds of ⌈n / size⌉ blocks as CSR over 2h latents.

    Args:
        indptr: (n + 1,) int64; ids (nnz,) unsigned below h; numbers (nnz,): the rows.
        factors: (n,) of the rows, or None.
        h: latents.
        size: rows of a block.

    Returns:
        bounds (blocks + 1,) int64, latents (m,) uint32 and values (m,) float32, above 0.
    """
    n = len(indptr) - 1
    starts = np.zeros(-(-n // size) + 1, np.int64)
    rest = (indptr, ids, numbers, _NONE if factors is None else factors, h, size, starts)
    kernel: Callable[..., None] = cpu.block_bounds
    kernel(*rest, np.empty(0, np.uint32), _NONE, False)
    latents, values = np.empty(starts[-1], np.uint32), np.empty(starts[-1], np.float32)
    kernel(*rest, latents, values, True)
    return starts, latents, values


def leading_latents(
    indptr: np.ndarray, ids: np.ndarray, values: np.ndarray, h: int, count: int
) -> np.ndarray:
    """The latents of each row's ``count`` largest |value|, those first, ties by place in the row.

    Args:
        indptr: (n + 1,) int64; ids (nnz,) unsigned; values (nnz,) float32 or int8: the rows.
        h: latents; stands where a row has fewer.

    Returns:
        (n, count) uint32.
    """
    out = np.full((len(indptr) - 1, count), h, np.uint32)
    cpu.leading_latents(indptr, ids, values, out)
    return out


@dataclass(frozen=True, eq=False)
class Found:
    """Rows (m,) int64 read, their scores (m,) float32, and whether all of the best are there."""

    rows: np.ndarray
    scores: np.ndarray
    complete: bool


def score_blocks(
    blocks: np.ndarray,
    bounds: np.ndarray,
    rest: float,
    codes: tuple[np.ndarray, ...],
    size: int,
    dense_query: np.ndarray,
    count: int,
    mask: np.ndarray | None,
) -> Found:
    """Score the rows of blocks, best bound first, until no other row can be among the best.

    Args:
        blocks: (b,) numbers of blocks by descending bound.
        bounds: (b,) float64: no row of a block scores higher.
        rest: the same for all blocks that are not given.
        codes: indptr, indices, values, table, scales, as ``kernels.rescore`` takes them.
        size: rows of a block.
        dense_query: (h,) float.
        count: K.
        mask: (n,) bool: rows that may be found; all when None.

    Returns:
        All rows met that are no worse than the K-th best met before them; complete where no block
        that was not read, given or not, can hold one of the K best.
    """
    rows, scores = np.empty(len(blocks) * size, np.int64), np.empty(len(blocks) * size, np.float32)
    kernel: Callable[..., tuple[int, bool]] = cpu.score_blocks
    found, complete = kernel(
        blocks, bounds, rest, *codes, size, dense_query, count,
        _NO_MASK if mask is None else mask, rows, scores,
    )  # fmt: skip
    return Found(rows[:found], scores[:found], complete)
