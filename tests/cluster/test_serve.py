"""The HTTP service on Ray Serve: the answers of a direct search."""

import json
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from compressae import InputError
from compressae.cluster.encode import encode_shards
from compressae.cluster.serve import application
from compressae.retrieval import Catalogue
from compressae.retrieval.store.sharded import ShardedCatalogue, index_shards

pytestmark = pytest.mark.ray
PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"


@pytest.fixture
def served(made, job, tmp_path):
    encode_shards(job, made.items, rows=250)
    index_shards(tmp_path / "coded", tmp_path / "served", made.model.projection)
    return tmp_path / "served"


@pytest.fixture(scope="module")
def serve():
    return pytest.importorskip(
        "ray.serve", reason="needs Ray Serve (pip install 'compressae[ray]')"
    )


@pytest.fixture(scope="module")
def address(cluster, serve):
    """Where Ray Serve listens."""
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def free_port():
    """A free port that the system gives nobody in the meantime, as Ray's workers take many such."""
    for port in np.random.default_rng().permutation(np.arange(20_000, 30_000)):
        try:
            with socket.create_server(("127.0.0.1", int(port))):
                return int(port)
        except OSError:
            continue
    raise RuntimeError("no free port from 20000 to 29999")


def ask(address, path, body=None):
    """Status and answer of a request."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(address + path, data, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ids_of(answer):
    return [[hit["id"] for hit in hits] for hits in answer["hits"]]


def test_replicas_answer_as_a_direct_search_and_follow_versions(serve, address, made, served):
    serve.run(application(served, replicas=2, entries=100, refresh=0.05))
    shards = ShardedCatalogue(served, 1)
    body = {"queries": made.rows[:9].tolist(), "k": 20, "candidates": "all"}
    for _ in range(4):  # By either replica, and from its cache.
        status, answer = ask(address, "/search", body)
        assert (status, answer["version"]) == (200, [1] * 5)
        hits = shards.search(made.rows[:9], 20, candidates="all")
        assert ids_of(answer) == hits.ids.tolist()
        scores = [[hit["score"] for hit in hits] for hits in answer["hits"]]
        np.testing.assert_allclose(scores, hits.scores, rtol=1e-6)
    status, answer = ask(address, "/similar", {"ids": [650, 3], "k": 5, "candidates": "all"})
    queries = shards.as_queries([650, 3])
    expected = shards.search(queries, 5, candidates="all", exclude=[[650], [3]])
    assert ids_of(answer) == expected.ids.tolist()
    assert ask(address, "/")[1]["rows"] == 700
    assert ask(address, "/similar", {"ids": [700]}) == (
        404,
        {"error": "id 700 is not in the catalogue"},
    )
    assert ask(address, "/search", body | {"k": 0})[0] == 400
    assert ask(address, "/health")[1]["status"] == "ok"
    # A writer changes a shard: each answer is that of the versions it says, and soon of the new.
    Catalogue.open(served / "part-00000").remove([0])
    newest = ShardedCatalogue(served, 1)
    best = {
        shards.version: hits.ids.tolist(),
        newest.version: newest.search(made.rows[:9], 20, candidates="all").ids.tolist(),
    }
    versions = []
    for _ in range(200):
        _, answer = ask(address, "/search", body)
        versions.append(tuple(answer["version"]))
        assert ids_of(answer) == best[versions[-1]]
        if versions[-8:] == [newest.version] * 8:
            break
        time.sleep(0.02)
    assert versions[-8:] == [newest.version] * 8


def test_answers_are_reranked(serve, address, made, served):
    order = np.random.default_rng(0).permutation(700)
    serve.run(application(served, rerank=(made.rows[order], order)))
    _, answer = ask(address, "/search", {"queries": made.rows[:9].tolist(), "k": 1})
    assert ids_of(answer) == [[i] for i in range(9)]
    assert [hits[0]["score"] for hits in answer["hits"]] == pytest.approx([1] * 9, abs=1e-6)


def test_the_example_of_the_page_runs(serve, address, made, served):
    (code,) = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code.count('"/shared/served"') == 1
    names: dict = {}
    exec(code.replace('"/shared/served"', repr(str(served))), names)
    serve.run(names["app"])
    _, answer = ask(address, "/search", {"queries": made.rows[:3].tolist()})
    assert ids_of(answer) == ShardedCatalogue(served, 1).search(made.rows[:3], 10).ids.tolist()


def test_a_folder_without_catalogues_is_refused(serve, tmp_path):
    with pytest.raises(InputError, match="none: no such folder"):
        application(tmp_path / "none")
