"""How close an answer is to the truth.

Metrics of single queries are (q,) float64, NaN where a query has no value; means leave NaN out.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

#: Relevant items of each query by id, with grades: above 0 is relevant.
Labels = Sequence[Mapping[int, float]]

_RESAMPLES = 1000
#: Numbers drawn at a time.
_DRAWS = 1 << 20


def metric_per_query(
    metric: str,
    ids: np.ndarray,
    truth: np.ndarray | None = None,
    labels: Labels | None = None,
) -> np.ndarray:
    """Compute a metric by name for each query (q,).

    "recall@K" compares with the true neighbours; "held-out recall@K", "hit@K", "nDCG@K" and "MRR@K"
    with labels.

    Args:
        metric: the name.
        ids: (q, ≥ K) results, best first; −1 is padding.
        truth: (q, ≥ K) ids of the true neighbours, for recall.
        labels: grades of each query, for the others.

    Raises:
        ValueError: another name, or what the metric compares with is missing.

    >>> metric_per_query("recall@2", np.array([[7, 3], [5, 9]]), np.array([[3, 7], [5, 6]]))
    array([1. , 0.5])
    >>> metric_per_query("MRR@2", np.array([[7, 3]]), labels=[{3: 1.0}])
    array([0.5])
    """
    name, _, count = metric.partition("@")
    if not count.isdecimal() or name not in ("recall", *_OF_LABELS):
        expected = ", ".join(f"{known}@K" for known in ("recall", *_OF_LABELS))
        raise ValueError(f"metric {metric!r}: expected one of {expected}")
    if name == "recall" and truth is not None:
        return recall_per_query(ids, truth, int(count))
    if name != "recall" and labels is not None:
        return _OF_LABELS[name](ids, labels, int(count))
    raise ValueError(f"metric {metric!r} without {'truth' if name == 'recall' else 'labels'}")


def recall_per_query(ids: np.ndarray, truth: np.ndarray, K: int) -> np.ndarray:
    """|first K results ∩ first K true ids| / number of those true ids, for each query: (q,).

    Args:
        ids, truth: (q, ≥ K) ids, best first; −1 is padding and never counts.
        K: how many of each are compared.

    Raises:
        ValueError: fewer than K columns, or different numbers of queries.

    >>> recall_per_query(np.array([[4, 9, 1, 2]]), np.array([[1, 2, 3, 4]]), 4)
    array([0.75])
    """
    if len(ids) != len(truth) or min(ids.shape[1], truth.shape[1]) < K or K < 1:
        raise ValueError(
            f"found {ids.shape} and truth {truth.shape} at K = {K}: expected K ≥ 1 columns of "
            "the same queries"
        )
    ids, truth = ids[:, :K], truth[:, :K]
    shares = [
        len(np.intersect1d(row[row >= 0], true[true >= 0]))
        / max(1, int(np.count_nonzero(true >= 0)))
        for row, true in zip(ids, truth, strict=True)
    ]
    return np.array(shares)


def recall_at(ids: np.ndarray, truth: np.ndarray, K: int) -> float:
    """Mean of ``recall_per_query`` over queries.

    >>> recall_at(np.array([[7, 3], [5, 9]]), np.array([[3, 7], [5, 6]]), 2)
    0.75
    """
    return float(recall_per_query(ids, truth, K).mean())


def ndcg_per_query(ids: np.ndarray, labels: Labels, K: int) -> np.ndarray:
    """Normalised discounted cumulative gain of the first K results (q,), as trec_eval's ndcg_cut.

    The sum of grade / log2(rank + 1), divided by that of the best order.

    Args:
        ids: (q, ≥ K) results, best first; −1 is padding.
        labels: grades of each query; one without a grade above 0 gets NaN.

    >>> ndcg_per_query(np.array([[7, 3, 5]]), [{5: 1.0}], 3)
    array([0.5])
    """
    discount = 1 / np.log2(np.arange(K) + 2)
    scores = np.full(len(ids), np.nan)
    for i, (row, grades) in enumerate(zip(ids[:, :K], labels, strict=True)):
        best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:K]
        if best:
            gains = [max(0.0, grades.get(int(item), 0.0)) for item in row]
            scores[i] = (gains @ discount[: len(row)]) / (best @ discount[: len(best)])
    return scores


def reciprocal_rank(ids: np.ndarray, labels: Labels, K: int) -> np.ndarray:
    """1 / rank of the first relevant id among the first K results (q,), 0 without one; its mean is
    MRR.

    Args:
        ids, labels: as of ``ndcg_per_query``.

    >>> reciprocal_rank(np.array([[7, 3, 5], [1, 2, 3]]), [{5: 1.0, 3: 2.0}, {9: 1.0}], 3)
    array([0.5, 0. ])
    """
    scores = np.full(len(ids), np.nan)
    for i, (row, grades) in enumerate(zip(ids[:, :K], labels, strict=True)):
        if any(grade > 0 for grade in grades.values()):
            ranks = [rank for rank, item in enumerate(row, 1) if grades.get(int(item), 0) > 0]
            scores[i] = 1 / ranks[0] if ranks else 0.0
    return scores


def held_out_recall(ids: np.ndarray, labels: Labels, K: int) -> np.ndarray:
    """|first K results ∩ relevant items| / number of relevant items, for each query: (q,).

    Recall@K of recommenders (LightGCN, arXiv 2002.02126; RecBole): relevant are a user's held-out
    items.

    Args:
        ids, labels: as of ``ndcg_per_query``.

    >>> held_out_recall(np.array([[7, 3], [1, 2]]), [{7: 1.0, 5: 1.0}, {}], 2)
    array([0.5, nan])
    """
    return np.array([_found(row[:K], grades)[0] for row, grades in zip(ids, labels, strict=True)])


def hit_rate(ids: np.ndarray, labels: Labels, K: int) -> np.ndarray:
    """1 where a relevant item is among the first K results, else 0 (q,); NaN without labels.

    Args:
        ids, labels: as of ``ndcg_per_query``.

    >>> hit_rate(np.array([[7, 3], [1, 2]]), [{7: 1.0, 5: 1.0}, {9: 1.0}], 2)
    array([1., 0.])
    """
    return np.array([_found(row[:K], grades)[1] for row, grades in zip(ids, labels, strict=True)])


def _found(row: np.ndarray, grades: Mapping[int, float]) -> tuple[float, float]:
    """Share of relevant items that a row holds, and whether it holds any; NaN without any."""
    relevant = {item for item, grade in grades.items() if grade > 0}
    if not relevant:
        return float("nan"), float("nan")
    found = len(relevant.intersection(row.tolist()))
    return found / len(relevant), float(found > 0)


#: Metrics that compare with labels, by name.
_OF_LABELS: dict[str, Callable[[np.ndarray, Labels, int], np.ndarray]] = {
    "held-out recall": held_out_recall,
    "hit": hit_rate,
    "nDCG": ndcg_per_query,
    "MRR": reciprocal_rank,
}


def score_correlation(scores: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Pearson's r (q,) between the scores of a query's results and their exact scores.

    Args:
        scores, exact: (q, K); −inf is padding. Fewer than three results, or scores that are all
            equal, give NaN.

    >>> score_correlation(np.array([[3.0, 2.0, 1.0]]), np.array([[0.9, 0.8, 0.7]])).round(6)
    array([1.])
    """
    correlations = np.full(len(scores), np.nan)
    pairs = zip(scores.astype(np.float64), exact.astype(np.float64), strict=True)
    for i, (estimated, true) in enumerate(pairs):
        finite = np.isfinite(estimated) & np.isfinite(true)
        x, y = estimated[finite], true[finite]
        if len(x) >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0:
            correlations[i] = np.corrcoef(x, y)[0, 1]
    return correlations


def mean_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of values (q,): the mean and its 95 % interval by the percentile bootstrap.

    1,000 resamples of the queries (Efron, 1979); NaN are left out, and none left gives NaN thrice.

    >>> mean_interval(np.array([1.0, 1.0, np.nan]))
    (1.0, 1.0, 1.0)
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return (float("nan"),) * 3
    rng = np.random.default_rng(seed)
    q, together = len(values), max(1, _DRAWS // len(values))
    means = np.concatenate([
        values[rng.integers(0, q, (min(together, _RESAMPLES - start), q))].mean(1)
        for start in range(0, _RESAMPLES, together)
    ])  # fmt: skip
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
