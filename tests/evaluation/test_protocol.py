"""Figures of a small evaluation against what they are by definition."""

import numpy as np
import pytest

from compressae import CompressedIndex, InputError, TrainConfig, train
from compressae.evaluation.protocol import METHODS, evaluate
from compressae.retrieval.embeddings import as_embeddings
from compressae.training import held_out_rows

D, H, K = 16, 64, 4


@pytest.fixture(scope="module")
def parts():
    """(model, corpus (380, d), queries (20, d)), the queries not trained on."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, D))
    rows = centres[rng.integers(0, 30, 400)] + 0.3 * rng.standard_normal((400, D))
    rows = rows.astype(np.float32)
    config = TrainConfig(latents=H, nonzeros=K, steps=12, batch=64, hold_out=20)
    held, kept = held_out_rows(len(rows), 20)
    return train(rows, config), rows[np.sort(kept)], rows[held]


@pytest.fixture(scope="module")
def result(parts):
    model, corpus, queries = parts
    return evaluate(model, as_embeddings(corpus), queries, codes={"values": "int8"})


def test_the_split_is_one_permutation_of_seed_0():
    held, kept = held_out_rows(50, 10)
    order = np.random.default_rng(0).permutation(50)
    assert held.tolist() == order[:10].tolist() and kept.tolist() == order[10:].tolist()


def test_every_method_is_measured_in_the_order_given(parts, result):
    model, corpus, queries = parts
    assert [record.method for record in result.records] == list(METHODS)
    for record in result.records:
        assert record.error is None
        assert 0 < record.p50_ms <= record.p99_ms and record.queries_per_second > 0
        assert record.build_seconds > 0
        assert len(record.recall10) == len(record.recall100) == len(record.found) == 20
    turned = evaluate(model, as_embeddings(corpus), queries, ["sparse", "dense"])
    assert [record.method for record in turned.records] == ["sparse", "dense"]


def test_recall_is_the_share_of_the_true_neighbours_by_cosine(parts, result):
    _, corpus, queries = parts
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, corpus)]
    nearest = np.argsort(-(unit[0] @ unit[1].T), axis=1)
    for record in result.records:
        for count, stored in ((10, record.recall10), (100, record.recall100)):
            expected = [
                len(set(found[:count]) & set(true[:count].tolist())) / count
                for found, true in zip(record.found, nearest, strict=True)
            ]
            assert stored == pytest.approx(expected), (record.method, count)
    recall = {record.method: np.mean(record.recall100) for record in result.records}
    assert recall["dense"] == 1
    assert 100 / 380 < recall["sparse"] < recall["asymmetric-all"] < 1  # Better than by chance.


def test_found_ids_are_those_of_the_index(parts, result):
    model, corpus, queries = parts
    index = CompressedIndex(model, model.compress(corpus, values="int8"))
    found = {record.method: record.found for record in result.records}
    assert found["sparse"] == index.search(queries, 100, "sparse").ids.tolist()
    wide = index.search(queries, 100, "sparse", query_nonzeros=8 * K)
    assert found["sparse-wide"] == wide.ids.tolist()
    everything = index.search(queries, 100, "asymmetric", candidates="all")
    assert found["asymmetric-all"] == everything.ids.tolist()


def test_bytes_are_what_is_held(result):
    by_name = {record.method: record for record in result.records}
    assert by_name["dense"].code_bytes == by_name["dense"].bytes_an_item == 4 * D
    code = K * (2 + 1) + 4  # Latent ids of 2 bytes, int8 values, a float32 scale.
    for name in list(METHODS)[1:]:
        assert by_name[name].code_bytes == code
    assert by_name["asymmetric-all"].bytes_an_item == code  # No lists.
    assert by_name["asymmetric"].bytes_an_item > code
    matrix, small = 4 * H * D, H * (64 + 4)  # int8 rows are padded to 64 columns.
    assert by_name["dense"].constant_bytes == 0
    assert by_name["asymmetric"].constant_bytes == small
    assert by_name["sparse"].constant_bytes == matrix + 4 * H
    assert by_name["reconstructed"].constant_bytes == 2 * matrix + 4 * H + small


def test_facts_of_the_run_are_kept(result, parts):
    about = result.about
    assert (about["items"], about["queries"], about["dim"]) == (380, 20, D)
    assert about["values"] == "int8" and about["model"]["model_id"] == parts[0].model_id
    assert about["machine"]["processors"] >= 1 and about["machine"]["numpy"] == np.__version__


def test_a_failing_method_does_not_stop_the_others(parts, monkeypatch):
    def fail(self, items, *arguments, **options):
        raise RuntimeError("no codes today")

    model, corpus, queries = parts
    monkeypatch.setattr(type(model), "compress", fail)
    records = evaluate(model, as_embeddings(corpus), queries, ["sparse", "dense"]).records
    assert records[0].error == "no codes today" and records[0].found == []
    assert records[1].error is None and np.mean(records[1].recall100) == 1


def test_progress_names_each_method(parts):
    model, corpus, queries = parts
    seen = []
    evaluate(
        model,
        as_embeddings(corpus),
        queries,
        ["dense", "sparse"],
        progress=lambda *x: seen.append(x),
    )
    assert seen == [(0, 2, "dense"), (1, 2, "sparse"), (2, 2, "")]


def test_another_width_and_bad_rows_are_refused(parts):
    model, corpus, queries = parts
    with pytest.raises(InputError, match="15 columns"):
        evaluate(model, as_embeddings(corpus[:, :15].copy()), queries[:, :15].copy())
    bad = queries.copy()
    bad[3, 2] = np.nan
    with pytest.raises(InputError, match="NaN"):
        evaluate(model, as_embeddings(corpus), bad)
