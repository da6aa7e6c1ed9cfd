import numpy as np
import pytest
from code_forms import make_codes

from compressae import CompresSAE, InputError, encode_like
from compressae.retrieval import Catalogue, CompressedIndex, exact_search, recall_at, tune

N, D, H = 3000, 16, 128


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, D))
    rows = centres[rng.integers(0, 100, N)] + 0.5 * rng.standard_normal((N, D))
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def model():
    model = CompresSAE(D, H, 5, seed=1)
    model.settings = {"recipe": "pursuit"}
    return model


@pytest.fixture
def index(model, table):
    return CompressedIndex(model.projection, make_codes(model, table, residual_bytes=4), threads=1)


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
def test_the_setting_reaches_the_recall_with_few_candidates(index, table, recall):
    queries, K = table[:80] + 0.1, 10
    said = []
    found = tune(index, queries, K, recall, progress=lambda *now: said.append(now))
    best = found[0]
    assert (index.query_nonzeros, index.candidates) == (best.query_nonzeros, best.candidates)
    assert [one.p50_ms for one in found] == sorted(one.p50_ms for one in found)
    assert found[-1].candidates == "all" or "all" in [one.candidates for one in found]
    truth = index.search(queries, K, candidates="all").ids
    for one in found:
        kq, C = one.query_nonzeros, one.candidates
        ids = index.search(queries, K, candidates=C, query_nonzeros=kq).ids
        assert recall_at(ids, truth, K) == pytest.approx(one.recall) and one.recall >= recall
        if C != "all" and C > 1.2 * K:  # Far fewer would not do.
            fewer = index.search(queries, K, candidates=max(K, C // 2), query_nonzeros=kq).ids
            assert recall_at(fewer, truth, K) < one.recall or one.recall == 1
    np.testing.assert_array_equal(
        index.search(queries, K).ids,
        index.search(queries, K, candidates=best.candidates,
                     query_nonzeros=best.query_nonzeros).ids,
    )  # fmt: skip
    assert said[-1][0] == said[-1][1] and len(said) == said[-1][1] + 1


def test_recall_against_exact_cosine_is_measured_where_rows_are_given(index, table):
    queries = table[:40] + 0.1
    index.remove(np.arange(0, 200, 2))
    settings = tune(index, queries, 10, 0.9, exact=table)
    kept = np.setdiff1d(np.arange(N), np.arange(0, 200, 2))
    truth = kept[exact_search(table[kept], queries, 10).ids]
    for setting in settings:
        kq, C = setting.query_nonzeros, setting.candidates
        ids = index.search(queries, 10, candidates=C, query_nonzeros=kq).ids
        assert setting.exact_recall == pytest.approx(recall_at(ids, truth, 10))
        assert setting.exact_recall < setting.recall
    assert all(setting.exact_recall is None for setting in tune(index, queries, 10, 0.9))
    with pytest.raises(InputError, match="for ids up to 2999, the embeddings"):
        tune(index, queries, 10, exact=table[:-1])


def test_a_saved_index_keeps_its_setting_and_more_results_more_candidates(index, table, tmp_path):
    index.query_nonzeros, index.candidates, index.tuned = 32, 40, (10, 40)
    Catalogue.write(tmp_path / "index", index)
    loaded = Catalogue.open(tmp_path / "index").index
    assert (loaded.query_nonzeros, loaded.candidates) == (32, 40)
    by_hand = Catalogue.open(tmp_path / "index").index
    by_hand.candidates = 50
    np.testing.assert_array_equal(
        by_hand.search(table[:9], 20).ids, index.search(table[:9], 20, candidates=50).ids
    )
    for one in (index, loaded):
        for K, C in ((5, 40), (10, 40), (25, 100)):
            np.testing.assert_array_equal(
                one.search(table[:9], K).ids, one.search(table[:9], K, candidates=C).ids
            )


def test_bad_settings_are_refused(index, table):
    for wrong, message in [
        ({"K": 0}, "K = 0"),
        ({"recall": 0}, "recall 0: expected above 0"),
        ({"recall": 1.1}, "recall 1.1"),
        ({"K": N}, "nothing to tune"),
        ({"queries": table[:5, :3]}, "rows of 3 columns"),
    ]:
        with pytest.raises(InputError, match=message):
            tune(index, **{"queries": table[:5], **wrong})
    assert index.candidates is None


def test_without_lists_every_search_scans(model, table, index, tmp_path):
    bare = CompressedIndex(model.projection, index.codes, lists=False)
    assert bare.list_nbytes == 0 and bare.nbytes == index.codes.nbytes
    whole = index.search(table[:9], 7, candidates="all")
    np.testing.assert_array_equal(bare.search(table[:9], 7).ids, whole.ids)
    with pytest.raises(InputError, match="an index without posting lists"):
        bare.search(table[:9], 7, candidates=100)
    assert [one.candidates for one in tune(bare, table[:9], 7)] == ["all"]
    bare.add(encode_like(model, table[:3], bare.codes))
    Catalogue.write(tmp_path / "bare", bare)
    loaded = Catalogue.open(tmp_path / "bare").index
    assert loaded.list_nbytes == 0 and len(loaded) == N + 3
    np.testing.assert_array_equal(loaded.search(table[:9], 7).ids, bare.search(table[:9], 7).ids)
    sparse = bare.search(table[:9], 7, "sparse", query_nonzeros=9)
    index.add(encode_like(model, table[:3], index.codes))
    np.testing.assert_array_equal(
        sparse.ids, index.search(table[:9], 7, "sparse", query_nonzeros=9).ids
    )


def test_the_dense_stage_ranks_by_exact_cosine(index, table, tmp_path):
    np.save(tmp_path / "table.npy", table)
    queries = table[:20] + 0.1
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    truth = np.argsort(-(asked @ unit.T), axis=1)[:, :10]
    coarse = index.search(queries, 10)
    for dense in (table, tmp_path / "table.npy"):
        fine = index.search(queries, 10, rerank=dense, rerank_candidates=200)
        exact = np.take_along_axis(asked @ unit.T, fine.ids, 1)
        np.testing.assert_allclose(fine.scores, exact, atol=1e-5)
        assert (np.diff(fine.scores, axis=1) <= 0).all()
        assert recall_at(fine.ids, truth, 10) > max(0.97, recall_at(coarse.ids, truth, 10))
    few = index.search(queries, 10, rerank=table)
    best = index.search(queries, 40).ids
    assert all(set(a) <= set(b) for a, b in zip(few.ids, best, strict=True))
    padded = index.search(queries, 10, rerank=table, allowed=[5, 9])
    assert (np.sort(padded.ids[:, :2]) == [5, 9]).all() and (padded.ids[:, 2:] == -1).all()
    for wrong, message in [
        ({"rerank": table[:-1]}, "for ids up to 2999"),
        ({"rerank": table[:, :3]}, "expected rows of 16"),
        ({"rerank": table, "rerank_candidates": 9}, "9 rerank candidates for 10 results"),
        ({"rerank_candidates": 20}, "without rerank"),
    ]:
        with pytest.raises(InputError, match=message):
            index.search(queries, 10, **wrong)
