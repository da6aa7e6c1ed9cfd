"""Chain quantiser: each byte's centroid covers its own part of a row and the next one.

A tree quantiser (Babenko, Lempitsky, CVPR 2015) whose tree is a chain. A part is the sum of two
centroids, one of its own byte and one of the byte before: 65,536 sums, for a byte, where product
quantisation has 256 centroids, and as many table look-ups. The codes of least error follow from
Viterbi's algorithm.
"""

from dataclasses import dataclass

import numpy as np

from compressae.kernels.chain import cpu
from compressae.kernels.matmul import Centroids, Panels, matmul, over_eights, whole


@dataclass(frozen=True, eq=False)
class Chain:
    """Codebooks (p, 256, 2·s) float32 of a chain, as ``encode_chain`` reads them.

    Attributes:
        own, following: centroids of a byte's own part, and of the next one.
        panels: (p, 8, 256, 32) int16, products of each centroid with those of the byte before.
        pairs: (p, 256, 256) int16, the same numbers, those of a centroid in a row.
        steps: (p,) float32, what 1 in them stands for.
    """

    own: Centroids
    following: Centroids
    panels: np.ndarray
    pairs: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, codebooks: np.ndarray) -> "Chain":
        """Lay out codebooks (p, 256, 2·s)."""
        p, count, _ = codebooks.shape
        own, following = np.split(codebooks.astype(np.float32), 2, axis=2)
        pairs = np.zeros((p, count, count), np.int16)
        # Not 0: where a part's products all are, costs before it still count.
        steps = np.full(p, np.finfo(np.float32).tiny)
        for t in range(1, p):
            products = matmul(own[t], Panels.of(following[t - 1].T))
            steps[t] = max(steps[t], np.abs(products).max() / cpu.LARGEST_PAIR)
            pairs[t] = np.rint(products / steps[t])
        panels = pairs.reshape(p, count // cpu.PAIR_PANEL, cpu.PAIR_PANEL, count)
        panels = np.ascontiguousarray(panels.transpose(0, 1, 3, 2))
        return cls(Centroids.of(own), Centroids.of(following), panels, pairs, steps)


def encode_chain(parts: np.ndarray, chain: Chain, threads: int | None = None) -> np.ndarray:
    """Encode parts (n, p·s) float32 to the codes (n, p) uint8 of least squared error.

    Equal to ``reference.encode`` up to rounding: costs of pairs are rounded to 1 / 8,000 of the
    largest of a part. A row has the same codes in any batch.

    Raises:
        ValueError: the widths do not fit.

    >>> codebooks = np.zeros((2, 256, 2), np.float32)
    >>> codebooks[0, :, 0] = np.arange(256)  # Of the first byte's own part …
    >>> codebooks[0, 1::2, 1] = 0.5  # … and of the next part.
    >>> codebooks[1, :, 0] = np.arange(256)
    >>> encode_chain(np.array([[7, 3.5], [6, 4]], np.float32), Chain.of(codebooks))
    array([[7, 3],
           [6, 4]], dtype=uint8)
    """
    count, _, s, _ = chain.own.panels.shape
    if parts.ndim != 2 or parts.shape[1] != count * s:
        raise ValueError(f"rows {parts.shape}: expected (n, {count * s})")
    codes = np.empty((whole(len(parts)), count), np.uint8)

    def work(part: np.ndarray, own: np.ndarray, a: int, b: int) -> None:
        cpu.encode(
            part,
            chain.own.panels,
            chain.own.half_norms,
            chain.following.panels,
            chain.following.half_norms,
            chain.panels,
            chain.pairs,
            chain.steps,
            own,
            a,
            b,
        )

    over_eights(work, parts, codes, threads)
    return codes[: len(parts)]
