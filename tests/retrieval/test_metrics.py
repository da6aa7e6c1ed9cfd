"""Metrics against worked examples and brute force."""

import numpy as np
import pytest

from compressae.retrieval.metrics import (
    mean_interval,
    metric_per_query,
    ndcg_per_query,
    recall_at,
    recall_per_query,
    reciprocal_rank,
    score_correlation,
)


def test_recall_counts_shared_ids_and_no_padding():
    truth = np.array([[1, 2, 3, 4], [5, 6, -1, -1]])
    found = np.array([[4, 9, 1, 2], [6, -1, -1, 7]])
    np.testing.assert_allclose(recall_per_query(found, truth, 4), [0.75, 0.5])
    np.testing.assert_allclose(recall_per_query(found, truth, 2), [0, 0.5])
    assert recall_at(found, truth, 4) == pytest.approx(0.625)
    with pytest.raises(ValueError, match="expected K ≥ 1 columns"):
        recall_at(found, truth, 5)


@pytest.mark.parametrize(
    ("metric", "function"),
    [("recall@2", recall_per_query), ("nDCG@3", ndcg_per_query), ("MRR@3", reciprocal_rank)],
)
def test_metrics_have_names(metric, function):
    ids, truth = np.array([[4, 9, 1], [6, 2, 7]]), np.array([[1, 9, 3], [5, 6, 7]])
    labels = [{9: 3.0, 1: 1.0}, {7: 2.0}]
    K = int(metric[-1])
    expected = function(ids, truth if "recall" in metric else labels, K)
    np.testing.assert_array_equal(metric_per_query(metric, ids, truth, labels), expected)


@pytest.mark.parametrize("metric", ["recall", "recall@", "recall@-1", "precision@3"])
def test_unknown_metrics_are_refused(metric):
    with pytest.raises(ValueError, match="expected one of recall@K, held-out recall@K"):
        metric_per_query(metric, np.ones((1, 3)), np.ones((1, 3)))


@pytest.mark.parametrize(("metric", "lacking"), [("recall@1", "truth"), ("MRR@1", "labels")])
def test_metrics_need_something_to_compare_with(metric, lacking):
    with pytest.raises(ValueError, match=f"without {lacking}"):
        metric_per_query(metric, np.ones((1, 3)))


def test_ndcg_is_gain_over_the_best_order():
    found = np.array([[4, 9, 1, -1], [1, 2, 3, 4], [7, 8, 9, 1]])
    labels = [{9: 3.0, 1: 1.0, 5: 2.0, 4: -1.0}, {}, {2: 1.0}]
    best = 3 + 2 / np.log2(3) + 1 / 2
    expected = (3 / np.log2(3) + 1 / 2) / best
    scores = ndcg_per_query(found, labels, 4)
    assert scores[0] == pytest.approx(expected) and np.isnan(scores[1]) and scores[2] == 0
    assert ndcg_per_query(found, labels, 2)[0] == pytest.approx(
        3 / np.log2(3) / (3 + 2 / np.log2(3))
    )
    perfect = ndcg_per_query(np.array([[9, 5, 1]]), labels[:1], 10)
    assert perfect[0] == pytest.approx(1)


def test_reciprocal_rank_is_of_the_first_relevant():
    found = np.array([[4, 9, 1], [3, 2, 1], [3, 2, 1]])
    labels = [{9: 1.0, 1: 2.0}, {8: 1.0}, {3: 0.0}]
    ranks = reciprocal_rank(found, labels, 3)
    assert ranks[:2].tolist() == [0.5, 0.0] and np.isnan(ranks[2])
    assert reciprocal_rank(found, labels, 1)[0] == 0


def test_correlation_leaves_padding_out():
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((5, 30)).astype(np.float32)
    scores = exact + rng.standard_normal((5, 30)).astype(np.float32)
    scores[0, 20:] = exact[0, 20:] = -np.inf
    scores[1] = 3
    scores[2, 2:] = -np.inf
    r = score_correlation(scores, exact)
    assert r[0] == pytest.approx(np.corrcoef(scores[0, :20], exact[0, :20])[0, 1])
    assert np.isnan(r[1]) and np.isnan(r[2])
    assert r[3] == pytest.approx(np.corrcoef(scores[3], exact[3])[0, 1])


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(300):
        mean, low, high = mean_interval(rng.random(200) < 0.7, seed)
        assert low <= mean <= high
        inside += low <= 0.7 <= high
    assert 0.90 <= inside / 300 <= 0.985
    values = np.array([0.5, np.nan, 0.7])
    assert mean_interval(values)[0] == pytest.approx(0.6)
    assert all(np.isnan(one) for one in mean_interval(np.full(3, np.nan)))
    assert mean_interval(np.ones(9)) == (1, 1, 1)
