"""Reranking from a table whose rows have ids of their own, numbers or texts."""

import pickle

import numpy as np
import pytest

from compressae import CompresSAE, InputError, encode
from compressae.retrieval import Catalogue, RerankTable, exact_search
from compressae.retrieval.errors import RerankError
from compressae.retrieval.index.table_rows import TableRows

N, D, EXTRA = 300, 8, 20


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, 32, 4)


@pytest.fixture(scope="module")
def table():
    """Rows of the catalogue, and some that it lacks."""
    return np.random.default_rng(0).standard_normal((N + EXTRA, D)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).standard_normal((6, D)).astype(np.float32)


@pytest.fixture(params=["texts", "numbers"])
def ids(request):
    """An id of each row of the table; numbers are far apart and not in order."""
    if request.param == "texts":
        return np.array([f"sku-{i * 7 % 1000}" for i in range(N + EXTRA)])
    return np.random.default_rng(2).permutation(N + EXTRA) * 10**15


@pytest.fixture(params=["cosine", "dot"])
def catalogue(request, tmp_path, model, table, ids):
    codes = encode(model, table[:N], "float32", similarity=request.param)
    return Catalogue.create(tmp_path / "c", model.projection, codes, ids[:N])


@pytest.fixture
def shuffled(table, ids):
    """The table and its ids, in another order than the catalogue's."""
    order = np.random.default_rng(3).permutation(len(table))
    return table[order], ids[order]


def assert_exact(hits, catalogue, table, ids, queries):
    """Hits reranked among all rows are those of exact search."""
    truth = exact_search(table, queries, 5, similarity=catalogue.like.similarity)
    np.testing.assert_allclose(hits.scores, truth.scores, rtol=1e-5)
    assert hits.ids.tolist() == ids[truth.ids].tolist()


@pytest.mark.parametrize("form", ["pair", "table_rows", "RerankTable"])
def test_reranked_scores_are_those_of_the_table(catalogue, table, ids, shuffled, queries, form):
    rerank = shuffled
    if form != "pair":
        rerank = catalogue.table_rows(*shuffled) if form == "table_rows" else RerankTable(*shuffled)
    hits = catalogue.search(queries, 5, rerank=rerank, rerank_candidates=N)
    assert_exact(hits, catalogue, table[:N], ids[:N], queries)


def test_removed_rows_need_no_row_and_added_ones_do(
    catalogue, model, table, ids, shuffled, queries
):
    catalogue.remove(ids[:3])
    kept = np.isin(shuffled[1], ids[3:N])
    rows = catalogue.table_rows(shuffled[0][kept], shuffled[1][kept])
    hits = catalogue.search(queries, 5, rerank=rows, rerank_candidates=N)
    assert_exact(hits, catalogue, table[3:N], ids[3:N], queries)
    new = encode(model, table[N:], "float32", similarity=catalogue.like.similarity)
    catalogue.add(new, ids[N:])
    with pytest.raises(RerankError, match="which is in the index; .* make the rows again"):
        catalogue.search(queries, N, rerank=rows, rerank_candidates=N + EXTRA - 3)
    again = catalogue.search(queries, 5, rerank=shuffled, rerank_candidates=N + EXTRA - 3)
    assert_exact(again, catalogue, table[3:], ids[3:], queries)


def test_a_rerank_table_follows_every_version(catalogue, model, table, ids, shuffled, queries):
    rerank, older = RerankTable(*shuffled), catalogue.pin()
    catalogue.remove(ids[:3])
    catalogue.add(encode(model, table[N:], "float32", similarity=catalogue.similarity), ids[N:])
    for _ in range(2):
        hits = catalogue.search(queries, 5, rerank=rerank, rerank_candidates=N + EXTRA - 3)
        assert_exact(hits, catalogue, table[3:], ids[3:], queries)
        hits = older.search(queries, 5, rerank=rerank, rerank_candidates=N)
        assert_exact(hits, older, table[:N], ids[:N], queries)


def test_a_version_with_rows_that_a_rerank_table_lacks_is_refused(catalogue, model, table, ids):
    rerank = RerankTable(table[:N], ids[:N])
    catalogue.search(table[:1], 5, rerank=rerank)
    catalogue.add(encode(model, table[N:], "float32", similarity=catalogue.similarity), ids[N:])
    with pytest.raises(RerankError, match=f"no row of id {ids[N]}, which is in the catalogue"):
        catalogue.search(table[:1], 5, rerank=rerank)


def test_ids_of_the_other_kind_are_refused(catalogue, table):
    ids = np.arange(len(table))
    rerank = RerankTable(table, ids if catalogue.has_text_ids else ids.astype(str))
    with pytest.raises(InputError, match="rerank: ids are .*; the catalogue's are"):
        catalogue.search(table[:1], 5, rerank=rerank)


def test_a_rerank_table_travels(catalogue, table, ids, shuffled, queries, tmp_path):
    """As to another process; of a table on disk its path alone."""
    np.save(tmp_path / "rows.npy", shuffled[0])
    for rows in (shuffled[0], tmp_path / "rows.npy"):
        dumped = pickle.dumps(RerankTable(rows, shuffled[1]))
        hits = catalogue.search(queries, 5, rerank=pickle.loads(dumped), rerank_candidates=N)
        assert_exact(hits, catalogue, table[:N], ids[:N], queries)
    assert len(dumped) < shuffled[0].nbytes


def test_a_table_on_disk_is_read_where_it_lies(catalogue, table, ids, shuffled, queries, tmp_path):
    np.save(tmp_path / "rows.npy", shuffled[0])
    rerank = (tmp_path / "rows.npy", shuffled[1])
    hits = catalogue.search(queries, 5, rerank=rerank, rerank_candidates=N)
    assert_exact(hits, catalogue, table[:N], ids[:N], queries)


def test_what_does_not_fit_is_refused(catalogue, table, ids, queries):
    with pytest.raises(InputError, match=f"no row of id {ids[3]}, which is in the catalogue"):
        catalogue.search(queries, 5, rerank=(np.delete(table, 3, 0), np.delete(ids, 3)))
    with pytest.raises(InputError, match="319 ids for 320 rows; expected one a row"):
        catalogue.search(queries, 5, rerank=(table, ids[1:]))
    twice = ids.copy()
    twice[1] = twice[0]
    with pytest.raises(InputError, match="is given more than once"):
        catalogue.search(queries, 5, rerank=(table, twice))
    with pytest.raises(InputError, match="rows of 7 columns .* expected 8"):
        catalogue.search(queries, 5, rerank=(table[:, :7].copy(), ids))
    if catalogue.has_text_ids:
        with pytest.raises(InputError, match=r"rows named by texts; expected \(table, ids\)"):
            catalogue.search(queries, 5, rerank=table)


def test_rows_of_another_similarity_are_refused(catalogue, table, ids, queries):
    other = "dot" if catalogue.like.similarity == "cosine" else "cosine"
    with pytest.raises(InputError, match=f"for {other}; expected 8 for"):
        catalogue.search(queries, 5, rerank=TableRows(table, np.arange(len(table)), other))


def test_take_reads_by_id():
    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    rows = TableRows(table, [30, 10, 20, 5], "dot")
    assert rows.shape == (4, 2)
    np.testing.assert_array_equal(rows.take(np.array([5, 30, 5])), table[[3, 0, 3]])
    for id in (0, 11, 31):
        with pytest.raises(RerankError, match=f"no row of id {id}"):
            rows.take(np.array([10, id]))
