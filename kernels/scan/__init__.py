"""Scores of all rows of codes on a GPU, and the best of them: a scan without posting lists."""

import torch
from torch import Tensor

from compressae.kernels.backend import uses_triton
from compressae.kernels.scan.planes import BLOCK, Planes, packed_planes, plain_planes
from compressae.kernels.scan.windows import Windows
from compressae.kernels.topk import largest

__all__ = ["BLOCK", "Planes", "Windows", "packed_planes", "plain_planes", "rescore", "scan"]

#: Bytes of what is between the launches.
_SCRATCH = 256 << 20


def scan(
    planes: Planes,
    queries: Tensor,
    tables: Tensor | None,
    K: int,
    mask: Tensor | None = None,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    """The K best of all rows for each query, exactly, ties by smaller row.

    No (q, n) scores are held: the largest score of each block of rows is kept, and the rows of the
    K best blocks are scored again.

    Args:
        planes: n rows over h latents, on the GPU.
        queries: (q, h) float32, finite.
        tables: (q, m, 256) float32 look-up tables where the planes carry residual codes, else None.
        K: at least 1.
        mask: (n,) bool, the rows that may be found; all when None.
        half: many queries choose blocks, twice as many, by q' in float16: scores of what is found
            are as without, but a row may be missed.

    Returns:
        ids (q, K) int64 and scores (q, K) float32, best first; −1 and −inf after the last.

    Raises:
        ValueError: shapes that do not fit, or tensors that no GPU holds.
    """
    _check(planes, queries, tables)
    if K < 1:
        raise ValueError(f"K = {K}: expected at least 1")
    if mask is not None and tuple(mask.shape) != (len(planes),):
        raise ValueError(f"mask of shape {tuple(mask.shape)}: expected ({len(planes)},)")
    from compressae.kernels.scan import gpu

    q, blocks = len(queries), planes.blocks
    ids = torch.full((q, K), -1, dtype=torch.int64, device=queries.device)
    best = torch.full((q, K), float("-inf"), device=queries.device)
    if blocks == 0:
        return ids, best
    chosen = min(K * (2 if half else 1), blocks)
    found = min(K, chosen * BLOCK)
    together = max(1, _SCRATCH // (4 * (blocks + 3 * chosen * BLOCK)))
    for start in range(0, q, together):
        here = slice(start, start + together)
        table = None if tables is None else tables[here]
        if chosen == blocks:
            near = torch.arange(blocks, device=queries.device).expand(len(queries[here]), -1)
        else:
            maxima = gpu.block_maxima(planes, queries[here], table, mask, half)
            # Blocks ascend, so that a smaller place is a smaller row.
            near = largest(maxima, chosen)[0].sort(dim=1).values
        place, top = largest(gpu.scores(planes, queries[here], table, near, mask, True), found)
        rows = near.gather(1, place // BLOCK) * BLOCK + place % BLOCK
        ids[here, :found] = torch.where(top > float("-inf"), rows, -1)
        best[here, :found] = top
    return ids, best


def rescore(planes: Planes, queries: Tensor, tables: Tensor | None, rows: Tensor) -> Tensor:
    """Scores of chosen rows, bit for bit those that ``scan`` gives.

    Args:
        planes, queries, tables: see ``scan``.
        rows: (q, C) int64 below n; −1 for none.

    Returns:
        (q, C) float32; −inf for none.

    Raises:
        ValueError: see ``scan``.
    """
    _check(planes, queries, tables)
    from compressae.kernels.scan import gpu

    return gpu.scores(planes, queries, tables, rows)


def _check(planes: Planes, queries: Tensor, tables: Tensor | None) -> None:
    uses_triton(queries, "triton")
    if queries.ndim != 2 or queries.shape[1] != planes.latents:
        raise ValueError(f"queries {tuple(queries.shape)}: expected (q, {planes.latents})")
    parts = 0 if planes.residual is None else planes.residual.shape[1]
    given = None if tables is None else tuple(tables.shape)
    expected = (len(queries), parts, 256) if parts else None
    if given != expected:
        raise ValueError(f"tables {given}: expected {expected}")
