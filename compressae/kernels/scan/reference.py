"""Definition of a scan, in plain numpy."""

import numpy as np


def scores(
    codes: np.ndarray,
    factors: np.ndarray,
    queries: np.ndarray,
    residual: np.ndarray,
    tables: np.ndarray,
    scales: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Scores (q, n): (Σ codes·query + scale · Σ_b table[b, residual_b]) · factor.

    Args:
        codes: (n, h), dense.
        factors: (n,).
        queries: (q, h).
        residual: (n, m) uint8.
        tables: (q, m, 256).
        scales: (n,), or 1.
    """
    total = queries @ codes.T
    for b in range(residual.shape[1]):
        total = total + tables[:, b, residual[:, b]] * scales
    return total * factors


def scan(scores: np.ndarray, K: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top K of scores (q, n) among the rows of mask (n,): ids and scores, ties by smaller row."""
    ids = np.full((len(scores), K), -1, np.int64)
    best = np.full((len(scores), K), -np.inf)
    rows = np.flatnonzero(mask)
    for i, score in enumerate(scores):
        order = rows[np.argsort(-score[rows], kind="stable")[:K]]
        ids[i, : len(order)], best[i, : len(order)] = order, score[order]
    return ids, best
