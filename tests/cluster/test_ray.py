"""The same work over a local Ray cluster: the same bytes and hits, whatever dies."""

import os
import signal
import time
from dataclasses import replace

import dying
import numpy as np
import pytest
from cluster_files import data_of

from compressae import InputError
from compressae.cluster.encode import encode_shards
from compressae.cluster.ray import RayCatalogue, RayRunner, connect
from compressae.retrieval.store.sharded import ShardedCatalogue, index_shards

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray", reason="needs ray (pip install 'compressae[ray]')")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of two processors, whose workers find these tests' modules by value."""
    home, os.environ["HOME"] = os.environ.get("HOME", ""), str(tmp_path_factory.mktemp("home"))
    ray.cloudpickle.register_pickle_by_value(dying)
    try:
        yield connect("local")
    except InputError as error:
        pytest.skip(f"no Ray cluster starts on this machine: {error}")
    finally:
        ray.shutdown()
        os.environ["HOME"] = home


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


def test_an_address_without_a_cluster_is_refused(made, job):
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(InputError, match="no Ray cluster"):
        encode_shards(job, made.items, RayRunner("127.0.0.1:1"))
