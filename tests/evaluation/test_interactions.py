"""Evaluation of a recommender: seen pairs left out, held-out pairs looked for."""

import numpy as np
import pytest
import scipy.sparse
from factor_tables import USERS, N, factors, seen_by

from compressae import InputError, TrainConfig, train
from compressae.evaluation.interactions import Interactions
from compressae.evaluation.protocol import evaluate
from compressae.evaluation.report import markdown
from compressae.evaluation.summary import per_query, summarise
from compressae.retrieval.io.embeddings import as_embeddings

faiss = pytest.importorskip("faiss", reason="needs faiss, which most baselines are of")


#: Our names of trec_eval's measures.
_OF_TREC = {
    "held-out recall@20": "recall_20",
    "nDCG@20": "ndcg_cut_20",
    "hit@20": "success_20",
}


@pytest.fixture(scope="module")
def parts():
    """Items, users, and what they take next: some of their best unseen items, and others."""
    items, users = factors()
    seen = seen_by()
    scores = np.where(seen.toarray() > 0, -np.inf, users @ items.T)
    best = np.argsort(-scores, axis=1)
    rng = np.random.default_rng(3)
    rows, columns = [], []
    for user in range(USERS - 5):  # The last five take nothing.
        taken = [*best[user, rng.integers(0, 25, 3)], *rng.integers(0, N, 2)]
        taken = [item for item in set(taken) if not seen[user, item]]
        rows += [user] * len(taken)
        columns += taken
    ones = np.ones(len(rows), np.float32)
    held_out = scipy.sparse.csr_array((ones, (rows, columns)), shape=(USERS, N))
    return items, users, Interactions.of(seen, held_out)


@pytest.fixture(scope="module")
def result(parts):
    items, users, interactions = parts
    model = train(items, TrainConfig(latents=64, nonzeros=4, steps=4, similarity="dot"))
    return evaluate(
        items,
        users,
        "dense, asymmetric:candidates=300, asymmetric-all, pq, ne-pq, opq:weighted=1, hnsw:ef=400",
        model,
        (16,),
        interactions=interactions,
        query_sample=users[::2],
    )


def records(result):
    return {record.method: record for record in result.records}


def test_every_method_is_measured_by_dot_product(result):
    assert all(record.error is None for record in result.records), [r.error for r in result.records]
    assert result.about["similarity"] == "dot"
    assert len(result.records) == 7


def test_nothing_seen_is_found(result, parts):
    seen = parts[2].seen
    for record in result.records:
        for i, ids in enumerate(record.hits.ids):
            assert not np.isin(ids, seen[[i]].indices).any(), record.method


def test_dense_search_is_the_truth_and_its_scores_are_exact(result):
    dense = records(result)["dense"]
    np.testing.assert_array_equal(dense.hits.ids, result.truth.ids)
    np.testing.assert_allclose(dense.hits.scores, dense.exact, rtol=1e-4)


def test_methods_are_near_the_truth(result):
    recalls = {
        record.method: per_query(result, record)["recall@10"].mean() for record in result.records
    }
    assert all(recall > 0.6 for recall in recalls.values()), recalls
    assert recalls["asymmetric-all"] >= recalls["asymmetric"] - 0.01


def test_metrics_are_trec_evals(result, parts):
    """Recall@20, nDCG@20 and hits, as the reference implementation has them."""
    trec = pytest.importorskip("pytrec_eval", reason="needs pytrec_eval-terrier (pip install)")
    held_out = parts[2].held_out
    relevant = {
        str(user): {str(item): 1 for item in held_out[[user]].indices}
        for user in range(USERS)
        if held_out[[user]].nnz
    }
    judge = trec.RelevanceEvaluator(relevant, {"recall.20", "ndcg_cut.20", "success.20"})
    for record in result.records:
        run = {
            str(user): {str(item): float(-rank) for rank, item in enumerate(ids[:20])}
            for user, ids in enumerate(record.hits.ids)
            if str(user) in relevant
        }
        found = judge.evaluate(run)
        values = per_query(result, record)
        for metric, name in _OF_TREC.items():
            expected = [found[str(user)][name] for user in range(USERS - 5)]
            np.testing.assert_allclose(values[metric][: USERS - 5], expected, atol=1e-6)
            assert np.isnan(values[metric][USERS - 5 :]).all()


def test_popularity_groups_share_the_held_out_pairs(result, parts):
    """What is found in tail, middle and head is what is found in all, weighted by their pairs."""
    interactions = parts[2]
    dense = per_query(result, records(result)["dense"])
    counts = [
        np.array([len(labels) for labels in interactions.labels(np.arange(N), group)])
        for group in range(3)
    ]
    total = np.diff(interactions.held_out.indptr)
    np.testing.assert_array_equal(np.sum(counts, axis=0), total)
    found = sum(
        np.nan_to_num(dense[f"{name} recall@20"]) * count
        for name, count in zip(("tail", "middle", "head"), counts, strict=True)
    )
    whole = np.nan_to_num(dense["held-out recall@20"]) * total
    np.testing.assert_allclose(found, whole, atol=1e-9)
    popularity = interactions.popularity
    groups = interactions.groups
    assert popularity[groups == 0].max() <= popularity[groups == 2].min()


def test_the_report_says_what_was_compared(result):
    summary = summarise(result)
    text = markdown(summary)
    assert "dot product" in text and "Of users' held-out pairs it finds" in text
    dense = summary["methods"][0]["metrics"]
    found = result.records[0].hits.ids[:, :20]
    assert dense["coverage@20"]["mean"] == len(np.unique(found)) / N


def test_names_of_items_are_kept(parts):
    items, users, interactions = parts
    names = np.arange(N) * 3 + 1
    named = evaluate(items, users, "dense", rows=names, similarity="dot", interactions=interactions)
    plain = evaluate(items, users, "dense", similarity="dot", interactions=interactions)
    for metric, values in per_query(plain, plain.records[0]).items():
        np.testing.assert_allclose(per_query(named, named.records[0])[metric], values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: Interactions.of(i.seen[:3], i.held_out[:3]), "3 users and 900 items; expected"),
        (lambda i: Interactions.of(i.seen, i.held_out * 0), "no user has an item to be found"),
    ],
)
def test_interactions_that_do_not_fit_are_refused(parts, change, said):
    items, users, interactions = parts
    odd = change(interactions)
    odd.held_out.eliminate_zeros()
    with pytest.raises(InputError, match=said):
        evaluate(items, users, "dense", similarity="dot", interactions=odd)


def test_a_weighted_baseline_scores_as_it_is_without(parts):
    """Rows times A and queries times A⁻¹: the dot products of a fine quantiser stay."""
    from compressae.retrieval.baselines import build
    from compressae.retrieval.baselines.weighted import Weighted

    items, users, _ = parts
    rng = np.random.default_rng(0)
    root = rng.standard_normal((16, 16))
    weighting = (root @ root.T + 4 * np.eye(16)).astype(np.float32)
    table = as_embeddings(items).compared_by("dot")
    plain = build("dense", table).search(users, 10)
    weighted = Weighted(lambda rows: build("dense", rows), table, weighting)
    found = weighted.search(users, 10)
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-3)
    assert weighted.constant_nbytes == 4 * 16 * 16 and len(weighted) == N
