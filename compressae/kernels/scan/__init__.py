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
    "joined",
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
    half: bool | None = None,
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
        half: choose blocks with float16 queries, and twice as many: half the time of a large batch.
            Queries whose results that may have missed are searched again, so that results are the
            same. The host waits for the device then. When None, for more queries than a group of
            float32 ones holds.

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
    if half is None:
        half = q > gpu.side_by_side(1 << planes.id_bits, False)
    block_count = min(K * (2 if half else 1), blocks)
    batch_size = max(1, _SCRATCH // (4 * (blocks + 3 * block_count * SCAN_BLOCK)))
    bounds = planes.bounds() if half and block_count < blocks else None
    found = []
    for start in range(0, q, batch_size):
        x, table = queries[start : start + batch_size], None
        if tables is not None:
            table = tables[start : start + batch_size]

        # Select the blocks of largest maxima. They are sorted by number, so that ties of scores
        # go to the smaller row.
        if block_count == blocks:
            top_blocks = torch.arange(blocks, device=queries.device).expand(len(x), -1)
        else:
            maxima = gpu.block_maxima(planes, x, table, mask, half)
            chosen, top = largest(maxima, block_count + half)
            top_blocks = chosen[:, :block_count].sort(dim=1).values
        ids, scores = best_of_runs(planes, x, table, K, top_blocks, SCAN_BLOCK, mask)
        if bounds is not None:
            # No row of another block scores above the largest of their maxima and its error.
            best_other = top[:, -1]
            beaten = scores[:, -1] > best_other + _error(*bounds, planes.slots.shape[1], x, table)
            again = ((best_other > float("-inf")) & ~beaten).nonzero()[:, 0]
            if len(again):
                part = None if table is None else table[again]
                ids[again], scores[again] = scan(planes, x[again], part, K, mask, half=False)
        found.append((ids, scores))
    return joined(found)


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Ids and scores of all queries, of those of some after the other; copied only if need be."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([ids for ids, _ in parts]), torch.cat([scores for _, scores in parts])


def _error(
    values: Tensor,
    scale: Tensor,
    factor: Tensor,
    ranks: int,
    queries: Tensor,
    tables: Tensor | None,
) -> Tensor:
    """What a score (q,) with float16 queries differs by at most: by their rounding, and by that of
    as many sums in float32, done twice. The first three are ``Planes.bounds``."""
    largest_entry = queries.abs().amax(1)
    rounding = (queries - queries.half().float()).abs().amax(1)
    size, terms = values * largest_entry, ranks + 2
    if tables is not None:
        size = size + scale * tables.abs().amax(2).sum(1)
        terms = terms + tables.shape[1] + 1
    return factor * (values * rounding + 2 * terms * 2.0**-24 * size)


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
