"""The same work over a local Ray cluster: the same bytes and hits, whatever dies."""

import json
import os
import signal
import time
from dataclasses import replace

import dying
import numpy as np
import pytest
from cluster_files import data_of
from commands import refused, succeed

from compressae import InputError
from compressae.cluster.encode import encode_shards
from compressae.cluster.ray import RayCatalogue, RayRunner
from compressae.retrieval import Catalogue, RerankTable
from compressae.retrieval.errors import RerankError
from compressae.retrieval.store.sharded import ShardedCatalogue, index_shards

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray", reason="needs ray (pip install 'compressae[ray]')")


@pytest.fixture
def served(made, job, tmp_path):
    encode_shards(job, made.items, rows=250)
    projection = made.model.projection
    index_shards(tmp_path / "coded", tmp_path / "served", projection)
    return tmp_path / "served"


def test_tasks_give_the_same_bytes_though_a_worker_dies(cluster, made, job, tmp_path):
    encode_shards(job, made.items, rows=300)
    again = replace(job, output=str(tmp_path / "ray"))
    encode_shards(again, made.items, RayRunner("local", dying.dies_once), rows=300)
    assert (tmp_path / "died").exists()
    assert data_of(tmp_path / "ray") == data_of(tmp_path / "coded")


def test_a_bad_row_is_not_tried_again(cluster, made, job, tmp_path):
    bad = made.rows[:60].copy()
    bad[33, 2] = np.inf
    np.save(tmp_path / "items.npy", bad)
    with pytest.raises(InputError, match="1 of 1 shards failed: .*row 33 holds NaN or infinity"):
        encode_shards(job, tmp_path / "items.npy", RayRunner("local"))


def test_a_worker_that_always_dies_fails_its_shard(cluster, made, job):
    with pytest.raises(InputError, match="3 of 3 shards failed: part-00000 of .*0.npy: "):
        encode_shards(job, made.items, RayRunner("local", dying.always_dies))


def test_actors_answer_as_one_catalogue_though_one_dies(cluster, made, served):
    expected = ShardedCatalogue(served, 1).search(made.rows[:9], 20, candidates="all")
    index = RayCatalogue(served, "local", actors=2)
    assert len(index) == 700
    for _ in range(2):
        hits = index.search(made.rows[:9], 20, candidates="all")
        assert np.array_equal(hits.ids, expected.ids)
        assert np.array_equal(hits.scores, expected.scores)
        os.kill(ray.get(index._actors[0].process.remote()), signal.SIGKILL)
        time.sleep(0.5)
    index.close()


def test_a_lost_actor_is_an_error_or_said(cluster, made, served):
    index = RayCatalogue(served, "local", actors=2)
    ray.kill(index._actors[1], no_restart=True)
    time.sleep(0.5)
    with pytest.raises(InputError, match="its actor is lost"):
        index.search(made.rows[:2], 5)
    hits = index.search(made.rows[:2], 5, partial=True)
    first = ShardedCatalogue(served, 1).shards[: 5 - len(hits.missing)]
    assert hits.missing == tuple(f"part-0000{i}" for i in range(5 - len(hits.missing), 5))
    assert hits.ids.max() < sum(map(len, first))
    index.close()


def test_a_wrong_search_is_said_as_ever(cluster, made, served):
    index = RayCatalogue(served, "local", actors=1)
    with pytest.raises(InputError, match="K = 0"):
        index.search(made.rows[:2], 0)
    with pytest.raises(InputError, match="no shard answered|its actor is lost"):
        ray.kill(index._actors[0], no_restart=True)
        time.sleep(0.5)
        index.search(made.rows[:2], 5, partial=True)


def test_a_change_of_a_shard_is_seen_after_refresh(cluster, made, served):
    """Until then all shards answer from the versions that were open, by a new actor too."""
    before = ShardedCatalogue(served, 1)
    queries, options = made.rows[:9], {"candidates": "all"}
    index = RayCatalogue(served, "local", actors=2)
    writer = Catalogue.open(served / "part-00000")
    writer.remove([0])
    writer.remove([1])
    after = ShardedCatalogue(served, 1)
    older, newer = (shards.search(queries, 20, **options) for shards in (before, after))
    assert (before.version, after.version) == ((1,) * 5, (3, 1, 1, 1, 1))
    assert not np.array_equal(older.ids, newer.ids)
    for _ in range(2):
        found = index.search(queries, 20, **options)
        assert np.array_equal(found.ids, older.ids) and np.array_equal(found.scores, older.scores)
        os.kill(ray.get(index._actors[0].process.remote()), signal.SIGKILL)
        time.sleep(0.5)
    index.refresh()
    for _ in range(2):
        found = index.search(queries, 20, **options)
        assert np.array_equal(found.ids, newer.ids) and np.array_equal(found.scores, newer.scores)
        os.kill(ray.get(index._actors[0].process.remote()), signal.SIGKILL)
        time.sleep(0.5)
    index.close()


def test_a_refresh_that_fails_leaves_the_older_versions(cluster, made, served):
    index = RayCatalogue(served, "local", actors=2)
    before = index.search(made.rows[:3], 20, candidates="all")
    Catalogue.open(served / "part-00000").remove([before.ids[0, 0]])
    (served / "part-00004" / "versions" / f"{2:010d}.json").write_text("{")
    with pytest.raises(InputError, match=f"part-00004.*{2:010d}.json"):
        index.refresh()
    assert np.array_equal(index.search(made.rows[:3], 20, candidates="all").ids, before.ids)
    index.close()


@pytest.mark.parametrize("form", ["array", "relative path", "pair", "RerankTable"])
def test_actors_rerank_with_full_precision_vectors(
    cluster, made, served, tmp_path, monkeypatch, form
):
    monkeypatch.chdir(tmp_path)
    order = np.random.default_rng(0).permutation(len(made.rows))
    np.save("items.npy", made.rows)
    np.save("shuffled.npy", made.rows[order])
    rerank = {
        "array": made.rows,
        "relative path": "items.npy",
        "pair": ("shuffled.npy", order),
        "RerankTable": RerankTable(made.rows[order], order),
    }[form]
    queries = np.random.default_rng(1).standard_normal((9, made.rows.shape[1])).astype(np.float32)
    options = {"candidates": "all", "rerank_candidates": 60}
    expected = ShardedCatalogue(served, 1).search(queries, 5, rerank=made.rows, **options)
    index = RayCatalogue(served, "local", actors=2)
    hits = index.search(queries, 5, rerank=rerank, **options)
    assert np.array_equal(hits.ids, expected.ids)
    np.testing.assert_allclose(hits.scores, expected.scores, rtol=1e-6)
    codes_alone = index.search(queries, 5, candidates="all")
    assert not np.array_equal(codes_alone.scores, hits.scores)
    with pytest.raises(RerankError, match="no row of id|expected rows of 12 for ids up to"):
        index.search(queries, 5, rerank=made.rows[:600])
    index.close()


def test_a_rerank_table_is_sent_once_for_all_searches(cluster, made, served):
    sent = []

    class Counted(RerankTable):
        def __reduce__(self):
            sent.append(self)
            return RerankTable, (self.table, self.ids)

    order = np.random.default_rng(0).permutation(len(made.rows))
    table, options = (
        Counted(made.rows[order], order),
        {"candidates": "all", "rerank_candidates": 60},
    )
    index = RayCatalogue(served, cluster, actors=2)
    expected = ShardedCatalogue(served, 1).search(made.rows[:4], 5, rerank=made.rows, **options)
    for _ in range(3):
        hits = index.search(made.rows[:4], 5, rerank=table, **options)
        np.testing.assert_array_equal(hits.ids, expected.ids)
        np.testing.assert_array_equal(hits.scores, expected.scores)
    assert sent == [table]
    index.close()


def test_the_command_reranks_over_actors(cluster, made, served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", made.rows)
    np.save("queries.npy", made.rows[:9])
    search = ("search", served, "queries.npy", "-k", 3, "--rerank", "items.npy", "--json")
    direct = succeed(*search)
    assert succeed(*search, "--ray", "local") == direct
    found = [json.loads(line) for line in direct.splitlines()]
    assert [line["ids"][0] for line in found] == list(range(9))


def test_the_command_reranks_text_ids_over_actors(cluster, made, job, tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[ray]')")
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    monkeypatch.chdir(tmp_path)
    n, d = made.rows.shape
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(made.rows.ravel()), d)
    table = pa.table({"sku": [f"s{i}" for i in range(n)], "vector": vectors})
    pq.write_table(table, "items.parquet", row_group_size=200)
    pq.write_table(table.take(np.random.default_rng(0).permutation(n)), "shuffled.parquet")
    np.save("queries.npy", made.rows[:9])
    encode_shards(replace(job, id_column="sku"), tmp_path / "items.parquet", rows=200)
    index_shards(tmp_path / "coded", tmp_path / "named", made.model.projection)
    search = ("search", "named", "queries.npy", "-k", 3, "--ray", "local", "--json")
    rerank = ("--rerank", "shuffled.parquet")
    lines = succeed(*search, *rerank, "--rerank-id-column", "sku").splitlines()
    assert [json.loads(line)["ids"][0] for line in lines] == [f"s{i}" for i in range(9)]
    assert [json.loads(line)["scores"][0] for line in lines] == pytest.approx([1] * 9, abs=1e-6)
    refused(tmp_path, "give the column of the table's ids", *search, *rerank)
    rows = Catalogue.open(tmp_path / "named" / "part-00000").hot_rows(made.rows[:2], ["s0", "s1"])
    index = RayCatalogue("named", "local", actors=1)
    with pytest.raises(InputError, match="rows of one catalogue, not of its shards"):
        index.search(made.rows[:2], 3, rerank=rows)
    index.close()


def test_an_address_without_a_cluster_is_refused(made, job, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # Of the cluster of these tests.
    with pytest.raises(InputError, match="no Ray cluster"):
        encode_shards(job, made.items, RayRunner("127.0.0.1:1"))
