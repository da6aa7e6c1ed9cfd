"""Sketches of all rows on a GPU, which choose the rows that a batch of queries is scored with.

A score is the product of a query with a row's reconstruction x̂. Both are projected to the leading
eigenvectors V of the second moment of reconstructions, the best that so few dimensions can do for
queries that are like the rows (Eckart and Young 1936), then turned by a random rotation, so that
all columns have about the same spread and four bits suit them alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressae.kernels.decode import decode
from compressae.kernels.scan import SCAN_BLOCK, Planes
from compressae.kernels.sketch import best_blocks, pack_columns, pack_queries

#: Most columns of a sketch; fewer where rows have fewer. A power of two, as the kernel asks.
_COLUMNS, _FEWEST = 128, 64
#: Blocks of rows in the sample that directions are of, and blocks sketched at a time.
_SAMPLE, _PART = 256, 512
#: Most rows of the table that ``Sketch.some`` has.
_SOME = 64
_SEED = 0
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Sketch:
    """Sketches of n rows; make them by ``of``.

    Attributes:
        rows: (n, m / 2) int8: m columns of four bits.
        lengths: (n,) float32 of the projected rows where lengths differ, or None.
        directions: (d, m) float32.
        some: (r, d) float32 unit rows, reconstructions of a few rows of the table.
    """

    rows: Tensor
    lengths: Tensor | None
    directions: Tensor
    some: Tensor

    @staticmethod
    def nbytes_of(n: int, dim: int, has_lengths: bool) -> int:
        """``nbytes`` of sketches of n rows of ``dim`` dimensions."""
        return n * (_columns(dim) // 2 + 4 * has_lengths)

    @property
    def nbytes(self) -> int:
        """Bytes that grow with n."""
        return self.rows.nbytes + (0 if self.lengths is None else self.lengths.nbytes)

    @classmethod
    def of(
        cls,
        planes: Planes,
        decoder: Tensor,
        restore: Tensor | None,
        centroids: Tensor | None,
        has_lengths: bool,
    ) -> "Sketch":
        """Sketch rows.

        Args:
            planes: n rows on the device.
            decoder: (h, d) float32 there.
            restore: (d, parts·s) and
            centroids: (parts, 256, s) of residual codes, None where rows have none.
            has_lengths: rows are compared by dot product, so that their lengths are kept apart.
        """
        d = decoder.shape[1]
        tables = None
        if restore is not None and centroids is not None:
            parts, _, s = centroids.shape
            tables = torch.einsum("bcs,dbs->bcd", centroids, restore.view(d, parts, s))
        step = -(-planes.blocks // _SAMPLE)
        sample = torch.cat([
            _decoded(planes, first, first + 1, decoder, tables)[: len(planes) - first * SCAN_BLOCK]
            for first in range(0, planes.blocks, step)
        ])  # fmt: skip
        directions = directions_of(sample)

        # Columns of a row are sums of those of its latents and of its residual codes.
        weights = (decoder @ directions).contiguous()
        tables = None if tables is None else tables @ directions
        n, m = len(planes), directions.shape[1]
        rows = torch.empty(n, m // 2, dtype=torch.int8, device=decoder.device)
        lengths = torch.empty(n, device=decoder.device) if has_lengths else None
        projected = sample @ directions
        if has_lengths:
            projected, sizes = _unit(projected)
            projected = projected[sizes > 0]  # Rows of zeros have no spread.
        squares = projected.square().sum() / max(1, projected.numel())
        deviation = squares.sqrt().clamp(min=1e-12)
        for first in range(0, planes.blocks, _PART):
            x = _decoded(planes, first, first + _PART, weights, tables)
            here = slice(first * SCAN_BLOCK, first * SCAN_BLOCK + len(x))
            x = x[: n - here.start]
            if lengths is not None:
                x, lengths[here] = _unit(x)
            rows[here] = pack_columns(x, deviation)
        some = _unit(sample[:: -(-len(sample) // _SOME)])[0]
        return cls(rows, lengths, directions, some)

    def best_blocks(self, queries: Tensor, count: int, mask: Tensor | None) -> Tensor:
        """Numbers of the blocks (q, min(count, blocks)) to score; see
        ``kernels.sketch.best_blocks``.

        Args:
            queries: (q, d) float32 unit rows.
            count: blocks a query.
            mask: (n,) bool, True for rows that may be found; all when None.
        """
        asked = pack_queries(queries @ self.directions)
        return best_blocks(asked, self.rows, count, self.lengths, mask)


def _columns(dim: int) -> int:
    return min(_COLUMNS, max(_FEWEST, 1 << (dim - 1).bit_length()))


def directions_of(sample: Tensor) -> Tensor:
    """(d, m): the leading eigenvectors of the sample's (r, d) second moment, rotated at random."""
    d, m = sample.shape[1], _columns(sample.shape[1])
    sample = sample / sample.abs().max().clamp(min=_TINY)  # So that squares neither vanish nor end.
    vectors = torch.linalg.eigh((sample.T @ sample).double())[1].flip(1)[:, :m].float()
    generator = torch.Generator().manual_seed(_SEED)
    rotation = torch.linalg.qr(torch.randn(m, m, generator=generator))[0].to(sample.device)
    return (vectors @ rotation[: min(d, m)]).contiguous()


def _decoded(
    planes: Planes, first: int, last: int, weights: Tensor, tables: Tensor | None
) -> Tensor:
    """Rows (r, c) of blocks first…last: their nonzeros times weights (h, c), plus their residual
    codes' rows of tables (parts, 256, c), times their factors."""
    ids, values = planes.nonzeros(first, last)
    out = decode(ids.clamp_(max=len(weights) - 1), values, weights)  # Damaged ones too.
    if tables is not None and planes.residual is not None:
        residual = torch.zeros_like(out)
        for table, codes in zip(tables, planes.residual[first:last].unbind(1), strict=True):
            residual += table[codes.flatten().long()]
        scales = planes.residual_scales(first, last)
        out += residual if scales is None else residual.mul_(scales[:, None])
    factors = planes.row_factors(first, last)
    return out if factors is None else out * factors[:, None]


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit length and lengths (r,); rows of zeros stay."""
    peaks = x.abs().amax(1, keepdim=True)
    x = x / peaks.clamp(min=_TINY)
    norms = x.norm(dim=1, keepdim=True)
    return x / norms.clamp(min=1), (norms * peaks)[:, 0]
