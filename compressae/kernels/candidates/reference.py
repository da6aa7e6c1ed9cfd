"""Definition of candidates, in plain numpy."""

import numpy as np

from compressae.kernels.postings import WINDOW, Postings


def sums(
    postings: Postings, latents: np.ndarray, weights: np.ndarray, upper: bool = False
) -> np.ndarray:
    """Scores Σ weight · stored value of all rows, (n,) int64, from a query's integer weights.

    With ``upper`` only of the products that are positive.
    """
    p = postings
    out = np.zeros(p.rows, np.int64)
    for latent, weight in zip(latents, weights, strict=True):
        for i in (2 * latent, 2 * latent + 1):
            for w in range(p.bounds.shape[1] - 1):
                a, b = p.offsets[i] + p.bounds[i, w : w + 2]
                rows = WINDOW * w + p.docs[a:b].astype(np.int64)
                products = int(weight) * p.values[a:b].astype(np.int64)
                out[rows] += np.maximum(products, 0) if upper else products
    return out


def candidates(sums: np.ndarray, count: int, band: int) -> np.ndarray:
    """Rows whose sum is positive and at most ``band`` below the ``count``-th largest sum."""
    least = np.sort(sums)[::-1][min(count, len(sums)) - 1] - band
    return np.flatnonzero(sums >= max(1, least))
