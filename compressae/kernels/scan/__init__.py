"""Exhaustive search over codes on a GPU: score every row and keep the top K, no posting lists."""

import torch
from torch import Tensor

from compressae.kernels.backend import uses_triton
from compressae.kernels.scan.planes import SCAN_BLOCK, Planes, packed_planes, plain_planes
from compressae.kernels.scan.windows import Windows
from compressae.kernels.topk import largest

__all__ = [
    "SCAN_BLOCK",
    "Planes",
    "Windows",
    "best_of_runs",
    "packed_planes",
    "plain_planes",
    "scan",
]

#: Bytes of intermediate results per batch of queries.
_SCRATCH = 256 << 20


def scan(
    planes: Planes,
    queries: Tensor,
    tables: Tensor | None,
    K: int,
    mask: Tensor | None = None,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    """Search all rows exhaustively: the exact top K of each query, ties by smaller row.

    Equal to the top K of ``(queries @ codes.T + residual terms) · factors``, without holding the
    (q, n) scores: the first pass writes the maximum of each block of rows, the second scores the
    rows of the K best blocks.

    Args:
        planes: n rows over h latents, on the GPU.
        queries: (q, h) float32, finite.
        tables: (q, m, 256) float32 lookup tables if the planes hold residual codes, else None.
        K: at least 1.
        mask: (n,) bool, True for rows that may be returned; all rows when None.
        half: for large query batches, select blocks with float16 queries, and twice as many.
            Returned scores stay exact, but a row may be missed.

    Returns:
        ids (q, K) int64 and scores (q, K) float32, best first, padded with −1 and −inf.

    Raises:
        ValueError: shapes do not match, K is below 1, or no GPU holds the tensors.
    """
    _check(planes, queries, tables, K, mask)
    from compressae.kernels.scan import gpu

    q, blocks = len(queries), planes.blocks
    if blocks == 0 or q == 0:
        ids = torch.full((q, K), -1, dtype=torch.int64, device=queries.device)
        return ids, torch.full((q, K), float("-inf"), device=queries.device)
    block_count = min(K * (2 if half else 1), blocks)
    batch_size = max(1, _SCRATCH // (4 * (blocks + 3 * block_count * SCAN_BLOCK)))
    found = []
    for start in range(0, q, batch_size):
        batch = slice(start, start + batch_size)
        table = None if tables is None else tables[batch]

        # Select the blocks of largest maxima. They are sorted by number, so that ties of scores
        # go to the smaller row.
        if block_count == blocks:
            top_blocks = torch.arange(blocks, device=queries.device)
            top_blocks = top_blocks.expand(len(queries[batch]), -1)
        else:
            maxima = gpu.block_maxima(planes, queries[batch], table, mask, half)
            top_blocks = largest(maxima, block_count)[0].sort(dim=1).values
        found.append(best_of_runs(planes, queries[batch], table, K, top_blocks, SCAN_BLOCK, mask))
    if len(found) == 1:
        return found[0]
    return torch.cat([ids for ids, _ in found]), torch.cat([scores for _, scores in found])


def best_of_runs(
    planes: Planes,
    queries: Tensor,
    tables: Tensor | None,
    K: int,
    runs: Tensor,
    each: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The top K of each query among its own rows, scored bit for bit as ``scan`` does.

    Args:
        planes, queries, tables, K, mask: see ``scan``.
        runs: (q, C) int64, ascending: run i is the rows from i·each on.
        each: rows of a run, a power of two up to ``SCAN_BLOCK``.

    Returns:
        ids (q, K) int64 and scores (q, K) float32, as ``scan``'s.

    Raises:
        ValueError: see ``scan``.
    """
    _check(planes, queries, tables, K, mask)
    from compressae.kernels.scan import gpu

    found = gpu.scores(planes, queries, tables, runs, mask, each)
    count = min(K, found.shape[1])
    position, top = largest(found, count)
    rows = runs.gather(1, position // each) * each + position % each
    rows = torch.where(top > float("-inf"), rows, -1)
    if count == K:
        return rows, top
    padding = (0, K - count)
    return (
        torch.nn.functional.pad(rows, padding, value=-1),
        torch.nn.functional.pad(top, padding, value=float("-inf")),
    )


def _check(
    planes: Planes, queries: Tensor, tables: Tensor | None, K: int, mask: Tensor | None
) -> None:
    uses_triton(queries, "triton")
    if queries.ndim != 2 or queries.shape[1] != planes.latents:
        raise ValueError(f"queries {tuple(queries.shape)}: expected (q, {planes.latents})")
    parts = 0 if planes.residual is None else planes.residual.shape[1]
    shape = None if tables is None else tuple(tables.shape)
    expected = (len(queries), parts, 256) if parts else None
    if shape != expected:
        raise ValueError(f"tables {shape}: expected {expected}")
    if K < 1:
        raise ValueError(f"K = {K}: expected at least 1")
    if mask is not None and tuple(mask.shape) != (len(planes),):
        raise ValueError(f"mask of shape {tuple(mask.shape)}: expected ({len(planes)},)")
