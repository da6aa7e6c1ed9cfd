import json

import numpy as np
import pytest
import torch
from code_forms import make_codes

from compressae import CompresSAE, InputError
from compressae.coding.coder import Coder
from compressae.kernels.refit import refit
from compressae.retrieval import Catalogue, CompressedIndex
from compressae.retrieval.codes.quantizer import fit_error_weighting
from compressae.retrieval.codes.sparse import SparseCodes
from compressae.retrieval.io.embeddings import unit_rows

N, D, H, K = 150, 12, 64, 5


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32) * 3


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((9, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, K, seed=1)


def dense_codes(model, x, k, refitted):
    """The code of unit rows x as a dense (m, h) float64 matrix, by the definitions."""
    pre = x @ model.encoder.detach().numpy().T + model.encoder_bias.detach().numpy()
    ids = np.argsort(-np.abs(pre), axis=1, kind="stable")[:, :k].astype(np.int32)
    values = np.take_along_axis(pre, ids, 1)
    if refitted:
        values = refit(x, ids, model.decoder.detach().numpy())
    s = np.zeros((len(x), H))
    np.put_along_axis(s, ids.astype(np.int64), values, 1)
    return s


def cosine(a, b):
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    b = b / np.linalg.norm(b, axis=1, keepdims=True)
    return a @ b.T


def item_codes(model, items, refitted):
    """Codes (m, h) whose reconstructions are of unit length, or, refitted, the projections of the
    rows in the metric."""
    metric = fit_error_weighting(items).astype(np.float64)
    weighted = model.decoder.detach().numpy() @ metric
    s, x = dense_codes(model, items, K, False), items @ metric
    if not refitted:
        return s / np.linalg.norm(s @ model.decoder.detach().numpy(), axis=1, keepdims=True)
    for i, row in enumerate(s):
        active = np.flatnonzero(row)
        s[i, active] = np.linalg.lstsq(weighted[active].T, x[i], rcond=None)[0]
        near = s[i] @ weighted
        s[i] *= (x[i] @ near) / (near @ near)
    return s


def expected_scores(model, table, queries, scoring, refitted):
    decoder = model.decoder.detach().numpy().astype(np.float64)
    items, x = unit_rows(table), unit_rows(queries)
    s = item_codes(model, items, refitted)
    if scoring == "sparse":
        return cosine(dense_codes(model, x, K, False), s)
    if scoring == "reconstructed":
        return unit_rows(dense_codes(model, x, K, refitted) @ decoder) @ (s @ decoder).T
    return x @ (s @ decoder).T


@pytest.mark.parametrize("refitted", [True, False])
@pytest.mark.parametrize("scoring", ["sparse", "reconstructed", "asymmetric"])
def test_scores_are_those_of_the_definition(model, table, queries, scoring, refitted):
    codes = make_codes(model, table, "float32", refit=refitted)
    index = CompressedIndex(model.projection, codes, projection_type="float32")
    hits = index.search(queries, N, scoring, candidates="all")
    expected = expected_scores(model, table, queries, scoring, refitted)
    assert all(sorted(ids) == list(range(N)) for ids in hits.ids)
    found = np.take_along_axis(expected, hits.ids, 1)
    np.testing.assert_allclose(hits.scores, found, atol=5e-4)
    assert (np.diff(hits.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("values", ["float32", "float16", "int8"])
def test_quantised_values_move_scores_little(model, table, queries, values):
    index = CompressedIndex(
        model.projection, make_codes(model, table, values), projection_type="float32"
    )
    hits = index.search(queries, 20)
    expected = expected_scores(model, table, queries, "asymmetric", True)
    atol = {"float32": 2e-4, "float16": 1e-3, "int8": 1.5e-2}[values]
    np.testing.assert_allclose(hits.scores, np.take_along_axis(expected, hits.ids, 1), atol=atol)


def test_int8_weights_move_scores_little(model, table, queries):
    codes = make_codes(model, table, "float32")
    exact, rounded = (
        CompressedIndex(model.projection, codes, projection_type=w) for w in ("float32", "int8")
    )
    want, got = (i.search(queries, N, candidates="all") for i in (exact, rounded))
    by_id = [np.take_along_axis(h.scores, np.argsort(h.ids, 1), 1) for h in (want, got)]
    assert 1e-6 < np.abs(by_id[0] - by_id[1]).max() < 0.01
    with pytest.raises(InputError, match="projection_type 'int4'"):
        CompressedIndex(model.projection, codes, projection_type="int4")


def test_candidates_come_from_the_largest_entries_of_the_projected_query(model, table, queries):
    """Sums over the lists are rounded: what is near the last candidate's may be in or out."""
    codes = make_codes(model, table, "float32")
    index = CompressedIndex(model.projection, codes, projection_type="float32")
    hits = index.search(queries, 20, candidates=20, query_nonzeros=8)
    projected = unit_rows(queries) @ model.decoder.detach().numpy().T
    s = codes.to_scipy().toarray()
    for q, p in enumerate(projected):
        kept = np.zeros(H)
        top = np.argsort(-np.abs(p))[:8]
        kept[top] = p[top]
        sums = s @ kept
        last = np.sort(sums)[-20]
        assert (sums[hits.ids[q]] > last - 0.02).all()
        assert np.isin(np.flatnonzero(sums > last + 0.02), hits.ids[q]).all()
        np.testing.assert_allclose(hits.scores[q], s[hits.ids[q]] @ p, atol=1e-5)


def test_batches_threads_and_query_length_do_not_matter(model, table, queries):
    codes = make_codes(model, table, "float32")
    one, two = (CompressedIndex(model.projection, codes, threads=threads) for threads in (1, 3))
    for scoring in ("sparse", "reconstructed", "asymmetric"):
        together = one.search(queries, 7, scoring, candidates=30)
        np.testing.assert_array_equal(
            together.ids, two.search(queries * 100, 7, scoring, candidates=30).ids
        )
        for q in range(len(queries)):
            alone = one.search(queries[q : q + 1], 7, scoring, candidates=30)
            np.testing.assert_array_equal(alone.ids[0], together.ids[q])


def test_queries_of_a_file_are_those_of_an_array(model, table, queries, tmp_path):
    np.save(tmp_path / "queries.npy", queries)
    index = CompressedIndex(model.projection, make_codes(model, table))
    of_array, of_file = (
        index.search(x, 7, rerank=table) for x in (queries, tmp_path / "queries.npy")
    )
    np.testing.assert_array_equal(of_array.ids, of_file.ids)
    np.testing.assert_array_equal(of_array.scores, of_file.scores)


@pytest.mark.parametrize("beside", [0, 1e-15, 1e15])
def test_a_score_does_not_depend_on_the_queries_beside_it(model, table, queries, beside):
    index = CompressedIndex(model.projection, make_codes(model, table, similarity="dot"))
    alone = index.search(queries, 7)
    for rows in (np.vstack([queries, queries[:1] * beside]), np.asfortranarray(queries)):
        hits = index.search(rows.astype(np.float32, order="K"), 7)
        np.testing.assert_allclose(
            hits.scores[9:], beside * alone.scores[: len(rows) - 9], rtol=1e-5
        )
        np.testing.assert_array_equal(hits.ids[:9], alone.ids)
        np.testing.assert_array_equal(hits.scores[:9], alone.scores)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_reranked_score_does_not_depend_on_the_other_candidates(model, table, queries, order):
    """Or a catalogue and its shards, which rerank fewer rows each, would differ by roundings."""
    index = CompressedIndex(model.projection, make_codes(model, table))
    options = {"candidates": "all", "rerank": np.array(table, order=order)}
    want = index.search(queries, N, **options)
    for count in (1, 2, 3, 5, 50):
        hits = index.search(queries, count, rerank_candidates=count, **options)
        for q in range(len(queries)):
            score = dict(zip(want.ids[q], want.scores[q], strict=True))
            assert hits.scores[q].tolist() == [score[i] for i in hits.ids[q]]


def test_more_results_than_items_are_padded(model, table, queries):
    hits = CompressedIndex(model.projection, make_codes(model, table[:3], "float32")).search(
        queries, 5
    )
    assert (hits.ids[:, 3:] == -1).all() and np.isneginf(hits.scores[:, 3:]).all()
    assert (np.sort(hits.ids[:, :3]) == [0, 1, 2]).all()


@pytest.mark.parametrize(
    "kind",
    [dict(values="float32"), dict(values="float16"), dict(values="int8"), dict(values="int2"),
     dict(values="int4", nonzeros=8), dict(budget="7 B/row")],
)  # fmt: skip
def test_a_saved_index_answers_alike(model, table, queries, kind, tmp_path):
    index = CompressedIndex(model.projection, make_codes(model, table, **kind))
    Catalogue.write(tmp_path / "index", index)
    loaded = Catalogue.open(tmp_path / "index").index
    assert len(loaded) == N and loaded.nbytes == index.nbytes
    for scoring in ("sparse", "reconstructed", "asymmetric"):
        before, after = (i.search(queries, 10, scoring) for i in (index, loaded))
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.scores, after.scores)


def test_packed_codes_answer_much_as_float_ones(model, table, queries):
    """Of every scoring: more bits come nearer, and the lists are of the packed values."""
    twin = CompresSAE(D, H, K, seed=1)
    twin.settings = {"recipe": "pursuit"}
    exact = CompressedIndex(twin.projection, make_codes(twin, table, "float32"))
    for scoring in ("sparse", "reconstructed", "asymmetric"):
        want = exact.search(queries, N, scoring, candidates="all")
        far = []
        for values in ("int4", "int2"):
            index = CompressedIndex(twin.projection, make_codes(twin, table, values))
            got = index.search(queries, N, scoring, candidates="all")
            by_id = [np.take_along_axis(h.scores, np.argsort(h.ids, 1), 1) for h in (want, got)]
            far.append(np.abs(by_id[0] - by_id[1]).mean())
        assert far[0] < far[1] < 0.2 and far[0] < 0.05


def test_codes_of_another_model_are_refused(model, table):
    with pytest.raises(InputError, match="give the model that encoded them"):
        CompressedIndex(CompresSAE(D, H, K, seed=2).projection, make_codes(model, table, "float32"))
    with pytest.raises(InputError, match="CompresSAE; expected a Projection: model.projection"):
        CompressedIndex(model, make_codes(model, table, "float32"))


def test_an_index_of_two_models_is_refused(model, table, tmp_path):
    Catalogue.write(tmp_path / "index", CompressedIndex(model.projection, make_codes(model, table)))
    other = CompresSAE(D, H, K, seed=2)
    Catalogue.write(tmp_path / "other", CompressedIndex(other.projection, make_codes(other, table)))
    config = (tmp_path / "index" / "config.json").read_text()
    mixed = json.loads(config.replace(model.model_id, other.model_id))
    (tmp_path / "index" / "config.json").write_text(json.dumps({**mixed, "checksum": None}))
    with pytest.raises(InputError, match="give the model that encoded them"):
        Catalogue.open(tmp_path / "index")


def test_bad_queries_and_settings_are_refused(model, table, queries):
    index = CompressedIndex(model.projection, make_codes(model, table, "float32"))
    with pytest.raises(InputError, match="rows of 11 columns; expected 12"):
        index.search(queries[:, :11], 5)
    bad = queries.copy()
    bad[4, 0] = np.nan
    with pytest.raises(InputError, match="row 4 holds NaN"):
        index.search(bad, 5)
    with pytest.raises(InputError, match="row 2 is all zeros"):
        index.search(np.concatenate([queries[:2], np.zeros((1, D), np.float32)]), 5)
    with pytest.raises(InputError, match="K = 0"):
        index.search(queries, 0)
    with pytest.raises(InputError, match="4 candidates for 5 results"):
        index.search(queries, 5, candidates=4)
    with pytest.raises(InputError, match="scoring 'cosine': expected one of"):
        index.search(queries, 5, scoring="cosine")
    with pytest.raises(InputError, match="65 query nonzeros"):
        index.search(queries, 5, query_nonzeros=65)


def test_compressed_rows_reconstruct_to_a_projection_in_order(model, table):
    seen, x = [], unit_rows(table)
    metric = fit_error_weighting(x)
    for values, atol in (("float32", 1e-4), ("float16", 1e-3), ("int8", 1e-4)):
        codes = make_codes(model, table, values, progress=lambda done, n: seen.append((done, n)))
        near = codes.to_scipy() @ model.decoder.detach().numpy() @ metric
        np.testing.assert_allclose((near * (x @ metric - near)).sum(1), 0, atol=atol)
        sizes = np.abs(codes.row_values().reshape(N, K))
        assert (np.diff(sizes, axis=1) <= 0).all()
    assert seen == [(N, N)] * 3


def test_refit_and_pursuit_lower_the_weighted_error(model, table):
    x = unit_rows(table)
    coder = Coder(model, fit_error_weighting(x), pursuit=True)
    decoder = coder.weighted_decoder

    def errors(ids, values):
        s = SparseCodes.from_rows(ids, values, H).to_scipy()
        return np.linalg.norm(x @ coder.error_weighting - s @ decoder, axis=1)

    plain, refitted = (
        np.linalg.norm(
            x @ coder.error_weighting
            - make_codes(model, table, "float32", refit=choice).to_scipy() @ decoder,
            axis=1,
        )
        for choice in (False, True)
    )
    assert (refitted <= plain + 1e-3).all() and refitted.mean() < 0.97 * plain.mean()
    assert errors(*coder.code(x, K)).mean() < 0.97 * refitted.mean()


def test_the_papers_recipe_is_not_refitted_unless_asked(table):
    paper = CompresSAE(D, H, K)
    paper.settings = {"recipe": "paper"}
    assert not make_codes(paper, table, "float32").settings["refit"]
    assert make_codes(paper, table, "float32", refit=True).settings["refit"]
    assert make_codes(CompresSAE(D, H, K), table, "float32").settings["refit"]


def test_compress_in_small_batches_gives_the_same_codes(model, table, monkeypatch):
    whole = make_codes(model, table, "float32")
    monkeypatch.setattr("compressae.coding.fit._ACTIVATIONS", 7 * H)
    parts = make_codes(model, table, "float32")
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_allclose(whole.values, parts.values, atol=1e-5)


def test_compress_refuses_other_widths_and_counts(model, table):
    with pytest.raises(InputError, match="rows of 11 columns, but the model was trained on 12"):
        make_codes(model, table[:, :11])
    with pytest.raises(InputError, match="65 nonzeros: expected 1 to 64"):
        make_codes(model, table, "float32", nonzeros=65)
    with torch.no_grad():
        assert make_codes(model, table, "float32", nonzeros=64).uniform == 64


@pytest.mark.parametrize("scoring", ["sparse", "reconstructed", "asymmetric"])
@pytest.mark.parametrize("candidates", [120, "all"])
def test_equal_scores_go_to_the_smaller_id(model, table, queries, scoring, candidates):
    """Every item stands three times, so that every score comes three times."""
    once = make_codes(model, table[:50], "float32")
    codes = SparseCodes.from_rows(
        np.tile(once.indices.reshape(50, K), (3, 1)),
        np.tile(once.values.reshape(50, K), (3, 1)),
        H,
        model_id=model.model_id,
        settings=once.settings,
    )
    hits = CompressedIndex(model.projection, codes).search(queries, 30, scoring, candidates)
    for ids, scores in zip(hits.ids, hits.scores, strict=True):
        order = np.lexsort([ids, -scores])
        np.testing.assert_array_equal(order, np.arange(30))
        assert len(np.unique(scores)) <= 10 + 1
