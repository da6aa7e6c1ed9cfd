"""An optional layer over posting lists: bounds of blocks of similar rows, most of which are then
never read."""

from dataclasses import dataclass

import numpy as np

from compressae.kernels.blocks import Found, block_bounds, leading_latents, score_blocks
from compressae.kernels.candidates import find_candidates
from compressae.kernels.postings import Postings, build_postings
from compressae.retrieval.codes import SparseCodes

#: Rows of a block.
SIZE = 16
#: Blocks of largest bound that a query may read; where they do not do, the lists are searched.
MOST = 256
#: Results above which blocks are not tried.
RESULTS = 512
#: Leading latents by which rows are ordered.
_LEADING = 4


@dataclass(frozen=True, eq=False)
class Blocks:
    """Bounds of every block of ``SIZE`` rows, as posting lists of blocks over 2h latents.

    Attributes:
        bounds: see ``compressae.kernels.blocks``.
    """

    bounds: Postings

    @property
    def nbytes(self) -> int:
        return self.bounds.nbytes

    def best(
        self,
        codes: SparseCodes,
        factors: np.ndarray | None,
        latents: np.ndarray,
        values: np.ndarray,
        dense: np.ndarray,
        K: int,
        mask: np.ndarray | None,
    ) -> Found:
        """Rows that hold the K best of one query, if they can be told; see ``score_blocks``.

        Args:
            codes: the rows; factors: theirs.
            latents, values: of the query (m,); dense: the same as (h,) float32.
            K: results; mask: (n,) bool, the rows that may be found.
        """
        lifted = latents.astype(np.int64) + np.where(values < 0, codes.latents, 0)
        part = find_candidates(
            self.bounds, np.array([0, len(lifted)]), lifted, np.abs(values), MOST, False
        )
        blocks, sums = part.rows[0], part.scores[0].astype(np.float64)
        if not part.complete[0] and len(blocks) >= MOST:  # Too many alike.
            return Found(np.empty(0, np.int64), np.empty(0, np.float32), False)
        # What is left out has smaller sums than these, or, where these are few, none above 0.
        least = sums.min() if part.complete[0] else 0.0
        unit, slack = part.unit[0], part.slack[0]
        order = np.argsort(-sums)
        return score_blocks(
            blocks[order], (sums[order] + slack) * unit, (least + slack) * unit,
            codes.as_kernels_take(factors), SIZE, dense, K, mask,
        )  # fmt: skip


def build_blocks(codes: SparseCodes, factors: np.ndarray | None, threads: int | None) -> Blocks:
    """Bounds of rows in the order they are in."""
    indptr, ids, numbers, scales = codes.read(0, len(codes))
    own = scales if factors is None else factors
    starts, latents, values = block_bounds(indptr, ids, numbers, own, codes.latents, SIZE)

    def read(start: int, stop: int) -> tuple:
        part = starts[start : stop + 1]
        here = slice(part[0], part[-1])
        return part - part[0], latents[here], values[here], None

    largest = float(values.max(initial=0))
    counts = np.diff(starts)
    return Blocks(build_postings(read, counts, 2 * codes.latents, largest, np.int8, threads))


def similar_order(codes: SparseCodes) -> np.ndarray:
    """Rows (n,) int64 so that neighbours share their leading latents, those of largest |value|."""
    indptr, ids, values, _ = codes.read(0, len(codes))
    leading = leading_latents(indptr, ids, values, codes.latents, _LEADING)
    if codes.latents >= 1 << 16:
        return np.lexsort(leading.T[::-1])
    places = np.arange(_LEADING, dtype=np.uint64)[::-1] * np.uint64(16)
    keys = (leading.astype(np.uint64) << places).sum(1, dtype=np.uint64)
    return np.argsort(keys, kind="stable")
