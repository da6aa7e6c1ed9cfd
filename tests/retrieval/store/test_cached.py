"""Cached searches of a catalogue, and what they count."""

import threading

import numpy as np
import pytest
from catalogue_rows import N, in_shards
from scipy import sparse

from compressae import InputError, compress
from compressae.retrieval import CachedSearch, Catalogue, Counters, RerankTable
from compressae.retrieval.io.embeddings import as_embeddings
from compressae.retrieval.store.counters import BUCKETS


@pytest.fixture
def shards(tmp_path, model, table):
    return in_shards(tmp_path / "c", model.projection, compress(model, table))


@pytest.fixture(params=["numbers", "texts"])
def catalogue(request, tmp_path, model, table):
    names = [f"row {i}" for i in range(N)] if request.param == "texts" else None
    return Catalogue.create(
        tmp_path / "c",
        model.projection,
        compress(model, table),
        names,
        metadata={"price": np.arange(N)},
    )


def assert_same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)


def counted(cached):
    return cached.counters.hits, cached.counters.misses


def test_answers_are_those_of_the_catalogue_and_repeated_ones_are_not_searched(catalogue, table):
    cached = CachedSearch(catalogue, 100)
    expected = catalogue.search(table[:9], 5)
    assert_same(cached.search(table[:3], 5), catalogue.search(table[:3], 5))
    assert counted(cached) == (0, 3)
    assert_same(cached.search(table[:9], 5), expected)  # Three of nine are there.
    assert counted(cached) == (3, 9)
    assert_same(cached.search(table[:9][::-1], 5), catalogue.search(table[:9][::-1], 5))
    assert counted(cached) == (12, 9)


def test_rows_scored_are_those_of_the_searches_that_ran(catalogue, table):
    cached = CachedSearch(catalogue, 100)
    once = cached.search(table[:4], 5, candidates="all")
    again = cached.search(table[:4], 5, candidates="all")
    assert (once.rows_scored, again.rows_scored) == (4 * N, 0)
    some = cached.search(table[:4], 5, candidates=20).rows_scored
    assert some == catalogue.search(table[:4], 5, candidates=20).rows_scored >= 80
    assert cached.search(table[:4], 5, where="price < 30").rows_scored == 120
    assert cached.counters.rows_scored == 4 * N + some + 120


@pytest.mark.parametrize(
    "other",
    [
        {"K": 6},
        {"candidates": 7},
        {"candidates": "all"},
        {"query_nonzeros": 3},
        {"scoring": "reconstructed"},
        {"where": "price < 100"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_options_are_other_searches(catalogue, table, other):
    cached = CachedSearch(catalogue, 100)
    cached.search(table[:3], 5)
    options = {"K": 5} | other
    for _ in range(2):
        assert_same(cached.search(table[:3], **options), catalogue.search(table[:3], **options))
    assert counted(cached) == (3, 6)


def test_what_each_query_leaves_out_is_its_own(tmp_path, model, table):
    catalogue = Catalogue.create(tmp_path / "c", model.projection, compress(model, table))
    cached = CachedSearch(catalogue, 100)
    seen = sparse.csr_array((np.ones(3), ([0, 1, 1], [0, 1, 7])), shape=(3, N))
    for exclude in (seen, [[0], [1, 7], []]):
        before = counted(cached)
        assert_same(
            cached.search(table[:3], 5, exclude=exclude),
            catalogue.search(table[:3], 5, exclude=exclude),
        )
        assert counted(cached) == (before[0], before[1] + 3)
        some = exclude[[2, 0]] if sparse.issparse(exclude) else [exclude[2], exclude[0]]
        assert_same(
            cached.search(table[[2, 0]], 5, exclude=some),
            catalogue.search(table[[2, 0]], 5, exclude=some),
        )
        assert counted(cached) == (before[0] + 2, before[1] + 3)
        cached.search(table[[0]], 5, exclude=[[0, 5]])  # Another set of the same query.
        assert counted(cached) == (before[0] + 2, before[1] + 4)
        cached = CachedSearch(catalogue, 100)


def test_flags_of_rows_tell_searches_apart(tmp_path, model, table):
    catalogue = Catalogue.create(tmp_path / "c", model.projection, compress(model, table))
    cached = CachedSearch(catalogue, 100)
    for allowed in (np.arange(N) < 50, np.arange(N) >= 50, np.arange(50)):
        assert_same(
            cached.search(table[:2], 5, allowed=allowed),
            catalogue.search(table[:2], 5, allowed=allowed),
        )
    assert counted(cached) == (0, 6)


def test_sparse_queries_are_told_apart_by_places_and_values(tmp_path):
    rows = sparse.csr_array(np.random.default_rng(0).integers(-2, 3, (30, 6)).astype(np.float32))
    catalogue = Catalogue.create(tmp_path / "c", None, rows)
    cached = CachedSearch(catalogue, 100)
    queries = sparse.csr_array(
        np.array([[1, 2, 0, 0, 0, 0], [0, 1, 2, 0, 0, 0], [2, 1, 0, 0, 0, 0]], np.float32)
    )
    for expected in ((0, 3), (3, 3)):
        assert_same(cached.search(queries, 5), catalogue.search(queries, 5))
        assert counted(cached) == expected


def test_a_new_version_empties_the_cache(catalogue, table):
    writer, reader = Catalogue.open(catalogue.path), Catalogue.open(catalogue.path)
    cached = CachedSearch(reader, 100)
    best = cached.search(table[:1], 1).ids[0]
    writer.remove(best)
    assert cached.search(table[:1], 1).ids[0] == best  # The reader keeps its version.
    assert counted(cached) == (1, 1)
    reader.refresh()
    assert cached.search(table[:1], 1).ids[0] != best
    assert counted(cached) == (1, 2) and len(cached) == 1


def test_results_of_shards_are_of_the_versions_of_all(shards, table):
    """After any shard moved, a query is searched again; the merged hits are cached as one's."""
    cached = CachedSearch(shards, 100)
    for number, shard in enumerate((shards.shards[2], shards.shards[0])):
        for _ in range(2):
            assert_same(cached.search(table[[0]], 5), shards.search(table[[0]], 5))
        assert counted(cached) == (number + 1, number + 1)
        Catalogue.open(shard.path).remove([shard.search(table[:1], 1).ids[0, 0]])
        shards.refresh()
    assert_same(cached.search(table[[0]], 5), shards.search(table[[0]], 5))
    assert counted(cached) == (2, 3) and len(cached) == 1


def test_a_pinned_answer_says_its_versions(shards, table):
    cached = CachedSearch(shards, 9)
    _, before = cached.answer(table[:1], 5)
    Catalogue.open(shards.shards[1].path).update([120], shards.like.take([0]))
    shards.refresh()
    _, after = cached.answer(table[:1], 5)
    assert (before.version, after.version) == ((1, 1, 1), (1, 2, 1))


@pytest.mark.parametrize("kind", ["array", "pair", "path", "Embeddings", "RerankTable"])
def test_tables_to_rerank_with_are_told_apart_as_objects(tmp_path, shards, table, kind):
    np.save(tmp_path / "items.npy", table)
    rerank = {
        "array": table,
        "pair": (table, np.arange(N)),
        "path": tmp_path / "items.npy",
        "Embeddings": as_embeddings(table),
        "RerankTable": RerankTable(table, np.arange(N)),
    }[kind]
    cached = CachedSearch(shards, 100)
    for _ in range(2):
        hits = cached.search(table[:3], 1, rerank=rerank)
        np.testing.assert_array_equal(hits.ids, [[0], [1], [2]])
    assert counted(cached) == ((3, 3) if kind in ("Embeddings", "RerankTable") else (0, 6))


def test_the_least_recently_used_results_go_first(catalogue, table):
    cached = CachedSearch(catalogue, 3)
    for row in (0, 1, 2, 0, 3):
        cached.search(table[[row]], 5)
    assert (len(cached), counted(cached)) == (3, (1, 4))
    cached.search(table[[0]], 5)
    assert counted(cached) == (2, 4)
    cached.search(table[[1]], 5)
    assert counted(cached) == (2, 5)


def test_kept_results_are_not_the_callers(catalogue, table):
    cached = CachedSearch(catalogue, 3)
    expected = catalogue.search(table[:1], 5)
    hits = cached.search(table[:1], 5)
    hits.ids[:], hits.scores[:] = hits.ids[0, ::-1].copy(), 0
    again = cached.search(table[:1], 5)
    assert_same(again, expected)
    again.scores[:] = 0
    assert_same(cached.search(table[:1], 5), expected)


@pytest.mark.parametrize("case", ["no entries", "other queries", "other options"])
def test_what_cannot_be_told_apart_is_searched(catalogue, table, case):
    cached = CachedSearch(catalogue, 0 if case == "no entries" else 9)
    queries = as_embeddings(table[:1], "queries") if case == "other queries" else table[:1]
    names = catalogue.search(table[:1], 3).ids[0].tolist()
    options = {"allowed": names} if case == "other options" else {}
    for _ in range(2):
        assert_same(cached.search(queries, 3, **options), catalogue.search(table[:1], 3))
    assert len(cached) == 0 and counted(cached) == (0, 2)


def test_threads_share_a_cache_while_versions_change(catalogue, table):
    """Each answer is one of a version: of row i removed or not."""
    cached, wrong = CachedSearch(catalogue, 50), []
    best = {i: catalogue.search(table[[i]], 2).ids[0].tolist() for i in range(20)}
    stop = threading.Event()

    def read(seed):
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            some = rng.integers(0, 20, 3)
            for i, ids in zip(some, cached.search(table[some], 1).ids, strict=True):
                if ids[0] not in best[i]:
                    wrong.append((i, ids[0]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for i in range(0, 20, 4):
        catalogue.remove([best[i][0]])
    for i in range(20):
        if best[i][0] in catalogue.search(table[[i]], 2).ids:
            continue
        first = cached.search(table[[i]], 1).ids[0, 0]
        assert first == catalogue.search(table[[i]], 1).ids[0, 0]
    stop.set()
    for thread in threads:
        thread.join()
    # A second removal may have taken a row's next best as well.
    gone = {best[i][0] for i in range(0, 20, 4)}
    assert all(best[i][0] in gone and best[i][1] in gone for i, _ in wrong)
    assert cached.counters.queries == cached.counters.hits + cached.counters.misses > 0


def test_negative_entries_are_refused(catalogue):
    with pytest.raises(InputError, match="-1 entries"):
        CachedSearch(catalogue, -1)


def test_quantiles_are_bounds_of_buckets():
    counters = Counters()
    assert counters.quantile(0.5) == 0
    for seconds in [BUCKETS[3]] * 50 + [BUCKETS[3] * 1.001] * 49 + [1e9]:
        counters.count(2, 1, 10, seconds)
    assert counters.quantile(0.5) == BUCKETS[3]
    assert counters.quantile(0.51) == counters.quantile(0.99) == BUCKETS[4]
    assert counters.quantile(1) == np.inf
    assert (counters.searches, counters.queries, counters.hits, counters.misses) == (
        100,
        200,
        100,
        100,
    )
    assert counters.rows_scored == 1000


def test_results_take_no_more_bytes_than_they_may(catalogue, table):
    cached = CachedSearch(catalogue, 100)
    cached.search(table[:1], 5)
    size = cached.nbytes
    hits = catalogue.search(table[:1], 5)
    assert size == 16 + hits.ids.nbytes + hits.scores.nbytes
    small = CachedSearch(catalogue, 100, nbytes=3 * size)
    for i in (0, 1, 2, 3, 3, 0):
        small.search(table[i : i + 1], 5)
        assert small.nbytes == len(small) * size <= 3 * size
    assert counted(small) == (1, 5)  # The first one went when there were four.
    small.search(table[:9], 50)  # None of them fits beside another.
    assert small.nbytes <= 3 * size
    catalogue.remove(hits.ids[0, :1])
    small.search(table[:1], 5)
    assert small.nbytes == size


def test_a_result_that_is_kept_again_is_counted_once(catalogue, table):
    cached = CachedSearch(catalogue, 100)
    cached.search(table[[0, 0, 0]], 5)
    assert len(cached) == 1
    assert cached.nbytes == 16 + catalogue.search(table[:1], 5).ids.nbytes + 5 * 4
