"""Catalogues of shards answer as one catalogue of all rows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressae import InputError
from compressae.cluster.encode import encode_shards
from compressae.retrieval import Catalogue
from compressae.retrieval.errors import UnknownIdError
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.store.sharded import (
    ShardedCatalogue,
    index_shards,
    merge_hits_of_shards,
    open_catalogue,
    read_catalogues,
    write_catalogues,
)


@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 30),
    K=st.integers(1, 12),
    parts=st.integers(1, 5),
    texts=st.booleans(),
)
def test_merged_is_the_top_of_all(seed, n, K, parts, texts):
    """Shards of any size, some of fewer than K rows or none, with many ties."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (3, n)).astype(np.float32)
    owner = np.sort(rng.integers(0, parts, n))
    names = np.array([f"n{i:02d}" for i in range(n)]) if texts else np.arange(n)

    def top(rows):
        hits = Hits.empty(3, K)
        ids = np.full((3, K), "", "U3") if texts else hits.ids
        for q in range(3):
            order = np.lexsort((rows, -scores[q, rows]))[:K]
            ids[q, : len(order)] = names[rows[order]]
            hits.scores[q, : len(order)] = scores[q, rows[order]]
        return Hits(ids, hits.scores)

    found = merge_hits_of_shards([top(np.flatnonzero(owner == part)) for part in range(parts)], K)
    whole = top(np.arange(n))
    assert np.array_equal(found.ids, whole.ids) and np.array_equal(found.scores, whole.scores)


@pytest.fixture(scope="module")
def served(made, tmp_path_factory):
    """Catalogues of three shards, and one of all rows."""
    from compressae.cluster.units import Job

    folder = tmp_path_factory.mktemp("served")
    job = Job(str(made.folder / "model"), str(made.folder / "quantizer"), str(folder / "coded"))
    encode_shards(job, made.items, rows=250)
    price = {"price": np.arange(len(made.rows)) % 40}
    projection = made.model.projection
    index_shards(folder / "coded", folder / "shards", projection, price, threads=1)
    Catalogue.create(folder / "whole", projection, made.codes, metadata=price)
    return ShardedCatalogue(folder / "shards", 1), Catalogue.open(folder / "whole", threads=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"allowed": np.arange(280, 295)},
        {"allowed": np.arange(5)},
        {"where": "price < 3"},
        {"exclude": [[0, 1, 699], [], list(range(300))]},
        {"where": "price < 9", "exclude": [[0], [1], [2]], "allowed": np.arange(0, 700, 2)},
    ],
    ids=["all", "allowed", "allowed of one shard", "where", "exclude", "composed"],
)
@pytest.mark.parametrize("K", [1, 20, 900])
def test_every_row_scored_answers_as_one_catalogue(made, served, options, K):
    if "where" in options:
        pytest.importorskip("duckdb", reason="needs duckdb (pip install 'compressae[sql]')")
    shards, whole = served
    hits, expected = (
        index.search(made.rows[:3], K, candidates="all", **options) for index in (shards, whole)
    )
    assert np.array_equal(hits.ids, expected.ids)
    assert np.array_equal(hits.scores, expected.scores)
    assert hits.missing == ()


def test_shards_know_themselves(made, served, tmp_path):
    shards, whole = served
    assert len(shards) == len(whole) == 700 and len(shards.shards) == 5
    assert shards.nbytes > 0 and "5 shards, 700 rows" in repr(shards)


def test_a_change_of_a_shard_is_seen_after_refresh(made, job, tmp_path):
    encode_shards(job, made.items, rows=250)
    shards = index_shards(tmp_path / "coded", tmp_path / "served", made.model.projection)
    best = shards.search(made.rows[:1], 1).ids[0, 0]
    Catalogue.open(tmp_path / "served" / "part-00000").remove([best])
    assert shards.search(made.rows[:1], 1).ids[0, 0] == best
    shards.refresh()
    assert shards.search(made.rows[:1], 1).ids[0, 0] != best and len(shards) == 699


def test_a_shard_without_rows_is_searched_as_any(made, job, tmp_path):
    encode_shards(job, made.items, rows=250)
    shards = index_shards(tmp_path / "coded", tmp_path / "served", made.model.projection)
    (number,) = (i for i, shard in enumerate(shards.shards) if len(shard) == 1)
    shards.shards[number].remove([290])
    rest = np.delete(np.arange(700), 290)
    shards = ShardedCatalogue(tmp_path / "served", 1)
    assert len(shards) == 699 and len(shards.shards[number]) == 0
    hits = shards.search(made.rows[288:293], 1, rerank=(made.rows[rest], rest))
    assert hits.ids[:, 0].tolist()[:2] == [288, 289] and hits.ids[3:, 0].tolist() == [291, 292]
    assert hits.ids[2, 0] != 290
    assert shards.as_queries([289, 291]).shape == (2, 12)


def test_all_shards_move_at_once_or_stay(made, job, tmp_path):
    encode_shards(job, made.items, rows=250)
    shards = index_shards(tmp_path / "coded", tmp_path / "served", made.model.projection)
    pinned, first, last = shards.pin(), shards.shards[0], shards.shards[-1]
    assert not shards.refresh() and shards.version == (1,) * 5
    Catalogue.open(first.path).remove([0])
    Catalogue.open(last.path).remove([699])
    assert shards.refresh() and shards.version == (2, 1, 1, 1, 2)
    assert pinned.version == (1,) * 5 and len(pinned) == 700 and len(shards) == 698
    Catalogue.open(last.path).remove([698])
    (first.path / "versions" / f"{3:010d}.json").write_text("{")
    with pytest.raises(InputError, match=f"part-00000.*{3:010d}.json"):
        shards.refresh()
    assert shards.version == (2, 1, 1, 1, 3)  # The shard that could be opened moved.


@pytest.mark.parametrize(
    "ids", [[699, 3, 290], [0], np.array([5, 650])], ids=["all", "one", "array"]
)
def test_rows_are_found_in_whichever_shard(made, served, ids):
    shards, whole = served
    assert np.array_equal(shards.as_queries(ids), whole.as_queries(ids))
    assert shards.metadata(ids).equals(whole.metadata(ids))
    with pytest.raises(UnknownIdError, match="id 700 is not in the catalogue"):
        shards.as_queries([5, 700])
    with pytest.raises(InputError, match="ids from -1 to 5"):
        shards.as_queries([5, -1])
    for catalogue in served:
        assert len(catalogue.metadata([])) == 0
        with pytest.raises(InputError, match="no ids; expected at least one"):
            catalogue.as_queries([])


def test_what_shards_share_is_said_of_all(made, served):
    shards, whole = served
    for name in ("has_text_ids", "columns", "similarity"):
        assert getattr(shards, name) == getattr(whole, name)
    assert shards.projection.model_id == whole.projection.model_id
    assert shards.like.shape[1] == whole.like.shape[1]
    assert len(open_catalogue(shards.path).shards) == 5
    assert isinstance(open_catalogue(whole.path), Catalogue)


def test_refuses(made, job, tmp_path):
    encode_shards(job, made.items, rows=250)
    make = (tmp_path / "coded", tmp_path / "served", made.model.projection)
    index_shards(*make)
    with pytest.raises(InputError, match="older catalogues are there"):
        index_shards(*make)
    index_shards(*make, overwrite=True)
    (tmp_path / "served" / "part-00001").rename(tmp_path / "away")
    with pytest.raises(InputError, match="part-00001: no such folder"):
        ShardedCatalogue(tmp_path / "served")
    Catalogue.create(tmp_path / "served" / "part-00001", made.model.projection, made.codes)
    with pytest.raises(InputError, match="another catalogue than shards.json names"):
        ShardedCatalogue(tmp_path / "served")
    (tmp_path / "served" / "mine.txt").touch()
    with pytest.raises(InputError, match="something else is there"):
        index_shards(*make, overwrite=True)
    with pytest.raises(InputError, match="no shard answered; missing: part-00000"):
        merge_hits_of_shards([], 3, ["part-00000"])


def test_shards_are_reranked_with_full_precision_vectors(made, served):
    shards, whole = served
    options = {"candidates": "all", "rerank": made.rows, "rerank_candidates": 60}
    hits, expected = (index.search(made.rows[:3], 5, **options) for index in (shards, whole))
    assert np.array_equal(hits.ids, expected.ids)


def test_texts_and_exclusion_over_shards(made, tmp_path):
    """Ids of other shards among those allowed and left out."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    from compressae.cluster.units import Job

    names = np.array([f"n{i:03d}" for i in range(len(made.rows))])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(made.rows.ravel()), made.rows.shape[1])
    table = pa.table({"sku": names, "vector": vectors})
    pq.write_table(table, tmp_path / "items.parquet", row_group_size=200)
    job = Job(
        str(made.folder / "model"),
        str(made.folder / "quantizer"),
        str(tmp_path / "coded"),
        id_column="sku",
    )
    encode_shards(job, tmp_path / "items.parquet", rows=200)
    projection = made.model.projection
    shards = index_shards(tmp_path / "coded", tmp_path / "served", projection, threads=1)
    whole = Catalogue.create(tmp_path / "whole", projection, made.codes, names, threads=1)
    for options in (
        {"allowed": names[190:210]},
        {"exclude": [names[:350].tolist(), [], names[::2].tolist()]},
    ):
        hits, expected = (
            index.search(made.rows[:3], 8, candidates="all", **options) for index in (shards, whole)
        )
        assert np.array_equal(hits.ids, expected.ids)
        assert np.array_equal(hits.scores, expected.scores)
    order = np.random.default_rng(0).permutation(len(names))
    rerank = (made.rows[order], names[order])
    hits = shards.search(made.rows[:9], 1, rerank=rerank)
    assert hits.ids[:, 0].tolist() == names[:9].tolist()
    # Rows of one shard are numbered as no other's.
    rows = shards.shards[0].hot_rows(made.rows[:5], names[:5])
    with pytest.raises(InputError, match="rows of one catalogue, not of its shards"):
        shards.search(made.rows[:9], 1, rerank=rows)


@pytest.mark.parametrize("change", ["twice", "no rows"])
def test_a_forged_list_of_catalogues_is_refused(made, job, tmp_path, change):
    encode_shards(job, made.items, rows=250)
    index_shards(tmp_path / "coded", tmp_path / "served", made.model.projection)
    first, *others = read_catalogues(tmp_path / "served")
    forged = (first, first, *others) if change == "twice" else (replace(first, rows=0), *others)
    write_catalogues(tmp_path / "served", forged)
    with pytest.raises(InputError, match="shards.json: .*damaged"):
        ShardedCatalogue(tmp_path / "served")
