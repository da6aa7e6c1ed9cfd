"""Recall and NDCG against a slow, plain definition."""

import math

import numpy as np
import pytest
from recommenders.ranking import evaluate, evaluate_all, judge, rank
from scipy.sparse import csr_array

from compressae.retrieval.errors import InputError


def matrix(rng, users, items, share):
    return csr_array((rng.random((users, items)) < share).astype(np.float32))


def plain(scores, seen, relevant, K):
    """By the words of the definition, a user at a time."""
    seen, relevant = seen.toarray() > 0, relevant.toarray() > 0
    rankings, recalls, ndcgs = [], [], []
    for user in range(len(scores)):
        unseen = [i for i in range(scores.shape[1]) if not seen[user, i]]
        top = sorted(unseen, key=lambda i: (-scores[user, i], i))[:K]
        rankings.append(top + [-1] * (K - len(top)))
        wanted = set(np.flatnonzero(relevant[user]))
        if not wanted:
            continue
        hits = [i in wanted for i in top]
        recalls.append(sum(hits) / len(wanted))
        dcg = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(K, len(wanted))))
        ndcgs.append(dcg / ideal)
    return np.array(rankings), np.mean(recalls), np.mean(ndcgs)


@pytest.mark.parametrize("levels", [3, 1000000])
@pytest.mark.parametrize("users, items, K", [(1, 1, 1), (30, 25, 20), (40, 63, 5), (17, 300, 20)])
def test_equal_to_the_plain_definition(users, items, K, levels):
    rng = np.random.default_rng(users + items)
    scores = rng.integers(0, levels, (users, items)).astype(np.float32)  # 3 levels: many ties.
    seen = matrix(rng, users, items, 0.3 if items > 1 else 0)
    free = csr_array((seen.toarray() == 0) * (rng.random((users, items)) < 0.1)).astype(np.float32)
    relevant = free if free.nnz else csr_array(np.ones((users, items), np.float32))
    top, recall, ndcg = plain(scores, seen, relevant, K)
    found = rank(lambda batch: scores[batch].copy(), np.arange(users), seen, K)
    np.testing.assert_array_equal(found, top)
    quality = evaluate(lambda batch: scores[batch].copy(), relevant, seen, K)
    assert quality.recall == pytest.approx(recall) and quality.ndcg == pytest.approx(ndcg)
    assert quality.users == np.count_nonzero(np.diff(relevant.indptr))


def test_a_worked_example():
    relevant = csr_array(np.array([[1, 0, 0, 1, 1], [0, 0, 0, 0, 0]], np.float32))
    quality = judge(np.array([[3, 1], [0, 1]]), np.arange(2), relevant)
    assert quality.recall == pytest.approx(1 / 3) and quality.users == 1
    assert quality.ndcg == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_batches_and_chosen_users_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    scores = rng.random((50, 40), np.float32)
    seen, relevant = matrix(rng, 50, 40, 0.2), matrix(rng, 50, 40, 0.2)
    whole = rank(lambda batch: scores[batch].copy(), np.arange(50), seen, 10)
    monkeypatch.setattr("recommenders.ranking._BATCH_NUMBERS", 7 * 40)
    chosen = np.array([40, 3, 3, 11])
    found = rank(lambda batch: scores[batch].copy(), chosen, seen, 10)
    np.testing.assert_array_equal(found, whole[chosen])
    some = evaluate(lambda batch: scores[batch].copy(), relevant, seen, 10, chosen)
    assert some == judge(whole[chosen], chosen, relevant)


def test_all_cases_at_once_equal_each_alone_and_users_are_scored_once(monkeypatch):
    rng = np.random.default_rng(1)
    scores, scored = rng.random((50, 40), np.float32), []
    relevant, other, seen, more = (matrix(rng, 50, 40, 0.1) for _ in range(4))
    both = csr_array(seen + more)
    cases = [(relevant, seen), (other, seen), (other, both), (relevant, more), (relevant, seen)]
    monkeypatch.setattr("recommenders.ranking._BATCH_NUMBERS", 7 * 40)

    def scorer(batch):
        scored.extend(batch.tolist())
        return scores[batch].copy()

    found = evaluate_all(scorer, cases, 10)
    assert scored == sorted(set(scored))
    assert found == [evaluate(scorer, *case, 10) for case in cases]


def test_nothing_to_find_and_no_numbers():
    none = csr_array((3, 4), dtype=np.float32)
    with pytest.raises(InputError, match="no user has an item to be found"):
        evaluate(lambda batch: np.zeros((len(batch), 4), np.float32), none, none)
    some = csr_array(np.ones((3, 4), np.float32))
    with pytest.raises(InputError, match="scores hold NaN"):
        evaluate(lambda batch: np.full((len(batch), 4), np.nan, np.float32), some, none)
