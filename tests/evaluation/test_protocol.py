"""Figures of a small evaluation against what they are by definition."""

import sys

import numpy as np
import pytest

from compressae import InputError, TrainConfig, compress, train
from compressae.evaluation.methods import METHODS
from compressae.evaluation.protocol import evaluate
from compressae.evaluation.summary import per_query, summarise
from compressae.retrieval import CompressedIndex
from compressae.retrieval.baselines import BASELINES
from compressae.retrieval.io.embeddings import unit_rows
from compressae.training.config import held_out_rows

D, H, K = 16, 64, 4
ROW = 4 * (6 + 2) // 8 + 1  # 4 nonzeros of 6 + 2 bits and a gain.


@pytest.fixture(scope="module")
def parts():
    """(model, corpus (580, d), queries (20, d), rows (580,), held (20,)); none trained on held."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, D))
    rows = centres[rng.integers(0, 30, 600)] + 0.3 * rng.standard_normal((600, D))
    rows = rows.astype(np.float32)
    config = TrainConfig(latents=H, nonzeros=K, steps=12, batch=64, hold_out=20)
    held, kept = held_out_rows(len(rows), 20)
    kept = np.sort(kept)
    return train(rows, config), rows[kept], rows[held], kept, held


@pytest.fixture(scope="module")
def result(parts):
    """Every method with its own settings, at 5 code bytes where it takes any."""
    model, corpus, queries, rows, held = parts
    return evaluate(corpus, queries, "all", model, (ROW,), rows, held)


def test_the_split_is_one_permutation_of_seed_0():
    held, kept = held_out_rows(50, 10)
    order = np.random.default_rng(0).permutation(50)
    assert held.tolist() == order[:10].tolist() and kept.tolist() == order[10:].tolist()


def test_every_method_is_measured_in_the_order_given(parts, result):
    model, corpus, queries, _, _ = parts
    measured = list(dict.fromkeys(record.method for record in result.records))
    assert measured == [name for name in METHODS if name != "lsq"]  # Slow: not among "all".
    too_small = {"qr-add", "qr-product", "chinese-remainder"}
    for record in result.records:
        if record.method in too_small:  # 48 rows are needed, 5.3 bytes a row.
            assert "tell 580 rows apart" in record.error
            continue
        if record.error and record.error.endswith("pip install 'compressae[baselines]'"):
            continue
        assert record.error is None, record
        assert len(record.times_ms) == 20 and (record.times_ms > 0).all()
        assert record.queries_per_second > 0 and record.build_seconds >= 0
        assert record.hits.ids.shape == record.exact.shape == (20, 100)
    turned = evaluate(corpus, queries, ["sparse", "dense"], model)
    assert [record.method for record in turned.records] == ["sparse", "dense"]


def test_recall_is_the_share_of_the_true_neighbours_by_cosine(parts, result):
    _, corpus, queries, rows, _ = parts
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, corpus)]
    cosine = unit[0] @ unit[1].T
    nearest = rows[np.argsort(-cosine, axis=1, kind="stable")]
    place = {row: i for i, row in enumerate(rows.tolist())}
    means = {}
    for record in (record for record in result.records if record.error is None):
        figures = per_query(result, record)
        means[record.method] = figures["recall@100"].mean()
        for count in (1, 10, 100):
            expected = [
                len(set(found[:count].tolist()) & set(true[:count].tolist())) / count
                for found, true in zip(record.hits.ids, nearest, strict=True)
            ]
            assert figures[f"recall@{count}"] == pytest.approx(expected), (record.method, count)
        found = record.hits.ids[3] >= 0
        here = [place[one] for one in record.hits.ids[3][found].tolist()]
        np.testing.assert_allclose(record.exact[3][found], cosine[3, here], atol=1e-6)
        if record.method not in ("hashing", "truncate", "pca"):  # Whose scores are all alike here.
            r = np.corrcoef(record.exact[3][found], record.hits.scores[3][found])[0, 1]
            assert figures["score r"][3] == pytest.approx(r, rel=1e-4)
    assert means["dense"] == 1 and means["hnsw"] > 0.95
    assert 100 / 580 < means["sparse"] < means["asymmetric-all"] < 1  # Better than by chance.
    assert means["hashing"] < means["pq"] < means["int4"] < means["float16"]


def test_found_ids_are_those_of_the_index(parts, result):
    model, corpus, queries, rows, _ = parts
    index = CompressedIndex(model.projection, compress(model, corpus))
    queries = unit_rows(queries)
    found = {record.method: record.hits.ids for record in result.records}
    expected = {
        "sparse": index.search(queries, 100, "sparse"),
        "sparse-wide": index.search(queries, 100, "sparse", query_nonzeros=8 * K),
        "asymmetric-all": index.search(queries, 100, "asymmetric", candidates="all"),
        "reconstructed": index.search(queries, 100, "reconstructed", candidates="all"),
    }
    for name, hits in expected.items():
        np.testing.assert_array_equal(found[name], rows[hits.ids])
    few = evaluate(corpus, queries, "asymmetric:candidates=120", model, (ROW,)).records
    direct = index.search(queries, 100, candidates=120)
    np.testing.assert_array_equal(few[0].hits.ids, direct.ids)


def test_bytes_are_what_is_held(result):
    by_name = {record.method: record for record in result.records}
    assert by_name["dense"].code_bytes == by_name["dense"].bytes_an_item == 4 * D
    for name in ("asymmetric", "asymmetric-all", "reconstructed", "sparse"):
        assert by_name[name].code_bytes == pytest.approx(ROW, abs=4 / 580)
        assert by_name[name].settings["nonzeros"] == K
    assert by_name["asymmetric-all"].bytes_an_item == by_name["sparse"].code_bytes  # No lists.
    assert by_name["asymmetric"].bytes_an_item > ROW + 3 * K
    assert by_name["pq"].code_bytes == by_name["pq"].bytes_an_item == 4  # Of 5: 4 divides 16.
    assert by_name["rq"].code_bytes == 5 and by_name["rq"].constant_bytes >= 4 * 256 * D * 5
    assert by_name["ivf-pq"].bytes_an_item > 4 + 8  # Codes and ids.
    matrix = 4 * H * D
    assert by_name["dense"].constant_bytes == 0
    assert by_name["sparse"].constant_bytes == matrix + 4 * H
    assert by_name["asymmetric"].constant_bytes < by_name["reconstructed"].constant_bytes


def test_facts_of_the_run_are_kept(result, parts):
    about = result.about
    assert (about["items"], about["queries"], about["dim"]) == (580, 20, D)
    assert about["code_bytes"] == [ROW] and about["model"]["model_id"] == parts[0].model_id
    assert about["machine"]["processors"] >= 1 and about["machine"]["numpy"] == np.__version__
    np.testing.assert_array_equal(result.queries, parts[4])


def test_labels_give_ndcg_and_mrr(parts):
    _, corpus, queries, rows, held = parts
    first = evaluate(corpus, queries, "dense", None, rows=rows, query_names=held)
    labels = [{int(row[2]): 1.0} for row in first.truth.ids]  # The third nearest is the right one.
    judged = evaluate(corpus, queries, "dense", rows=rows, query_names=held, labels=labels)
    (entry,) = summarise(judged)["methods"]
    assert entry["metrics"]["MRR@10"]["mean"] == pytest.approx(1 / 3)
    assert entry["metrics"]["nDCG@10"]["mean"] == pytest.approx(1 / 2)
    (plain,) = summarise(first)["methods"]
    assert set(plain["metrics"]) == {"recall@1", "recall@10", "recall@100", "score r"}


@pytest.mark.parametrize("how", ["unknown", "setting", "missing", "no faiss", "fails", "no model"])
def test_a_failing_method_does_not_stop_the_others(parts, monkeypatch, how):
    _, corpus, queries, _, _ = parts
    asked, said = {
        "unknown": ("magic", "unknown method; expected one of dense, float16"),
        "setting": ("pq:parts=3", "no setting 'parts'; it has code_bytes, train_rows"),
        "missing": ("annoy", "baseline 'annoy' needs annoy; pip install"),
        "no faiss": ("rabitq", "faiss"),
        "fails": ("hnsw", "no memory today"),
        "no model": ("sparse", "without a model"),
    }[how]
    if how == "missing":
        monkeypatch.setitem(sys.modules, "annoy", None)
    if how == "no faiss":
        monkeypatch.delitem(sys.modules, "compressae.retrieval.baselines.rabitq", raising=False)
        monkeypatch.setitem(sys.modules, "faiss", None)
    if how == "fails":

        def fail(*arguments, **settings):
            raise OverflowError("no memory\ntoday")

        monkeypatch.setattr("compressae.evaluation.methods.build_baseline", fail)
    records = evaluate(corpus, queries, [asked, "binary" if how != "fails" else "magic"]).records
    assert said in records[0].error and "\n" not in records[0].error
    assert len(records) == 2 and (records[1].error is None) == (how != "fails")
    assert summarise(evaluate(corpus, queries, "magic"))["methods"][0]["family"] == "unknown"


def test_a_failure_after_a_first_variant_keeps_it(parts):
    _, corpus, queries, _, _ = parts
    records = evaluate(corpus, queries, "qr-add:code_bytes=8/1/16").records
    assert [r.settings["code_bytes"] for r in records] == [8, 1, 16]
    assert [r.error is None for r in records] == [True, False, True]


def test_sizes_that_end_in_the_same_index_are_built_once(parts, monkeypatch):
    _, corpus, queries, _, _ = parts
    built = []

    def build(name, *arguments, **settings):
        built.append((name, settings))
        return BASELINES[name].builder()(*arguments, **settings)

    monkeypatch.setattr("compressae.evaluation.methods.build_baseline", build)
    asked = "pq:code_bytes=4/8/12/15,rabitq:code_bytes=10/11"
    records = evaluate(corpus, queries, asked).records
    assert [record.settings["code_bytes"] for record in records] == [4, 8, 12, 15, 10, 11]
    assert [record.code_bytes for record in records] == [4, 8, 8, 8, 10, 10]
    assert [settings["code_bytes"] for _, settings in built] == [4, 8, 10]
    assert records[1].hits is records[2].hits is records[3].hits


def test_codebooks_are_learned_from_the_rows_asked_for(parts):
    model, corpus, queries, _, _ = parts
    asked = "dense,int8,pq:train_rows=280,pq,truncate,pca,asymmetric-all"
    records = evaluate(corpus, queries, asked, model, (8,), train_rows=300).records
    # The model keeps how many rows it was trained on: 600, of which 20 were held out.
    assert [record.trained_rows for record in records] == [0, 300, 280, 300, 0, 300, 580]
    for count in (0, 581):
        with pytest.raises(InputError, match=f"{count} rows to train on: expected 1 to 580"):
            evaluate(corpus, queries, "dense", train_rows=count)


def test_progress_names_each_method(parts):
    _, corpus, queries, _, _ = parts
    seen = []
    evaluate(corpus, queries, ["dense", "binary"], progress=lambda *x: seen.append(x))
    assert seen == [(0, 2, "dense"), (1, 2, "binary"), (2, 2, "")]


def test_another_width_and_bad_rows_are_refused(parts):
    model, corpus, queries, _, _ = parts
    with pytest.raises(InputError, match="15 columns"):
        evaluate(corpus[:, :15].copy(), queries[:, :15].copy(), "sparse", model)
    bad = queries.copy()
    bad[3, 2] = np.nan
    with pytest.raises(InputError, match="NaN"):
        evaluate(corpus, bad, "dense")


def test_the_registry_and_the_methods_agree():
    assert set(BASELINES) < set(METHODS)
    for name, entry in BASELINES.items():
        known = entry.settings()
        assert set(entry.search_settings) <= set(known), name
        assert not set(entry.fixed) & set(known)


def test_a_scoring_pays_for_what_it_reads_alone(parts):
    model, corpus, queries, _, _ = parts
    asked = ["asymmetric-all", "asymmetric:candidates=all/150", "sparse"]
    records = evaluate(corpus, queries, asked, model, (16,)).records
    scan, same, lists, sparse = records
    assert scan.bytes_an_item == same.bytes_an_item < lists.bytes_an_item
    assert scan.settings["residual_bytes"] > 0 == sparse.settings["residual_bytes"]
    assert sparse.settings["nonzeros"] > scan.settings["nonzeros"] and sparse.code_bytes <= 16.01


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("hnsw:ef=9999999999", "expected a whole number from 1 on"),
        ("pq:code_bytes=abc", "code_bytes='abc': expected a whole number"),
        ("pq:code_bytes=0", "from 1 on"),
        ("pq:code_bytes=8.5", "expected a whole number"),
        ("qr-add:sweeps=-1", "sweeps=-1"),
        ("truncate:values=3", "values=3: expected a word"),
        ("scann:threshold=2", "expected a number from 0 to 1"),
        ("scann:threshold=high", "expected a number from 0 to 1"),
        ("asymmetric:query_nonzeros=8.5", "expected a whole number"),
        ("asymmetric:candidates=many", "expected a whole number"),
        ([{"hnsw": {"ef": []}}], "ef: no value"),
        ([{"pq": {"code_bytes": True}}], "expected a whole number"),
    ],
)
def test_settings_of_another_kind_are_rows(parts, asked, said):
    model, corpus, queries, _, _ = parts
    (record,) = evaluate(corpus, queries, asked, model).records
    assert said in record.error
