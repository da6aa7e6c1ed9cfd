"""Recall@K and NDCG@K over the full ranking, as LightGCN defines them (arXiv 2002.02126)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy.sparse import csr_array

from compressae.kernels.threads import over_rows
from compressae.kernels.topk.cpu import best
from compressae.retrieval.errors import InputError

#: Users (b,) int64 → scores (b, n_items) float32 of every item.
Scorer = Callable[[np.ndarray], np.ndarray]
#: Numbers of one batch of scores (128 MiB).
_BATCH_NUMBERS = 1 << 25


@dataclass(frozen=True)
class Quality:
    """Means over the users with relevant items."""

    recall: float
    ndcg: float
    users: int


def rank(scores: Scorer, users: np.ndarray, seen: csr_array, K: int) -> np.ndarray:
    """Rank the K items of highest score for each user, seen items masked.

    Args:
        scores: called with batches of users; its result is overwritten.
        users: (b,) integers.
        seen: (n_users, n_items) interactions to mask.
        K: ≥ 1.

    Returns:
        (b, K) int64, best first, ties by smaller id, −1 where fewer than K items are unseen.

    Raises:
        InputError: a score is NaN, as after training that diverged.
    """
    return _rank_masked(scores, users, [seen], K)[0]


def _rank_masked(
    scores: Scorer, users: np.ndarray, masks: Sequence[csr_array], K: int
) -> np.ndarray:
    """``rank`` for each of several masks (m, b, K), with every score computed once."""
    tops = np.full((len(masks), len(users), K), -1, np.int64)
    size = max(1, _BATCH_NUMBERS // max(1, masks[0].shape[1]))
    for start in range(0, len(users), size):
        batch = np.asarray(users[start : start + size], np.int64)
        values = np.ascontiguousarray(scores(batch), np.float32)
        if np.isnan(values.sum()) and np.isnan(values).any():
            raise InputError("scores hold NaN; expected numbers: train with a lower learning rate")
        for number, mask in enumerate(masks):
            masked = values.copy() if number < len(masks) - 1 else values
            _best_of_batch(masked, batch, mask, K, tops[number, start : start + size])
    return tops


def _best_of_batch(
    values: np.ndarray, users: np.ndarray, seen: csr_array, K: int, top: np.ndarray
) -> None:
    """Rank scores (b, n_items), which are overwritten, into top (b, K)."""
    over_rows(
        lambda a, b: _best_unseen(values, users, seen.indptr, seen.indices, K, top, a, b),
        len(users),
    )


def judge(top: np.ndarray, users: np.ndarray, relevant: csr_array) -> Quality:
    """Recall@K and NDCG@K of rankings top (b, K) of users (b,).

    For relevant items R of a user: recall is |top ∩ R| / |R|; NDCG is Σ 1/log2(1 + rank) over the
    hits divided by the same sum over the first min(K, |R|) ranks. Users without any are skipped.
    """
    counts = np.diff(relevant.indptr)[users]
    users, top, counts = users[counts > 0], top[counts > 0], counts[counts > 0]
    if not len(users):
        raise InputError("no user has an item to be found; expected some test or validation pairs")
    K = top.shape[1]
    keys = np.repeat(np.arange(relevant.shape[0]), np.diff(relevant.indptr))
    keys = keys * relevant.shape[1] + relevant.indices
    hits = np.isin(users[:, None] * relevant.shape[1] + top, keys) & (top >= 0)
    gains = 1 / np.log2(np.arange(2, K + 2))
    ideal = np.concatenate([[0], np.cumsum(gains)])[np.minimum(counts, K)]
    recall, ndcg = hits.sum(1) / counts, (hits * gains).sum(1) / ideal
    return Quality(float(recall.mean()), float(ndcg.mean()), len(users))


def evaluate(
    scores: Scorer,
    relevant: csr_array,
    seen: csr_array,
    K: int = 20,
    users: np.ndarray | None = None,
) -> Quality:
    """Rank and judge all users with relevant items, or those among ``users``."""
    counts = np.diff(relevant.indptr)
    users = np.flatnonzero(counts) if users is None else users[counts[users] > 0]
    return judge(rank(scores, users, seen, K), users, relevant)


def evaluate_all(
    scores: Scorer, cases: Sequence[tuple[csr_array, csr_array]], K: int = 20
) -> list[Quality]:
    """``evaluate`` of several (relevant, seen), with every score computed once."""
    users = np.flatnonzero(sum(np.diff(relevant.indptr) for relevant, _ in cases))
    tops = _rank_masked(scores, users, [seen for _, seen in cases], K)
    return [judge(top, users, relevant) for top, (relevant, _) in zip(tops, cases, strict=True)]


@numba.njit(nogil=True, cache=True)
def _best_unseen(values, users, indptr, indices, K, top, start, stop):  # type: ignore[no-untyped-def]
    """Rows start..stop of values (b, n_items) into top (b, K); seen items become −inf."""
    ids, scores = np.empty(K, np.int64), np.empty(K, np.float32)
    for i in range(start, stop):
        seen = indices[indptr[users[i]] : indptr[users[i] + 1]]
        for j in seen:
            values[i, j] = -np.inf
        found = min(K, values.shape[1] - len(seen))
        best(values[i], found, ids[:found], scores[:found])
        top[i, :found] = ids[:found]
