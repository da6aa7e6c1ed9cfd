"""How close an answer is to the truth."""

import numpy as np


def recall_per_query(found: np.ndarray, truth: np.ndarray, K: int) -> np.ndarray:
    """|first K found ∩ first K true| / number of those true ids, for each query: (q,) float64.

    Args:
        found, truth: (q, ≥ K) ids, best first; −1 is padding and never counts.
        K: how many of each are compared.

    Raises:
        ValueError: fewer than K columns, or different numbers of queries.
    """
    if len(found) != len(truth) or min(found.shape[1], truth.shape[1]) < K or K < 1:
        raise ValueError(
            f"found {found.shape} and truth {truth.shape} at K = {K}: expected K ≥ 1 columns of "
            "the same queries"
        )
    found, truth = found[:, :K], truth[:, :K]
    shared = [
        len(np.intersect1d(f[f >= 0], t[t >= 0])) / max(1, int(np.count_nonzero(t >= 0)))
        for f, t in zip(found, truth, strict=True)
    ]
    return np.array(shared)


def recall_at(found: np.ndarray, truth: np.ndarray, K: int) -> float:
    """Mean over queries of ``recall_per_query``."""
    return float(recall_per_query(found, truth, K).mean())
