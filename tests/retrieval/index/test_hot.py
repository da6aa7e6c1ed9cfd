"""Hot rows: results that are among them get their exact scores."""

import numpy as np
import pytest
from code_forms import make_codes

from compressae import CompresSAE, InputError
from compressae.retrieval import Catalogue, CompressedIndex, HotRows, exact_search, recall_at

N, D = 300, 12


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((N, D)) * rng.lognormal(0, 0.5, (N, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return 3 * np.random.default_rng(1).standard_normal((20, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    model = CompresSAE(D, 48, 3, seed=1)
    model.settings = {"recipe": "pursuit"}
    return model


@pytest.fixture(scope="module", params=["cosine", "dot"])
def index(request, model, table):
    return CompressedIndex(
        model.projection, make_codes(model, table, similarity=request.param, residual_bytes=1)
    )


def assert_same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize("candidates", [30, "all"])
def test_all_rows_hot_are_as_reranked_from_the_table(index, table, queries, candidates):
    hot = HotRows(table, range(N), index.similarity, np.float32)
    options = {"candidates": candidates, "rerank_candidates": 25}
    assert_same(
        index.search(queries, 9, rerank=hot, **options),
        index.search(queries, 9, rerank=table, **options),
    )


def test_hot_results_have_their_exact_scores_and_others_their_codes(index, table, queries):
    ids = np.random.default_rng(2).permutation(N)[:100]
    hot = HotRows(table[ids], ids, index.similarity)
    before = index.search(queries, 40)
    after = index.search(queries, 10, rerank=hot, rerank_candidates=40)
    exact = exact_search(table, queries, N, index.similarity)
    for q in range(len(queries)):
        codes = dict(zip(before.ids[q], before.scores[q], strict=True))
        exactly = dict(zip(exact.ids[q], exact.scores[q], strict=True))
        expected = {i: exactly[i] if i in ids else score for i, score in codes.items()}
        scores = [expected[i] for i in after.ids[q]]
        np.testing.assert_allclose(after.scores[q], scores, rtol=2e-3, atol=2e-3)
        least = sorted(expected.values())[-10]
        assert after.scores[q].min() >= least - 4e-3 * max(1, abs(least))
    truth = exact.ids[:, :10]
    assert recall_at(after.ids, truth, 10) > recall_at(before.ids[:, :10], truth, 10)


def test_rows_that_are_not_found_stay_out(index, table, queries):
    allowed = np.arange(20)
    hot = HotRows(table[50:], range(50, N), index.similarity)
    assert_same(
        index.search(queries, 30, allowed=allowed, rerank=hot),
        index.search(queries, 30, allowed=allowed),
    )


def test_bytes_are_of_their_dtype(table):
    small, large = HotRows(table, range(N)), HotRows(table, range(N), dtype=np.float32)
    assert (small.nbytes, large.nbytes) == (N * (2 * D + 8), N * (4 * D + 8))


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "other columns": (lambda i, t: HotRows(t[:, :5], range(N), i.similarity), "5 columns"),
        "other similarity": (
            lambda i, t: HotRows(t, range(N), "dot" if i.similarity == "cosine" else "cosine"),
            "expected 12 for",
        ),
        "too few ids": (lambda i, t: HotRows(t, range(3)), "3 ids for 300 rows"),
        "one id twice": (lambda i, t: HotRows(t[:2], [4, 4]), "more than once"),
        "too large": (lambda i, t: HotRows(1e5 * t, range(N), "dot"), "too large"),
        "NaN": (lambda i, t: HotRows(t * np.nan, range(N)), "NaN"),
        "dtype": (lambda i, t: HotRows(t, range(N), dtype=np.int8), "expected float16"),
    }.values(),
)
def test_hot_rows_that_do_not_fit_are_refused(index, table, queries, change, message):
    with pytest.raises(InputError, match=message):
        index.search(queries, 5, rerank=change(index, table))


def test_a_catalogue_names_hot_rows_by_its_own_ids(tmp_path, model, table, queries):
    codes = make_codes(model, table)
    names = [f"row {i}" for i in range(N)]
    numbered = Catalogue.create(tmp_path / "n", model.projection, codes)
    named = Catalogue.create(tmp_path / "t", model.projection, codes, names)
    some = np.array([3, 250, 40])
    hits = [
        numbered.search(queries, 40, rerank=numbered.hot_rows(table[some], some)),
        named.search(queries, 40, rerank=named.hot_rows(table[some], [names[i] for i in some])),
    ]
    np.testing.assert_array_equal(hits[0].scores, hits[1].scores)
    assert [f"row {i}" for i in hits[0].ids[0]] == hits[1].ids[0].tolist()
    for catalogue, unknown in ((numbered, [N]), (named, ["row"])):
        with pytest.raises(InputError, match="not in the catalogue"):
            catalogue.hot_rows(table[:1], unknown)
    with pytest.raises(InputError, match="rows named by texts"):
        named.search(queries, 5, rerank=table)
