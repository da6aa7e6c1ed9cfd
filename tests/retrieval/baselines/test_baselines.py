"""Baselines against the libraries used directly, and against plain numpy."""

import builtins
import os
import tempfile

import numpy as np
import pytest
from factor_tables import factors

from compressae import InputError
from compressae.retrieval import exact_search, recall_at
from compressae.retrieval.baselines import BASELINES, build
from compressae.retrieval.baselines.lengths import WithLengths
from compressae.retrieval.baselines.norm_explicit import Lengths, length_ratios
from compressae.retrieval.baselines.partitions import partitions
from compressae.retrieval.baselines.weighted import Weighted
from compressae.retrieval.codes.residual import principal_parts
from compressae.retrieval.io.embeddings import as_embeddings

faiss = pytest.importorskip("faiss", reason="needs faiss, which most baselines are of")

N, D = 2000, 16


@pytest.fixture(scope="module")
def rows():
    """(unit items (n, d), unit queries (200, d), truth (200, 100))."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((80, D))
    drawn = centres[rng.integers(0, 80, N + 200)] + 0.5 * rng.standard_normal((N + 200, D))
    drawn = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    items, queries = np.split(drawn, [N])
    return items, queries, exact_search(items, queries, 100).ids


def factory(spec, set_up=lambda index: None):
    def run(items, queries):
        index = faiss.index_factory(D, spec, faiss.METRIC_INNER_PRODUCT)
        set_up(index)
        index.train(items)
        empty = len(faiss.serialize_index(index))
        index.add(items)
        return index.search(queries, 100)[1], (len(faiss.serialize_index(index)) - empty) / N

    return run


def opq(iterations):
    """faiss's own OPQ, whose rotation starts at the principal axes in parts of equal products."""

    def run(items, queries):
        def start(index):
            rotation = faiss.downcast_VectorTransform(index.chain.at(0))
            rotation.niter = iterations
            faiss.copy_array_to_vector(principal_parts(items, 4).T.ravel(), rotation.A)

        return factory("OPQ4,PQ4np", start)(items, queries)

    return run


def hnsw(items, queries):
    index = faiss.IndexHNSWFlat(D, 8, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 60, 120
    index.add(items)
    links = index.hnsw.neighbors.size() * 4 + index.hnsw.offsets.size() * 8
    return index.search(queries, 100)[1], 4 * D + links / N + 4


def annoy(items, queries):
    package = pytest.importorskip("annoy", reason="needs annoy (pip install)")
    index = package.AnnoyIndex(D, "angular")
    index.set_seed(0)
    for i, row in enumerate(items):
        index.add_item(i, row)
    index.build(10)
    found = [index.get_nns_by_vector(query, 100, 500) for query in queries]
    with tempfile.TemporaryDirectory() as folder:
        index.save(f"{folder}/annoy")
        return np.array(found), os.stat(f"{folder}/annoy").st_size / N


def greedy(index):
    index.rq.max_beam_size = 1


def scann(items, queries):
    package = pytest.importorskip("scann", reason="needs scann (pip install scann)")
    builder = package.scann_ops_pybind.builder(items, 10, "dot_product")
    index = builder.score_ah(
        2, anisotropic_quantization_threshold=0.2, hash_type="lut256", training_sample_size=N
    ).build()
    return index.search_batched(queries, final_num_neighbors=100)[0].astype(np.int64), 8


def turboquant(items, queries):
    package = pytest.importorskip("turbovec", reason="needs turbovec (pip install turbovec)")
    index = package.TurboQuantIndex(D, 4)
    index.calibrate(items)
    empty = len(index.to_bytes())
    index.add(items)
    return index.search(queries, 100)[1], (len(index.to_bytes()) - empty) / N


def rabitqlib(items, queries):
    """4 bits around one centroid, by the library's own file."""
    package = pytest.importorskip("rabitqlib", reason="needs rabitqlib (pip install rabitqlib)")
    wide = [np.pad(x, ((0, 0), (0, 64 - D))) for x in (items, queries)]
    index = package.IvfIndex(64, N, 1, 4, metric="ip")
    index.build(wide[0], wide[0].mean(0, keepdims=True), np.zeros(N, np.uint32))
    return index.search(wide[1], 100, 1)[0].astype(np.int64), 64 * 4 / 8 + 24


def probe(index):
    index.nprobe = 4


DIRECTLY = {
    "float16": ({}, factory("SQfp16")),
    "int8": ({}, factory("SQ8")),
    "int4": ({}, factory("SQ4")),
    "pq": ({"code_bytes": 8}, factory("PQ8np")),
    "opq": ({"code_bytes": 4}, opq(0)),
    "opq, iterated": ({"code_bytes": 4, "iterations": 10}, opq(10)),
    "rq": ({"code_bytes": 4}, factory("RQ4x8")),
    "rq, greedy": ({"code_bytes": 4, "beam": 1}, factory("RQ4x8", greedy)),
    "prq": ({"code_bytes": 3}, factory("PRQ1x3x8")),
    "lsq": ({"code_bytes": 3}, factory("PLSQ1x3x8")),
    "scann": ({"code_bytes": 8}, scann),
    "rabitqlib": ({"code_bytes": 60, "lists": 1}, rabitqlib),
    "turboquant": ({"code_bytes": 12}, turboquant),
    "rabitq": ({"code_bytes": 12}, factory("RR16,RaBitQ")),
    "ivf-pq": ({"code_bytes": 4, "lists": 16, "nprobe": 4}, factory("IVF16,PQ8x4fs", probe)),
    "hnsw": ({"links": 8, "ef": 120, "ef_construction": 60}, hnsw),
    "annoy": ({"trees": 10, "search_k": 500}, annoy),
}


@pytest.mark.parametrize("name", DIRECTLY)
def test_recall_and_bytes_are_those_of_the_library(name, rows):
    items, queries, truth = rows
    settings, directly = DIRECTLY[name]
    ids, held = directly(items, queries)
    searcher = build(name.split(",")[0], 5 * items, **settings)  # Lengths do not matter.
    found = searcher.search(2 * queries, 100).ids
    # Other rotations; another summation.
    close = 0.02 if name in ("rabitq", "rabitqlib", "rq", "rq, greedy", "prq", "lsq") else 0.003
    assert recall_at(found, truth, 100) == pytest.approx(recall_at(ids, truth, 100), abs=close)
    assert 0.4 < recall_at(found, truth, 100) <= 1
    assert searcher.nbytes / N == pytest.approx(held, abs=0.1)
    if name in ("hnsw", "annoy", "float16"):  # They hold the rows: scores are cosines.
        hits = searcher.search(queries[:20], 10)
        cosines = np.take_along_axis(queries[:20] @ items.T, hits.ids, 1)
        np.testing.assert_allclose(hits.scores, cosines, atol=2e-3)


@pytest.mark.parametrize(("axes", "values"), [("given", "float32"), ("principal", "float16")])
def test_fewer_dimensions_are_their_cosine(axes, values, rows):
    items, queries, _ = rows
    name = {"given": "truncate", "principal": "pca"}[axes]
    width = {"float32": 4, "float16": 2}[values]
    searcher = build(name, items, code_bytes=6 * width + 1, values=values)
    assert searcher.code_nbytes == 6 * width * N
    turn = np.eye(D)
    if axes == "principal":
        turn = np.linalg.svd(items - items.mean(0), full_matrices=False)[2].T
    kept = [x @ turn[:, :6] for x in (queries, items)]
    kept = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in kept]
    cosine = kept[0] @ kept[1].T
    hits = searcher.search(queries, 10)
    np.testing.assert_allclose(hits.scores, -np.sort(-cosine, axis=1)[:, :10], atol=2e-3)
    everything = build(name, items, code_bytes=10_000)
    assert everything.code_nbytes == 4 * D * N
    assert recall_at(everything.search(queries, 100).ids, rows[2], 100) > 0.999


def test_components_in_eight_bits_are_near_those_in_floats(rows):
    items, queries, _ = rows
    small = build("pca-int8", items, code_bytes=8).search(queries, 20)
    large = build("pca", items, code_bytes=32).search(queries, 20)
    np.testing.assert_allclose(small.scores, large.scores, atol=0.03)
    assert recall_at(small.ids, large.ids, 20) > 0.9


def test_components_of_a_sample_do_not_overflow_eight_bits(rows):
    items, queries, _ = rows
    order = np.argsort(np.abs(items).max(1))  # The rows of the sample have small components.
    drawn = np.random.default_rng(0).permutation(N)
    shuffled = np.empty_like(items)
    shuffled[drawn] = items[order]
    searcher = build("pca-int8", shuffled, code_bytes=8, train_rows=300)
    assert searcher.trained_rows == 300
    whole = build("pca", shuffled, code_bytes=32, train_rows=300)
    small, large = searcher.search(queries, 20), whole.search(queries, 20)
    assert recall_at(small.ids, large.ids, 20) > 0.75


def test_rows_without_anything_in_the_kept_dimensions_stay_finite():
    items = np.zeros((300, 8), np.float32)
    items[:, 7] = 1
    hits = build("truncate", items, code_bytes=16).search(items[:2], 5)
    assert (hits.scores == 0).all() and hits.ids.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_binary_scores_are_products_with_signs(rows):
    items, queries, _ = rows
    hits = build("binary", items).search(queries, 10)
    expected = queries @ np.where(items > 0, 1, -1).T / np.sqrt(D)
    np.testing.assert_allclose(hits.scores, -np.sort(-expected, axis=1)[:, :10], atol=1e-5)


def one_hot(found, n):
    """The design matrix (n, Σ sizes) of additive tables."""
    picks = found.classes(np.arange(n))
    return np.concatenate(
        [np.eye(size)[pick] for size, pick in zip(found.sizes, picks, strict=True)], axis=1
    )


@pytest.mark.parametrize("name", ["qr-add", "mixed-radix", "chinese-remainder", "hashing"])
def test_added_tables_are_the_least_squares_solution(name, rows):
    items = rows[0][:500]
    searcher = build(name, items, code_bytes=10, sweeps=60)
    design = one_hot(searcher.partitions, 500)
    best = design @ np.linalg.lstsq(design, items, rcond=None)[0]
    np.testing.assert_allclose(searcher.decode(0, 500), best, atol=2e-3)
    assert searcher.nbytes <= 10 * 500
    hits = searcher.search(rows[1], 10)
    expected = -np.sort(-(rows[1] @ best.T), axis=1)[:, :10]
    np.testing.assert_allclose(hits.scores, expected, atol=5e-3)


def test_joined_tables_are_means(rows):
    items = rows[0][:500]
    searcher = build("qr-concat", items, code_bytes=10)
    first, second = searcher.partitions.classes(np.arange(500))
    for i in (0, 17, 499):
        joined = [items[first == first[i], :8].mean(0), items[second == second[i], 8:].mean(0)]
        np.testing.assert_allclose(searcher.decode(i, i + 1)[0], np.concatenate(joined), rtol=1e-4)


def test_multiplied_tables_reach_the_best_product_of_a_full_grid():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((30, 1, 4)), rng.standard_normal((1, 20, 4))
    rows = (left * right + 0.1 * rng.standard_normal((30, 20, 4))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    items = np.ascontiguousarray(rows.transpose(1, 0, 2).reshape(600, 4))  # Row i: i % 30, i // 30.
    searcher = build("qr-product", items, code_bytes=50 * 16 / 600 + 0.001, sweeps=60)
    assert searcher.partitions.sizes == (30, 20)
    lost = np.square(searcher.decode(0, 600) - items).sum(0)
    for e in range(4):  # Of each dimension, the best is the first singular pair.
        singular = np.linalg.svd(rows[:, :, e], compute_uv=False)
        assert lost[e] == pytest.approx(np.square(singular[1:]).sum(), rel=0.02)


@pytest.mark.parametrize("kind", ["quotient-remainder", "mixed-radix", "chinese-remainder"])
@pytest.mark.parametrize(("n", "rows"), [(1, 4), (7, 9), (500, 60), (1000, 300), (19_000, 395)])
def test_partitions_tell_all_rows_apart(kind, n, rows):
    parts = 3 if kind == "mixed-radix" else 2
    found = partitions(kind, n, parts, rows)
    assert len(found.sizes) == parts and sum(found.sizes) <= rows
    picks = np.stack(found.classes(np.arange(n)), axis=1)
    assert len(np.unique(picks, axis=0)) == n
    assert (picks >= 0).all() and (picks < found.sizes).all()


@pytest.mark.parametrize(("d", "given", "size"), [(384, 64, 64), (384, 100, 96), (16, 9, 9)])
def test_parts_of_additive_quantisers_are_equal(d, given, size):
    for name in ("prq", "lsq"):
        assert BASELINES[name].code_size(d, {"code_bytes": given}) == size


def test_parts_of_a_row_are_quantised_apart(rows):
    """Two parts of 8 stages: their codebooks see half of the dimensions each."""
    items = rows[0][:400]
    searcher = build("prq", items, code_bytes=17, beam=1)
    assert searcher.code_nbytes == 16 * 400
    assert searcher.constant_nbytes == 4 * 256 * 16 * 8 + 4 * 16 * 16


def test_too_few_rows_or_bytes_are_refused(monkeypatch):
    rng = np.random.default_rng(0)
    items = rng.standard_normal((200, 16)).astype(np.float32)
    for name in ("pq", "opq", "rq", "prq", "lsq", "scann"):
        with pytest.raises(InputError, match="200 rows to train on; this needs at least 256"):
            build(name, items)
    with pytest.raises(InputError, match="tell 200 rows apart; give more"):
        build("qr-add", items, code_bytes=8)
    with pytest.raises(InputError, match="3 bytes a row: expected at least 4, one float32"):
        build("pca", items, code_bytes=3)
    wrong = {
        "truncate": {"values": "int4"},
        "pq": {"code_bytes": 0},
        "rq": {"beam": 0},
        "prq": {"beam": 0},
        "lsq": {"code_bytes": 0},
        "rabitqlib": {"lists": 0},
        "turboquant": {"code_bytes": 0},
        "rabitq": {"code_bytes": 0},
        "ivf-pq": {"nprobe": 0},
        "hnsw": {"ef": 0},
        "annoy": {"trees": 0},
        "mixed-radix": {"combine": "sum"},
    }
    for name, settings in wrong.items():
        with pytest.raises(InputError, match="expected"):
            build(name, np.tile(items, (2, 1)), **settings)
    importing = builtins.__import__

    def without(name, *arguments, **more):
        if name in ("annoy", "rabitqlib", "scann", "turbovec"):
            raise ImportError
        return importing(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in ("annoy", "rabitqlib", "scann", "turboquant"):
        with pytest.raises(InputError, match=r"pip install 'compressae\[baselines\]'"):
            build(name, np.tile(items, (2, 1)))


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "annoy"])
def test_dot_products_are_those_of_rows_with_their_lengths(name):
    """Every method finds more of the dot product's results than of the cosine's."""
    items, users = factors(2000)
    table = as_embeddings(items[1:-1]).compared_by("dot")
    known = BASELINES[name].settings()
    sizes = {"binary": 32, "pca": 32, "rq": 4, "prq": 4, "lsq": 2}
    quick = {"code_bytes": sizes.get(name, 16), "iterations": 4}
    settings = {setting: value for setting, value in quick.items() if setting in known}
    hits = build(name, table, **settings).search(users, 10)
    truth, cosine = (exact_search(items[1:-1], users, 10, s).ids for s in ("dot", "cosine"))
    assert recall_at(hits.ids, truth, 10) > recall_at(hits.ids, cosine, 10)
    scores = np.take_along_axis(users @ items[1:-1].T, hits.ids, 1)
    assert np.corrcoef(hits.scores.ravel(), scores.ravel())[0, 1] > 0.3


def test_annoy_by_dot_product():
    pytest.importorskip("annoy", reason="needs annoy (pip install)")
    items, users = factors(2000)
    hits = build("annoy", as_embeddings(items).compared_by("dot"), search_k=50_000).search(
        users, 10
    )
    assert recall_at(hits.ids, exact_search(items, users, 10, "dot").ids, 10) > 0.9


@pytest.mark.parametrize("name", ["dense", "int8", "pq", "ne-pq", "hnsw"])
def test_rows_of_zeros_are_allowed_for_dot_products_alone(name):
    items, users = factors(2000)
    settings = {"code_bytes": 9} if "code_bytes" in BASELINES[name].settings() else {}
    with pytest.raises(InputError, match="is all zeros"):
        build(name, items, **settings)
    table = as_embeddings(items).compared_by("dot")
    assert len(build(name, table, **settings).search(users, 5).ids) == len(users)


def test_a_byte_for_the_norm_is_better_than_none():
    """Norm-explicit PQ at the same bytes, on rows of very different lengths."""
    items, users = factors(3000)
    table, truth = (
        as_embeddings(items).compared_by("dot"),
        exact_search(items, users, 10, "dot").ids,
    )
    plain = build("pq", table, code_bytes=8).search(users, 10)
    explicit = build("ne-pq", table, code_bytes=9)
    assert explicit.code_nbytes == 9 * 3000 and explicit.trained_rows == 3000
    assert recall_at(explicit.search(users, 10).ids, truth, 10) > recall_at(plain.ids, truth, 10)
    with pytest.raises(InputError, match="expected at least 2, one for the norm"):
        build("ne-pq", table, code_bytes=1)


@pytest.mark.parametrize("name", ["pq", "opq", "rq", "prq"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_byte_for_the_length_brings_rows_to_theirs(rows, name, weighted):
    items, queries, truth = rows
    weighting = np.diag(np.linspace(0.5, 2, D)).astype(np.float32)

    def plain(table):
        if weighted:
            return Weighted(lambda rows: build(name, rows, code_bytes=4), table, weighting)
        return build(name, table, code_bytes=4)

    quantizer = plain(items)
    with_lengths = WithLengths(quantizer, items)
    assert with_lengths.code_nbytes == 5 * N == with_lengths.nbytes
    assert with_lengths.constant_nbytes == quantizer.constant_nbytes + 4 * 256
    assert with_lengths.trained_rows == quantizer.trained_rows == N
    decoded = with_lengths.decode(0, N)
    index = quantizer.baseline.index if weighted else quantizer.index
    alone = index.reconstruct_n(0, N)
    alone = alone @ np.linalg.inv(weighting) if weighted else alone
    assert np.abs(np.linalg.norm(alone, axis=1) - 1).max() > 0.05
    errors = np.abs(np.linalg.norm(decoded, axis=1) - 1)
    assert errors.mean() < 0.003 and errors.max() < 0.1
    lengths = np.linalg.norm(decoded, axis=1) * np.linalg.norm(alone, axis=1)
    np.testing.assert_allclose((decoded * alone).sum(1), lengths, rtol=1e-4)  # Directions stay.
    found = with_lengths.search(queries, 100).ids
    best = np.argsort(-queries @ decoded.T, axis=1, kind="stable")[:, :100]
    assert recall_at(found, best, 100) > 0.999
    assert recall_at(found, truth, 100) > recall_at(quantizer.search(queries, 100).ids, truth, 100)


def test_a_byte_for_the_length_of_rows_compared_by_dot_product():
    items = factors(600, 8)[0]
    table = as_embeddings(items).compared_by("dot")
    decoded = WithLengths(build("pq", table, code_bytes=4), table).decode(0, len(items))
    lengths = np.linalg.norm(items, axis=1)
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), lengths, rtol=0.05)


def test_lengths_in_a_byte():
    lengths = np.exp(np.random.default_rng(0).standard_normal(5000) * 0.3)
    fitted = Lengths(np.append(lengths, 0))
    np.testing.assert_allclose(fitted.levels[fitted.encode(lengths)], lengths, rtol=0.1)
    error = np.abs(fitted.levels[fitted.encode(lengths)] / lengths - 1)
    assert error.mean() < 0.003
    # 0 stays 0, and nothing else is 0; without any length all are.
    tiny = np.array([0, 1e-9, 1e9])
    assert fitted.encode(tiny).tolist() == [0, 1, 255]
    assert (Lengths(np.zeros(3)).levels == 0).all()


def test_a_direction_of_zeros_has_no_length():
    ratios = length_ratios(np.array([1, 2, 0]), np.array([[3, 4], [0, 0], [1, 0]], np.float32))
    assert ratios.tolist() == [np.float32(0.2), 0, 0]
