"""How close an answer is to the truth.

All of a query: (q,) float64, NaN where a query has nothing to say. Means leave NaN out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

#: Relevant items of each query by id, with grades: above 0 is relevant.
Labels = Sequence[Mapping[int, float]]

_RESAMPLES = 1000


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


def ndcg_per_query(found: np.ndarray, labels: Labels, K: int) -> np.ndarray:
    """Normalised discounted cumulative gain of the first K found ids, as trec_eval's ndcg_cut has
    it: the sum of grade / log2(rank + 1), divided by that of the best order.

    Args:
        found: (q, ≥ K) ids, best first; −1 is padding.
        labels: of each query. One without a grade above 0 gets NaN.
    """
    discount = 1 / np.log2(np.arange(K) + 2)
    scores = np.full(len(found), np.nan)
    for i, (ids, grades) in enumerate(zip(found[:, :K], labels, strict=True)):
        best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:K]
        if best:
            gains = [max(0.0, grades.get(int(one), 0.0)) for one in ids]
            scores[i] = (gains @ discount[: len(ids)]) / (best @ discount[: len(best)])
    return scores


def reciprocal_rank(found: np.ndarray, labels: Labels, K: int) -> np.ndarray:
    """1 / rank of the first relevant id among the first K found, 0 without one (MRR when averaged).

    Args:
        found, labels: as of ``ndcg_per_query``.
    """
    scores = np.full(len(found), np.nan)
    for i, (ids, grades) in enumerate(zip(found[:, :K], labels, strict=True)):
        if any(grade > 0 for grade in grades.values()):
            right = [rank for rank, one in enumerate(ids, 1) if grades.get(int(one), 0) > 0]
            scores[i] = 1 / right[0] if right else 0.0
    return scores


def score_correlation(scores: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Pearson's r of each query between the scores given to its results and their exact ones.

    Args:
        scores, exact: (q, K); −inf is padding. Fewer than three results, or scores that are all
            alike, give NaN.
    """
    found = np.full(len(scores), np.nan)
    pairs = zip(scores.astype(np.float64), exact.astype(np.float64), strict=True)
    for i, (given, true) in enumerate(pairs):
        kept = np.isfinite(given) & np.isfinite(true)
        if kept.sum() >= 3 and np.ptp(given[kept]) > 0 and np.ptp(true[kept]) > 0:
            found[i] = np.corrcoef(given[kept], true[kept])[0, 1]
    return found


def mean_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of values (q,): the mean and its 95 % interval by the percentile bootstrap.

    1,000 resamples of the queries (Efron, 1979); NaN are left out, and none left gives NaN thrice.
    """
    values = np.asarray(values, np.float64)
    kept = values[~np.isnan(values)]
    if not len(kept):
        return (float("nan"),) * 3
    rng = np.random.default_rng(seed)
    means = [kept[rng.integers(0, len(kept), len(kept))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(kept.mean()), float(low), float(high)
