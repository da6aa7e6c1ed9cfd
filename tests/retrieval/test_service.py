"""The HTTP service: answers, refusals, new versions, counters."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue_rows import D, N, in_shards, shards_of, version_of
from commands import call
from scipy import sparse

from compressae import InputError, compress, encode_like
from compressae.cli.serve import listen
from compressae.retrieval import Catalogue, RerankTable, SparseCodes
from compressae.retrieval.io.embeddings import open_embeddings
from compressae.retrieval.service import Limits, Service
from compressae.retrieval.store.sharded import CATALOGUES, open_catalogue

TestClient = pytest.importorskip(
    "starlette.testclient", reason="needs starlette (pip install 'compressae[serve]')"
).TestClient

KINDS = ["numbers", "texts", "numbers in shards", "texts in shards"]


@pytest.fixture(params=KINDS)
def catalogue(request, tmp_path, model, table):
    names = [f"rów {i}" for i in range(N)] if "texts" in request.param else None
    codes = compress(model, table, residual_bytes=2)
    columns = {"price": np.arange(N), "brand": [f"b{i % 7}" for i in range(N)]}
    if "shards" in request.param:
        return in_shards(tmp_path / "c", model.projection, codes, names, columns)
    return Catalogue.create(
        tmp_path / "c", model.projection, codes, names, metadata=columns, threads=1
    )


@pytest.fixture
def client(catalogue):
    with TestClient(Service(catalogue, threads=2, entries=50, refresh=0.05).app()) as client:
        yield client


def answered(response, hits):
    """Assert that a response holds hits; how a query lies in memory may round its length anew."""
    assert response.status_code == 200, response.text
    found = response.json()["hits"]
    for query, ids, scores in zip(found, hits.ids, hits.scores, strict=True):
        there = scores > -np.inf
        assert [hit["id"] for hit in query] == ids[there].tolist()
        assert [hit["score"] for hit in query] == pytest.approx(scores[there].tolist(), rel=1e-6)


def ids_of(catalogue, numbers):
    return [f"rów {i}" if catalogue.has_text_ids else int(i) for i in numbers]


def test_answers_are_those_of_the_catalogue(client, catalogue, table):
    body = {"queries": table[:5].tolist(), "k": 7}
    for _ in range(2):  # From the cache the second time.
        answered(client.post("/search", json=body), catalogue.search(table[:5], 7))
    for options in (
        {"candidates": "all"},
        {"candidates": 9, "query_nonzeros": 3},
        {"where": "price < 30 and brand = 'b3'"},
        {"allowed": ids_of(catalogue, range(3))},
        {"exclude": [ids_of(catalogue, [q, 50]) for q in range(5)]},
    ):
        answered(
            client.post("/search", json=body | options), catalogue.search(table[:5], 7, **options)
        )


def test_rows_like_a_row_are_without_itself(client, catalogue, table):
    ids = ids_of(catalogue, [3, 100, 3])
    queries = catalogue.as_queries(ids_of(catalogue, [3, 100]))[[0, 1, 0]]
    expected = catalogue.search(queries, 6, exclude=[[one] for one in ids])
    answered(client.post("/similar", json={"ids": ids, "k": 6}), expected)
    left_out = [[expected.ids[0, 0].item()], [], []]
    both = [[one, *others] for one, others in zip(ids, left_out, strict=True)]
    answered(
        client.post("/similar", json={"ids": ids, "k": 6, "exclude": left_out}),
        catalogue.search(queries, 6, exclude=both),
    )
    response = client.post("/similar", json={"ids": ids_of(catalogue, [3, N + 7])})
    assert response.status_code == 404 and str(N + 7) in response.json()["error"]


def test_hits_come_with_their_metadata(client, catalogue, table):
    body = {"queries": table[:3].tolist(), "k": 4, "where": "price < 3", "metadata": True}
    found = client.post("/search", json=body).json()["hits"]
    assert [len(hits) for hits in found] == [3, 3, 3]  # Three rows are so cheap.
    for hits in found:
        for hit in hits:
            assert hit["metadata"] == catalogue.metadata([hit["id"]]).to_pylist()[0]


def test_a_new_version_is_searched_soon(client, catalogue, table):
    body = {"queries": table[:1].tolist(), "k": 1}
    first = client.post("/search", json=body).json()
    best = first["hits"][0][0]["id"]
    writer = next(shard for shard in shards_of(catalogue) if shard.known([best])[0])
    Catalogue.open(writer.path).remove([best])
    newest = open_catalogue(catalogue.path)
    for _ in range(100):
        second = client.post("/search", json=body).json()
        if second["version"] == version_of(newest):
            break
        assert second == first
        time.sleep(0.02)
    answered(client.post("/search", json=body), newest.search(table[:1], 1))
    assert second["hits"] != first["hits"]


def test_the_service_moves_by_itself_alone(catalogue, table):
    """A change in this process is a version like any other: searched after ``advance``."""
    service = Service(catalogue, threads=1)
    before = catalogue.version
    shards_of(catalogue)[0].remove(ids_of(catalogue, [5]))
    after, body = catalogue.version, json.dumps({"queries": table[:1].tolist()}).encode()
    assert service.search(body)["version"] == before != after
    service.advance()
    assert service.search(body)["version"] == after


def test_what_is_served_is_said(client, catalogue):
    said = client.get("/").json()
    assert said == {
        "version": version_of(catalogue),
        "rows": N,
        "ids": "texts" if catalogue.has_text_ids else "integers",
        "queries": "dense",
        "width": D,
        "similarity": "cosine",
        "metadata": {"brand": "string", "price": "int64"},
    }
    assert version_of(catalogue) in (1, [1, 1, 1])
    health = {"status": "ok", "version": version_of(catalogue), "rows": N}
    assert client.get("/health").json() == health


def test_a_version_that_cannot_be_opened_leaves_the_older_one(client, catalogue, table):
    body = {"queries": table[:1].tolist()}
    before = client.post("/search", json=body).json()
    path = shards_of(catalogue)[0].path / "versions" / f"{2:010d}.json"
    path.write_text("{")
    health = _waited_for(client, "stale")
    assert health["status"] == "stale" and path.name in health["error"]
    assert client.post("/search", json=body).json() == before
    assert "compressae_stale 1.0" in client.get("/metrics").text


def _waited_for(client, status):
    """What /health says once it says a status, or after seconds."""
    for _ in range(200):
        health = client.get("/health").json()
        if health["status"] == status:
            break
        time.sleep(0.02)
    return health


def test_a_shard_that_cannot_be_moved_does_not_hold_up_others(tmp_path, model, table):
    shards = in_shards(tmp_path / "c", model.projection, compress(model, table))
    first, _, third = shards.shards
    with TestClient(Service(shards, threads=1, refresh=0.02).app()) as client:
        third.remove([N - 1])
        (first.path / "versions" / f"{2:010d}.json").write_text("{")
        health = _waited_for(client, "stale")
        assert (health["version"], health["rows"]) == ([1, 1, 2], N - 1)
        assert "part-00000" in health["error"]


def test_shards_answer_as_one_catalogue(tmp_path, model, table):
    names, columns = [f"row {i}" for i in range(N)], {"price": np.arange(N)}
    codes = compress(model, table, residual_bytes=2)
    made = (model.projection, codes, names)
    whole = Catalogue.create(tmp_path / "one", *made, metadata=columns, threads=1)
    shards = in_shards(tmp_path / "shards", *made, columns)
    asked = {"k": 150, "candidates": "all", "metadata": True, "where": "price > 60"}
    # Of all shards, in an order that is not theirs, and one twice.
    ids = {"ids": [names[i] for i in (200, 5, 120, 299, 5)]}
    answers = []
    for catalogue in (whole, shards):
        with TestClient(Service(catalogue, threads=1).app()) as client:
            found = client.post("/search", json=asked | {"queries": table[:4].tolist()})
            alike = client.post("/similar", json=asked | ids)
            answers.append((found.json()["hits"], alike.json()["hits"]))
    assert answers[0] == answers[1]
    assert [len(hits) for hits in answers[0][1]] == [150] * 5


def test_metrics_are_what_happened(client, catalogue, table):
    for _ in range(3):
        client.post("/search", json={"queries": table[:4].tolist(), "candidates": 20})
    client.post("/search", json={"queries": []})
    values = dict(
        line.rsplit(" ", 1)
        for line in client.get("/metrics").text.splitlines()
        if not line.startswith("#")
    )
    scored = sum(s.search(table[:4], 10, candidates=20).rows_scored for s in shards_of(catalogue))
    expected = {
        "compressae_queries_total": 12,
        "compressae_cache_hits_total": 8,
        "compressae_cache_misses_total": 4,
        "compressae_rows_scored_total": scored,
        'compressae_responses_total{status="200"}': 3,
        'compressae_responses_total{status="400"}': 1,
        "compressae_search_seconds_count": 3,
        'compressae_search_seconds_bucket{le="+Inf"}': 3,
        "compressae_version": len(shards_of(catalogue)),
        "compressae_rows": N,
        "compressae_cached_results": 4,
        "compressae_stale": 0,
    }
    assert {name: float(values[name]) for name in expected} == expected
    assert scored >= 4 * sum(min(20, len(s)) for s in shards_of(catalogue))
    below = [
        float(v) for k, v in values.items() if k.startswith("compressae_search_seconds_bucket")
    ]
    assert below == sorted(below)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    {
        "no JSON": ("/search", "{", "expected a JSON object of"),
        "deep": ("/search", "[" * 100_000, "expected a JSON object of"),
        "a list": ("/search", [], "expected an object"),
        "no queries": ("/search", {"queries": []}, "0 queries; expected 1 to 64"),
        "too many": ("/search", {"queries": [[0.0] * D] * 65}, "65 queries"),
        "one query": ("/search", {"queries": [1.0] * D}, "lists of as many numbers"),
        "uneven": ("/search", {"queries": [[1.0], [1.0, 2.0]]}, "lists of as many numbers"),
        "texts": ("/search", {"queries": [["1"] * D]}, "lists of as many numbers"),
        "NaN": ("/search", '{"queries": [[NaN]]}', "NaN is no number"),
        "zeros": ("/search", {"queries": [[0] * D]}, "zero"),
        "infinite": ("/search", {"queries": [[1e39] * D]}, "infin"),
        "narrow": ("/search", {"queries": [[1.0] * 3]}, "rows of 3 columns; expected 10"),
        "unknown": ("/search", {"queries": [[1.0] * D], "K": 3}, "'K' is unknown"),
        "k": ("/search", {"queries": [[1.0] * D], "k": 0}, "k: 0; expected 1 or more"),
        "float k": ("/search", {"queries": [[1.0] * D], "k": 2.0}, "k: 2.0; expected int"),
        "large k": ("/search", {"queries": [[1.0] * D], "k": 1001}, "at most 1000"),
        "where": ("/search", {"queries": [[1.0] * D], "where": "prise < 3"}, "prise"),
        "candidates": ("/search", {"queries": [[1.0] * D], "candidates": 3}, "3 candidates"),
        "exclude": ("/search", {"queries": [[1.0] * D], "exclude": []}, "expected one a query: 1"),
        "ids": ("/similar", {"ids": []}, "0 queries"),
        "float ids": ("/similar", {"ids": [1.5]}, "ids"),
        "huge ids": ("/similar", {"ids": [10**30]}, "10000|too large"),
    }.values(),
)  # fmt: skip
def test_requests_that_cannot_be_are_one_line(client, path, body, message):
    content = body if isinstance(body, str) else json.dumps(body)
    response = client.post(path, content=content)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert re.search(message, error) and "\n" not in error


def test_one_long_text_among_many_takes_no_room_for_each(client, catalogue):
    """An array of texts has room for the longest in each of them: 4 TB here."""
    many = ["a" * 1_000_000, *["b"] * 1_000_000]
    limits = Limits(body_bytes=1 << 23)
    with TestClient(Service(catalogue, threads=1, limits=limits).app()) as client:
        for body in ({"allowed": many}, {"exclude": [many]}, {"queries": [many]}):
            answer = client.post("/search", json={"queries": [[1.0] * D], **body})
            assert answer.status_code == 400 and len(answer.text) < 500
        assert client.post("/similar", json={"ids": many[:20]}).status_code == 400


def test_a_fault_while_versions_are_followed_is_told_and_passes(catalogue, monkeypatch):
    service = Service(catalogue, threads=1, refresh=0.02)
    advance = service.advance

    def fail():
        raise MemoryError("none left")

    monkeypatch.setattr(service, "advance", fail)
    with TestClient(service.app()) as client:
        health = _waited_for(client, "stale")
        assert health["error"] == "MemoryError: none left"
        monkeypatch.setattr(service, "advance", advance)
        assert _waited_for(client, "ok")["status"] == "ok"


def test_ids_of_the_other_kind_are_refused(client, catalogue, table):
    other = [1] if catalogue.has_text_ids else ["1"]
    for path, body in (
        ("/similar", {"ids": other}),
        ("/search", {"queries": table[:1].tolist(), "allowed": other}),
        ("/search", {"queries": table[:1].tolist(), "exclude": [other]}),
    ):
        response = client.post(path, json=body)
        assert response.status_code == 400 and "the catalogue's ids are" in response.text


def test_long_requests_are_refused(catalogue):
    service = Service(catalogue, threads=1, limits=Limits(body_bytes=100))
    with TestClient(service.app()) as client:
        response = client.post("/search", content=b" " * 101)
    assert response.status_code == 413 and "100 bytes" in response.text


def test_other_methods_and_places_are_refused(client):
    assert client.get("/search").status_code == 405
    assert client.post("/health").status_code == 405
    assert client.put("/search").status_code == 405
    assert client.get("/segments").status_code == 404


@pytest.mark.parametrize("catalogue", KINDS[:1], indirect=True)
def test_too_many_requests_at_once_are_refused(catalogue, table, monkeypatch):
    entered, leave = threading.Event(), threading.Event()
    search = Catalogue.search

    def slow(self, *arguments, **options):
        entered.set()
        assert leave.wait(10)
        return search(self, *arguments, **options)

    monkeypatch.setattr(Catalogue, "search", slow)
    service = Service(catalogue, threads=1, limits=Limits(concurrent=1))
    body = {"queries": table[:1].tolist()}
    with TestClient(service.app()) as client:
        first = []
        thread = threading.Thread(target=lambda: first.append(client.post("/search", json=body)))
        thread.start()
        assert entered.wait(10)
        refused = client.post("/search", json=body)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        leave.set()
        thread.join()
        assert first[0].status_code == 200
        assert client.post("/search", json=body).status_code == 200


@pytest.mark.parametrize("is_sharded", [False, True], ids=["one", "shards"])
def test_sparse_queries_are_answered_exactly(tmp_path, is_sharded):
    rows = sparse.csr_array(np.random.default_rng(0).integers(-2, 3, (N, 9)).astype(np.float32))
    if is_sharded:
        catalogue = in_shards(tmp_path / "c", None, SparseCodes.from_scipy(rows))
    else:
        catalogue = Catalogue.create(tmp_path / "c", None, rows, threads=1)
    with TestClient(Service(catalogue, threads=1).app()) as client:
        queries = [{"latents": [4, 0], "values": [1, -0.5]}, {"latents": [], "values": []}]
        dense = np.zeros((2, 9), np.float32)
        dense[0, [4, 0]] = 1, -0.5
        answered(
            client.post("/search", json={"queries": queries, "k": 5}),
            catalogue.search(sparse.csr_array(dense), 5),
        )
        answered(
            client.post("/similar", json={"ids": [7], "k": 5}),
            catalogue.search(rows[[7]], 5, exclude=[[7]]),
        )
        for query in (
            [1.0] * 9,
            {"latents": [1]},
            {"latents": [1, 1], "values": [1, 2]},
            {"latents": [9], "values": [1]},
            {"latents": [-1], "values": [1]},
            {"latents": [1.5], "values": [1]},
            {"latents": [1], "values": ["1"]},
            {"latents": [[1]], "values": [[1]]},
            {"latents": [[1], [2, 3]], "values": [1]},
            {"latents": [1], "values": [1e39]},
            {"latents": [1], "values": [10**400]},
            {"latents": [True], "values": [1]},
            {"latents": 1, "values": 1},
        ):
            assert client.post("/search", json={"queries": [query]}).status_code == 400
        alike = client.post("/similar", json={"ids": [150, 7, 120], "k": 5}).json()["hits"]
        assert [[h["id"] for h in hits] for hits in alike] == catalogue.search(
            rows[[150, 7, 120]], 5, exclude=[[150], [7], [120]]
        ).ids.tolist()
        assert client.get("/").json()["similarity"] == "dot"
        refused = client.post("/search", json={"queries": queries, "candidates": 5})
        assert refused.status_code == 400 and "exact" in refused.text


def _to_rerank(catalogue, table):
    """The table itself where row numbers are ids; else shuffled, and the ids of its rows."""
    if not catalogue.has_text_ids:
        return table
    order = np.random.default_rng(3).permutation(len(table))
    return table[order], ids_of(catalogue, order)


def test_answers_are_reranked_where_there_is_a_table(catalogue, table):
    rerank = _to_rerank(catalogue, table)
    with TestClient(Service(catalogue, threads=1, entries=9, rerank=rerank).app()) as client:
        body = {"queries": table[:3].tolist(), "k": 5}
        for _ in range(2):
            answered(
                client.post("/search", json=body), catalogue.search(table[:3], 5, rerank=rerank)
            )
        # A row is nearest to itself in full precision, with a cosine of 1.
        best = [hits[0] for hits in client.post("/search", json=body).json()["hits"]]
        assert [hit["id"] for hit in best] == ids_of(catalogue, range(3))
        assert [hit["score"] for hit in best] == pytest.approx([1, 1, 1], abs=1e-6)


def _cut(path):
    with path.open("r+b") as file:
        file.truncate(1000)


def _spoil(path):
    rows = np.load(path)
    np.save(path, np.full_like(rows, np.nan))


@pytest.mark.parametrize("damage", [Path.unlink, _cut, _spoil], ids=["lost", "cut", "spoilt"])
def test_a_table_that_is_damaged_later_is_the_services_fault(tmp_path, model, table, damage):
    catalogue = Catalogue.create(tmp_path / "c", model.projection, compress(model, table))
    path = tmp_path / "items.npy"
    np.save(path, table)
    service = Service(catalogue, threads=1, refresh=0.02, rerank=open_embeddings(path))
    body = {"queries": table[:1].tolist()}
    with TestClient(service.app()) as client:
        before = client.post("/search", json=body).json()
        damage(path)
        response = client.post("/search", json=body)
        assert response.status_code == 503
        assert "items.npy" in response.json()["error"]
        assert client.post("/search", json=body | {"k": 0}).status_code == 400
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failing")
        assert "items.npy" in health.json()["error"]
        np.save(path, table)
        for _ in range(200):
            if client.get("/health").status_code == 200:
                break
            time.sleep(0.02)
        assert client.get("/health").json()["status"] == "ok"
        assert client.post("/search", json=body).json() == before


def test_a_version_whose_rows_the_table_lacks_is_not_moved_to(catalogue, model, table):
    writer = Catalogue.open(shards_of(catalogue)[-1].path)
    rerank = _to_rerank(catalogue, table)
    service = Service(catalogue, threads=1, entries=9, refresh=0.02, rerank=rerank)
    body = {"queries": table[:2].tolist()}
    with TestClient(service.app()) as client:
        before = client.post("/search", json=body).json()
        new = ids_of(catalogue, [N])
        columns = {"price": [1], "brand": ["b"]}
        writer.add(encode_like(model, table[:1], writer.like), new, columns)
        health = _waited_for(client, "stale")
        assert health["status"] == "stale" and health["version"] == version_of(catalogue)
        said = f"no row of id {new[0]}" if catalogue.has_text_ids else f"for ids up to {N}"
        assert said in health["error"]
        assert client.post("/search", json=body).json() == before
        with writer.writing() as change:
            change.remove(new)
            other = encode_like(model, -table[:1], writer.like)
            change.update(ids_of(catalogue, [N - 1]), other)
        assert _waited_for(client, "ok")["version"] == version_of(open_catalogue(catalogue.path))
        newest = open_catalogue(catalogue.path).search(table[:2], 10, rerank=rerank)
        answered(client.post("/search", json=body), newest)


@contextmanager
def serving(path, *options):
    """A service in a process of its own: its address and the process."""
    command = [sys.executable, "-m", "compressae", "serve", path, "--port", 0, *options]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        yield re.search(r"http://\S+", process.stderr.readline())[0], process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def served(catalogue):
    with serving(catalogue.path, "--refresh", 0.05, "--max-requests", 1) as service:
        yield service


def post(address, path, body):
    request = urllib.request.Request(address + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def key_of(version):
    """A version as a key: of shards they are a list in JSON."""
    return tuple(version) if isinstance(version, list) else version


def test_no_answer_is_wrong_while_a_writer_changes_the_catalogue(served, catalogue, table):
    """Each answer says its version, and is the best row of that version."""
    address, process = served
    best = {key_of(catalogue.version): catalogue.search(table, 1).ids[:, 0].tolist()}
    answers, stop = [], threading.Event()
    post(address, "/search", {"queries": table[:1].tolist()})  # Kernels are compiled.

    def ask(seed):
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            some = rng.integers(0, N, 3)
            body = {"queries": table[some].tolist(), "k": 1}
            try:
                answers.append((some, post(address, "/search", body)))
            except urllib.error.HTTPError as error:  # The other client's request runs.
                assert error.code == 503

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    shard = shards_of(catalogue)[-1]
    for _ in range(8):
        found = best[key_of(catalogue.version)]
        shard.remove([next(id for id in found if shard.known([id])[0])])
        best[key_of(catalogue.version)] = catalogue.search(table, 1).ids[:, 0].tolist()
        time.sleep(0.15)
    stop.set()
    for thread in threads:
        thread.join()
    versions = {key_of(answer["version"]) for _, answer in answers}
    assert len(versions) >= 3
    for some, answer in answers:
        found = [hits[0]["id"] for hits in answer["hits"]]
        assert found == [best[key_of(answer["version"])][i] for i in some]
    # It stops in good order.
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)
    with pytest.raises(urllib.error.URLError):
        post(address, "/search", {"queries": table[:1].tolist()})


def test_the_command_needs_an_index_and_a_port(tmp_path, catalogue):
    code, _, err = call("serve", tmp_path)
    assert code == 1 and "config.json" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = call("serve", catalogue.path, "--port", port)
    assert code == 1 and f"127.0.0.1:{port}: cannot be listened at" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda shards: shards.joinpath(CATALOGUES).write_text("{"), "index the shards again"),
        (lambda shards: shards.joinpath("part-00001").rename(shards / "away"), "no such folder"),
        (lambda shards: shards.joinpath(CATALOGUES).unlink(), "config.json"),
    ],
    ids=["list", "shard", "no list"],
)
def test_shards_that_are_damaged_are_refused_in_one_line(tmp_path, model, table, damage, said):
    shards = in_shards(tmp_path / "c", model.projection, compress(model, table))
    damage(shards.path)
    code, out, err = call("serve", shards.path)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert said in err and str(shards.path) in err


@pytest.mark.parametrize("catalogue", KINDS[1::2], indirect=True)
def test_the_command_reranks_by_the_ids_of_a_column(tmp_path, catalogue, table):
    order = np.random.default_rng(3).permutation(N)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(table[order].ravel()), D)
    items = pa.table({"sku": ids_of(catalogue, order), "vector": vectors})
    pq.write_table(items, tmp_path / "items.parquet")
    rerank = ("--rerank", tmp_path / "items.parquet")
    code, _, err = call("serve", catalogue.path, *rerank)
    assert code == 1 and "give the column of the table's ids, --rerank-id-column" in err
    code, _, err = call("serve", catalogue.path, "--rerank-id-column", "sku")
    assert code == 2 and "--rerank-id-column is of --rerank, which is missing" in err
    with serving(catalogue.path, *rerank, "--rerank-id-column", "sku") as (address, _):
        answer = post(address, "/search", {"queries": table[:9].tolist(), "k": 3})
    expected = catalogue.search(
        table[:9], 3, rerank=RerankTable(table, ids_of(catalogue, range(N)))
    )
    assert [[hit["id"] for hit in hits] for hits in answer["hits"]] == expected.ids.tolist()
    assert [hits[0]["score"] for hits in answer["hits"]] == pytest.approx([1] * 9, abs=1e-6)


def test_answers_do_not_wait_for_acknowledgements():
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_missing_libraries_are_named(catalogue, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(InputError, match=r"pip install 'compressae\[serve\]'"):
        Service(catalogue, threads=1).app()


def test_what_json_lacks_is_null_or_a_text(tmp_path, model, table):
    columns = pa.table(
        {
            "price": [float("nan"), float("inf"), 1.5],
            "day": pa.array([0, 1, 2], pa.date32()),
            "time": pa.array([1, 2, 3], pa.timestamp("ns")),
            "raw": [b"\xff", b"", None],
            "list": [[1.0, float("nan")], [], None],
        }
    )
    codes = compress(model, table).take(np.arange(3))
    catalogue = Catalogue.create(tmp_path / "c", model.projection, codes, metadata=columns)
    with TestClient(Service(catalogue, threads=1).app()) as client:
        response = client.post(
            "/search", json={"queries": table[:1].tolist(), "k": 3, "metadata": True}
        )
    assert response.status_code == 200, response.text
    found = {hit["id"]: hit["metadata"] for hit in response.json()["hits"][0]}
    assert found == {
        0: {
            "price": None, "day": "1970-01-01", "time": "1970-01-01 00:00:00.000000001",
            "raw": "ff", "list": [1.0, None],
        },
        1: {
            "price": None, "day": "1970-01-02", "time": "1970-01-01 00:00:00.000000002",
            "raw": "", "list": [],
        },
        2: {
            "price": 1.5, "day": "1970-01-03", "time": "1970-01-01 00:00:00.000000003",
            "raw": None, "list": None,
        },
    }  # fmt: skip


def test_a_score_that_overflows_is_null(tmp_path, model, table):
    codes = compress(model, 1e20 * table, similarity="dot")
    catalogue = Catalogue.create(tmp_path / "c", model.projection, codes)
    with TestClient(Service(catalogue, threads=1).app()) as client:
        response = client.post("/search", json={"queries": (1e20 * table[:1]).tolist(), "k": 1})
    assert response.json()["hits"][0][0]["score"] is None


def test_too_many_candidates_are_refused(catalogue, table):
    service = Service(catalogue, threads=1, limits=Limits(candidates=20))
    with TestClient(service.app()) as client:
        body = {"queries": table[:1].tolist(), "k": 5}
        assert client.post("/search", json=body | {"candidates": 20}).status_code == 200
        for candidates in (21, "all"):
            response = client.post("/search", json=body | {"candidates": candidates})
            assert response.status_code == 400 and "at most 20" in response.text


def test_all_errors_are_json_and_counted(client):
    for response in (client.get("/nowhere"), client.get("/search"), client.put("/search")):
        assert response.json()["error"]
    text = client.get("/metrics").text
    assert 'compressae_responses_total{status="404"} 1.0' in text
    assert 'compressae_responses_total{status="405"} 2.0' in text


def test_ids_that_cannot_be_are_refused(client, catalogue, table):
    wrong = ["a\0", "", "a" * 256] if catalogue.has_text_ids else [-1, 2**63 - 1, 2**63]
    for id in wrong:
        response = client.post("/similar", json={"ids": [id]})
        assert response.status_code == 400, (id, response.text)
    body = {"queries": table[:1].tolist(), "k": 3}
    if not catalogue.has_text_ids:  # No row has such an id: nothing is left out.
        answered(
            client.post("/search", json=body | {"exclude": [[2**63 - 1]]}),
            catalogue.search(table[:1], 3),
        )


def test_a_slow_client_holds_up_no_other(served, table):
    """The service of the fixture runs one request at a time."""
    address, _ = served
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        assert post(address, "/search", {"queries": table[:1].tolist()})["hits"]


def test_a_table_that_does_not_go_with_the_catalogue_stops_the_service(catalogue, table):
    ids = ids_of(catalogue, range(N))
    if catalogue.has_text_ids:
        with pytest.raises(InputError, match="rows named by texts"):
            Service(catalogue, threads=1, rerank=table).warm()
    else:
        Service(catalogue, threads=1, rerank=table).warm()
        with pytest.raises(InputError, match="expected rows of 10 for ids up to"):
            Service(catalogue, threads=1, rerank=table[:5]).warm()
    Service(catalogue, threads=1, rerank=(table, ids)).warm()
    with pytest.raises(InputError, match="no row of id .*, which is in the catalogue"):
        Service(catalogue, threads=1, rerank=(table[:-1], ids[:-1])).warm()
    with pytest.raises(InputError, match="299 ids for 300 rows"):
        Service(catalogue, threads=1, rerank=(table, ids[1:]))
    others = list(range(N)) if catalogue.has_text_ids else list(map(str, range(N)))
    with pytest.raises(InputError, match="rerank: ids are .*; the catalogue's are"):
        Service(catalogue, threads=1, rerank=(table, others)).warm()
