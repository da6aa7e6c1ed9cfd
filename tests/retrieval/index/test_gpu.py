"""A GpuIndex answers as the index that it was made of."""

import numpy as np
import pytest
import torch
from code_forms import make_codes
from scipy import sparse

from compressae import CompresSAE, InputError, encode_like
from compressae.kernels.backend import use
from compressae.kernels.scan import SCAN_BLOCK
from compressae.kernels.sketch import BLOCK
from compressae.retrieval import CompressedIndex, GpuIndex
from compressae.retrieval.index.sketch import Sketch
from compressae.retrieval.io.embeddings import unit_rows

N, D, H, K = 600, 12, 64, 5


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32) * 3


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((2, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, K, seed=1)


FORMS = {
    "float32": dict(values="float32"),
    "int8": dict(values="int8"),
    "int4": dict(values="int4"),
    "residual": dict(values="int4", residual_bytes=3),
    "budget": dict(budget="7 B/row"),
}


@pytest.fixture(scope="module")
def indexes(model, table):
    """An index of each form of codes, made when it is first asked for."""

    class Made(dict):
        def __missing__(self, name):
            if "residual_bytes" in FORMS[name]:
                pytest.importorskip("faiss", reason="needs faiss, which trains residual codes")
            with use("auto"):  # On the CPU.
                codes = make_codes(model, table, **FORMS[name], device="cpu")
                self[name] = CompressedIndex(model.projection, codes, projection_type="float32")
            return self[name]

    return Made()


def on_cpu(index, *search, **settings):
    """What the index itself finds, by all its rows."""
    with use("numba"):
        return index.search(*search, candidates="all", **settings)


def check(found, expected):
    """The same scores, and the same ids where these are apart."""
    np.testing.assert_array_equal(found.ids >= 0, expected.ids >= 0)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
    padded = np.pad(np.maximum(expected.scores, -9), ((0, 0), (1, 0)), constant_values=9)
    gaps = -np.diff(padded, axis=1)
    clear = (gaps > 1e-5) & (np.pad(gaps[:, 1:], ((0, 0), (0, 1))) > 1e-5)
    np.testing.assert_array_equal(found.ids[clear], expected.ids[clear])
    assert clear.any()


@pytest.mark.parametrize("scoring", ["asymmetric", "reconstructed", "sparse"])
@pytest.mark.parametrize("form", FORMS)
def test_it_answers_as_the_index(indexes, queries, device, form, scoring):
    gpu = GpuIndex(indexes[form], device)
    assert isinstance(gpu, GpuIndex) and len(gpu) == N
    check(gpu.search(queries, 20, scoring), on_cpu(indexes[form], queries, 20, scoring))


def test_ids_equal_those_of_float64(model, indexes, queries, device):
    index = indexes["float32"]
    s = index.codes.to_scipy().toarray().astype(np.float64)
    exact = unit_rows(queries) @ model.decoder.detach().numpy().astype(np.float64).T @ s.T
    order = np.argsort(-exact, axis=1)[:, :30]
    assert (np.diff(np.take_along_axis(exact, order, 1), axis=1) < -1e-6).all()
    hits = GpuIndex(index, device).search(queries, 30)
    np.testing.assert_array_equal(hits.ids, order)


def test_one_query_alone_is_found_as_among_others(indexes, queries, device):
    """On a GPU by a graph, one for each number of results; some are made anew."""
    gpu = GpuIndex(indexes["int8"], device)
    together = gpu.search(queries, 9)
    for count in (1, 2, 3, 4, 5, 9, 1) if device == "cuda" else (3,):
        for i in range(2):
            alone = gpu.search(queries[i : i + 1], count)
            np.testing.assert_array_equal(alone.ids[0], together.ids[i, :count])
            np.testing.assert_allclose(alone.scores[0], together.scores[i, :count], rtol=1e-5)


@pytest.mark.parametrize("candidates", [None, 16])
def test_batches_of_all_sizes_and_exclusions(indexes, table, device, candidates):
    """On a GPU by graphs of rounded sizes, which serve fewer queries too."""
    gpu, asked = GpuIndex(indexes["int8"], device), table[: 70 if device == "cuda" else 5]
    every = gpu.search(asked, 12, candidates=candidates)
    for count in (1, 2, 3, 33, 64, 65, 5) if device == "cuda" else (3,):
        some = gpu.search(asked[:count], 12, candidates=candidates)
        np.testing.assert_array_equal(some.ids, every.ids[:count])
        np.testing.assert_allclose(some.scores, every.scores[:count], rtol=1e-5)
    seen = [own[: i % 4] for i, own in enumerate(every.ids)]  # The best results of each.
    pairs = sparse.lil_array((len(asked), N), dtype=bool)
    for i, own in enumerate(seen):
        pairs[i, own] = True
    others = gpu.search(asked, 8, candidates=candidates, exclude=pairs.tocsr())
    assert (others.ids >= 0).all()
    for own, left_out in zip(others.ids, seen, strict=True):
        assert not set(own) & set(left_out)
    if candidates is None:
        for i, own in enumerate(others.ids):
            np.testing.assert_array_equal(own, every.ids[i, i % 4 :][:8])


def test_candidates_come_from_sketches(indexes, queries, device):
    """The best rows of some blocks, exactly scored; the best row of all is among them."""
    index, gpu = indexes["residual"], GpuIndex(indexes["residual"], device)
    query, before = queries[:1], gpu.nbytes
    found = gpu.search(query, 5, candidates=6)
    assert gpu.nbytes == before + Sketch.nbytes_of(N, D, False)
    chosen = gpu._sketch.best_blocks(torch.from_numpy(unit_rows(query)).to(device), 6, None)
    every = on_cpu(index, query, N)
    within = np.isin(every.ids[0] // BLOCK, chosen.cpu().numpy())
    assert within.sum() <= 6 * BLOCK and found.ids[0, 0] == every.ids[0, 0]
    np.testing.assert_array_equal(found.ids[0], every.ids[0, within][:5])
    np.testing.assert_allclose(found.scores[0], every.scores[0, within][:5], rtol=1e-4)


def test_many_queries_take_sketches_unless_told(indexes, table, device, monkeypatch):
    monkeypatch.setattr("compressae.retrieval.index.gpu._LEAST", 8)
    monkeypatch.setattr("compressae.retrieval.index.gpu._MANY", 3)
    index, asked = indexes["int8"], table[:3]
    gpu, everything = GpuIndex(index, device), on_cpu(index, asked, 1)
    before = gpu.nbytes
    np.testing.assert_array_equal(gpu.search(asked[:2], 1).ids, everything.ids[:2])
    np.testing.assert_array_equal(gpu.search(asked, 1, candidates="all").ids, everything.ids)
    assert gpu.nbytes == before
    monkeypatch.setattr("compressae.retrieval.index.gpu._SCRATCH", 10_000)  # Two at a time.
    np.testing.assert_array_equal(gpu.search(asked, 1).ids, everything.ids)
    assert gpu.nbytes == before + Sketch.nbytes_of(N, D, False)


def test_blocks_are_as_many_as_hold_enough(indexes, table, device, monkeypatch):
    """Of the results of rows of the table; measured once for each K."""
    for name, value in {"_LEAST": 1, "_BLOCKS": 1, "_MANY": 2}.items():
        monkeypatch.setattr(f"compressae.retrieval.index.gpu.{name}", value)
    index, chosen = indexes["int8"], {}
    for enough in (0.0, 0.8, 1.1):
        monkeypatch.setattr("compressae.retrieval.index.gpu._ENOUGH", enough)
        gpu = GpuIndex(index, device)
        found = gpu.search(table[:2], 2)
        chosen[enough] = gpu._enough[2]
        some = gpu._sketch.some.cpu().numpy()
        wanted = on_cpu(index, some, 3).ids[:, 1:]
        held = gpu.search(some, 3, candidates=max(3, chosen[enough])).ids
        share = np.mean([len(set(a) & set(b)) / 2 for a, b in zip(wanted, held, strict=True)])
        assert share >= enough or chosen[enough] == 16
        again = gpu.search(table[:2], 2, candidates=chosen[enough])
        np.testing.assert_array_equal(found.ids, again.ids)
    assert chosen[0.0] == 2 and 2 <= chosen[0.8] <= 16 and chosen[1.1] == 16


def test_candidates_are_among_allowed_rows(indexes, queries, device):
    """Where there are no more than candidates, they are all found."""
    gpu, allowed = GpuIndex(indexes["float32"], device), np.arange(0, N, 40)
    few = gpu.search(queries[:1], 16, candidates=16, allowed=allowed)
    np.testing.assert_array_equal(few.ids, gpu.search(queries[:1], 16, allowed=allowed).ids)
    assert (np.sort(few.ids[:, :15]) == allowed).all() and (few.ids[:, 15:] == -1).all()


def test_sketches_that_do_not_fit_leave_a_scan(indexes, queries, device):
    index = indexes["int8"]
    whole = GpuIndex(index, device)
    tight = GpuIndex(index, device, memory=whole.nbytes)
    found = tight.search(queries, 10, candidates=10)
    np.testing.assert_array_equal(found.ids, whole.search(queries, 10).ids)
    assert tight.nbytes == whole.nbytes


@pytest.mark.parametrize("scoring", ["asymmetric", "sparse"])
def test_rows_that_do_not_fit_are_streamed(indexes, queries, device, scoring):
    index, queries = indexes["budget"], queries[:1]
    whole = GpuIndex(index, device)
    row = whole.nbytes // (3 * SCAN_BLOCK)
    few = GpuIndex(index, device, memory=2 * SCAN_BLOCK * row)
    assert few.nbytes == 2 * SCAN_BLOCK * row < whole.nbytes == 3 * SCAN_BLOCK * row
    allowed = np.arange(0, N, 7) if scoring == "asymmetric" else None
    mine, want = (gpu.search(queries, 3, scoring, allowed=allowed) for gpu in (few, whole))
    np.testing.assert_array_equal(mine.ids, want.ids)
    np.testing.assert_array_equal(mine.scores, want.scores)
    assert allowed is None or set(mine.ids.ravel()) <= set(allowed)


def test_a_living_index_is_taken_as_it_is(model, table, queries, device):
    with use("numba"):
        codes = make_codes(model, table[:300], "float32")
        index = CompressedIndex(
            model.projection, codes, ids=np.arange(300) * 10, projection_type="float32"
        )
        index.remove([20, 30])
        index.add(encode_like(model, table[300:400], index.codes), ids=np.arange(100) + 5000)
    gpu = GpuIndex(index, device)
    before = on_cpu(index, queries, 50)
    check(gpu.search(queries, 50), before)
    index.remove(np.unique(before.ids[:, 0]))
    check(gpu.search(queries, 50), before)
    few = gpu.search(queries, 5, allowed=[20, 10, 5003])
    assert set(few.ids.ravel()) == {10, 5003, -1} and len(gpu) == 398


def test_a_dense_last_stage(indexes, table, queries, device):
    index = indexes["int4"]
    mine = GpuIndex(index, device).search(queries, 5, rerank=table, rerank_candidates=30)
    want = on_cpu(index, queries, 5, rerank=table, rerank_candidates=30)
    np.testing.assert_array_equal(mine.ids, want.ids)


def test_an_index_of_no_rows(model, indexes, queries, device):
    index = CompressedIndex(model.projection, indexes["int4"].codes.take(np.arange(2)))
    index.remove([0, 1])
    hits = GpuIndex(index, device).search(queries, 3)
    assert (hits.ids == -1).all() and np.isneginf(hits.scores).all()


def test_bad_input_is_refused_as_by_the_index(indexes, queries, device):
    index = indexes["int4"]
    gpu = GpuIndex(index, device)
    with pytest.raises(InputError, match="rows of 11 columns; expected 12"):
        gpu.search(queries[:, :11], 5)
    with pytest.raises(InputError, match="K = 0"):
        gpu.search(queries, 0)
    with pytest.raises(InputError, match="4 candidates for 5 results"):
        gpu.search(queries, 5, candidates=4)
    with pytest.raises(InputError, match="scoring 'cosine': expected one of"):
        gpu.search(queries, 5, scoring="cosine")
    with pytest.raises(InputError, match="memory 'much': expected bytes"):
        GpuIndex(index, device, memory="much")
    with pytest.raises(InputError, match="memory of 100 bytes: expected at least"):
        GpuIndex(index, device, memory=100)


def test_a_device_that_is_not_there(indexes, monkeypatch):
    index = indexes["int4"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="'cuda': torch finds no GPU here"):
        GpuIndex(index, "cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match="'cpu': GpuIndex is for a GPU; search the index itself"):
        GpuIndex(index, "cpu")
