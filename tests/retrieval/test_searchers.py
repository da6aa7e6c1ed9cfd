"""One contract for every searcher."""

import numpy as np
import pytest

from compressae import CompresSAE, InputError, compress, encode
from compressae.kernels.backend import use
from compressae.retrieval import CompressedIndex, ExactIndex, GpuIndex
from compressae.retrieval.baselines import BASELINES, QUANTISERS, build

pytest.importorskip("faiss", reason="needs faiss, which most baselines are of")

N, D = 600, 16
#: Searchers that may leave out items, because they do not look at all of them.
LOOK_AT_SOME = {"hnsw", "annoy", "ivf-pq"}
#: Library that a baseline needs beside faiss.
LIBRARY = {
    "annoy": "annoy",
    "rabitqlib": "rabitqlib",
    "scann": "scann",
    "turboquant": "turbovec",
}


def compressed(items, codes_of=compress, **form):
    model = CompresSAE(D, 64, 6, seed=0)
    return CompressedIndex(model.projection, codes_of(model, items, **form))


def baseline(name):
    size = 2 if name in ("rq", "prq", "lsq") else 8  # Their codebooks take long to train.
    settings = {"code_bytes": size} if "code_bytes" in BASELINES[name].settings() else {}
    return lambda items: build(name, items, **settings)


SEARCHERS = {
    "exact": ExactIndex,
    "compressed": lambda items: compressed(items, encode),
    "packed": lambda items: compressed(items, budget="9 B/row"),
    **{name: baseline(name) for name in BASELINES},
}


@pytest.fixture(scope="module")
def rows():
    """(items (n, d), queries (6, d))."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, D))
    drawn = centres[rng.integers(0, 60, N + 6)] + 0.4 * rng.standard_normal((N + 6, D))
    items, queries = np.split(drawn.astype(np.float32), [N])
    return items * 3, queries


@pytest.fixture(scope="module")
def built(rows):
    """Each searcher, built when first asked for."""
    made = {}

    def get(name):
        if name in LIBRARY:
            library = LIBRARY[name]
            pytest.importorskip(library, reason=f"needs {library} (pip install {library})")
        if name not in made:
            made[name] = SEARCHERS[name](rows[0])
        return made[name]

    return get


@pytest.mark.parametrize("name", SEARCHERS)
def test_contract_of_every_searcher(name, built, rows):
    queries = rows[1]
    searcher = built(name)
    assert len(searcher) == N and searcher.nbytes > 0
    hits = searcher.search(queries, N + 10)
    assert hits.ids.shape == hits.scores.shape == (6, N + 10)
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float32
    assert (hits.ids[:, N:] == -1).all()
    for ids, scores in zip(hits.ids, hits.scores, strict=True):
        found = int((ids >= 0).sum())
        assert (ids[:found] >= 0).all() and len(set(ids[:found])) == found
        assert found == N or (name in LOOK_AT_SOME and found > 100)
        assert (ids[:found] < N).all() and np.isneginf(scores[found:]).all()
        assert (np.diff(scores[:found]) <= 0).all()
        level = np.flatnonzero(np.diff(scores[:found]) == 0)
        assert (ids[level] < ids[level + 1]).all()  # Ties go to the smaller id.
    few = searcher.search(queries, 5)
    for q in range(6):
        alone = searcher.search(queries[q : q + 1], 5)
        np.testing.assert_array_equal(alone.ids[0], few.ids[q])
        np.testing.assert_allclose(alone.scores[0], few.scores[q], rtol=1e-5)
    if name not in LOOK_AT_SOME:
        np.testing.assert_allclose(few.scores, hits.scores[:, :5], rtol=1e-5)
    for bad, message in ((queries[:, :7], "7 columns; expected 16"), (queries * 0, "all zeros")):
        with pytest.raises(InputError, match=message):
            searcher.search(bad, 5)
    with pytest.raises(InputError, match="K = 0"):
        searcher.search(queries, 0)


def test_contract_of_a_gpu_index(device, rows):
    """The part that Triton's interpreter is fast enough for."""
    queries = rows[1][:2]
    with use("auto"):  # Coded on the CPU.
        index = compressed(rows[0], budget="9 B/row")
    gpu = GpuIndex(index, device)
    assert len(gpu) == N and gpu.nbytes > 0
    hits, few = gpu.search(queries, N + 10), gpu.search(queries, 5)
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float32
    for ids, scores in zip(hits.ids, hits.scores, strict=True):
        np.testing.assert_array_equal(np.sort(ids[:N]), np.arange(N))
        assert (ids[N:] == -1).all() and np.isneginf(scores[N:]).all()
        np.testing.assert_array_equal(np.lexsort([ids[:N], -scores[:N]]), np.arange(N))
    np.testing.assert_array_equal(few.ids, hits.ids[:, :5])
    alone = gpu.search(queries[1:], 5)
    np.testing.assert_array_equal(alone.ids[0], few.ids[1])
    np.testing.assert_allclose(alone.scores[0], few.scores[1], rtol=1e-5)
    for bad, message in ((queries[:, :7], "7 columns; expected 16"), (queries * 0, "all zeros")):
        with pytest.raises(InputError, match=message):
            gpu.search(bad, 5)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_says_what_it_holds(name, built):
    searcher = built(name)
    whole = {
        "dense": 64,
        "float16": 32,
        "int8": 16,
        "int4": 8,
        "binary": 2,
        "hnsw": 64,
        "annoy": 64,
        "rabitq": 10,
        "rabitqlib": 24,
    }
    row = searcher.code_nbytes / N
    assert row <= 8 if name not in whole else row == whole[name]
    assert searcher.nbytes >= searcher.code_nbytes and searcher.constant_nbytes >= 0
    quantisers = {name for name, entry in BASELINES.items() if entry.family == QUANTISERS}
    learns = quantisers | {"int8", "int4", "pca", "pca-int8", "ivf-pq"}
    assert searcher.trained_rows == (N if name in learns else 0)


def test_an_unknown_name_or_setting_is_named():
    with pytest.raises(InputError, match="baseline 'magic': expected one of dense, float16"):
        build("magic", np.ones((3, 4), np.float32))
    with pytest.raises(InputError, match="pq has no setting 'bits'; it has code_bytes, train_rows"):
        build("pq", np.ones((3, 4), np.float32), bits=3)
    with pytest.raises(InputError, match="int8 has no setting 'kind'; it has train_rows"):
        build("int8", np.ones((3, 4), np.float32), kind="int4")
