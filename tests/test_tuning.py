import numpy as np
import pytest

from compressae import CompresSAE, CompressedIndex, InputError
from compressae.retrieval import recall_at

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
    return CompressedIndex(model, model.compress(table, residual_bytes=4), threads=1)


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
def test_the_setting_reaches_the_recall_with_few_candidates(index, table, recall):
    queries, K = table[:80] + 0.1, 10
    said = []
    found = index.tune(queries, K, recall, progress=lambda *now: said.append(now))
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


def test_a_saved_index_keeps_its_setting_and_more_results_more_candidates(index, table, tmp_path):
    index.query_nonzeros, index.candidates, index._tuned = 32, 40, (10, 40)
    index.save(tmp_path / "index")
    loaded = CompressedIndex.load(tmp_path / "index")
    assert (loaded.query_nonzeros, loaded.candidates) == (32, 40)
    by_hand = CompressedIndex.load(tmp_path / "index")
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
            index.tune(**{"queries": table[:5], **wrong})
    assert index.candidates is None


def test_without_lists_every_search_scans(model, table, index, tmp_path):
    bare = CompressedIndex(model, index.codes, lists=False)
    assert bare.list_nbytes == 0 and bare.nbytes == index.codes.nbytes
    whole = index.search(table[:9], 7, candidates="all")
    np.testing.assert_array_equal(bare.search(table[:9], 7).ids, whole.ids)
    with pytest.raises(InputError, match="an index without posting lists"):
        bare.search(table[:9], 7, candidates=100)
    assert [one.candidates for one in bare.tune(table[:9], 7)] == ["all"]
    bare.add(table[:3])
    bare.save(tmp_path / "bare")
    loaded = CompressedIndex.load(tmp_path / "bare")
    assert loaded.list_nbytes == 0 and len(loaded) == N + 3
    np.testing.assert_array_equal(loaded.search(table[:9], 7).ids, bare.search(table[:9], 7).ids)
    sparse = bare.search(table[:9], 7, "sparse", query_nonzeros=9)
    index.add(table[:3])
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
        fine = index.search(queries, 10, dense=dense, dense_candidates=200)
        exact = np.take_along_axis(asked @ unit.T, fine.ids, 1)
        np.testing.assert_allclose(fine.scores, exact, atol=1e-5)
        assert (np.diff(fine.scores, axis=1) <= 0).all()
        assert recall_at(fine.ids, truth, 10) > max(0.97, recall_at(coarse.ids, truth, 10))
    few = index.search(queries, 10, dense=table)
    best = index.search(queries, 40).ids
    assert all(set(a) <= set(b) for a, b in zip(few.ids, best, strict=True))
    padded = index.search(queries, 10, dense=table, allowed=[5, 9])
    assert (np.sort(padded.ids[:, :2]) == [5, 9]).all() and (padded.ids[:, 2:] == -1).all()
    for wrong, message in [
        ({"dense": table[:-1]}, "for ids up to 2999"),
        ({"dense": table[:, :3]}, "expected rows of 16"),
        ({"dense": table, "dense_candidates": 9}, "9 dense candidates for 10 results"),
        ({"dense_candidates": 20}, "without dense"),
    ]:
        with pytest.raises(InputError, match=message):
            index.search(queries, 10, **wrong)
