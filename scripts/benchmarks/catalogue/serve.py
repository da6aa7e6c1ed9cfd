"""`compressae serve` under load, while a writer makes a new version every second."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.catalogue.rows import RESIDUAL_BYTES, about, dictionary, planted, write_record
from compressae import compress
from compressae.retrieval import Catalogue

K, QUERIES = 10, 2000

#: Posts the bodies of a file in turn.
SCRIPT = """
bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
math.randomseed(os.time())
next_body = math.random(#bodies)
request = function()
  next_body = next_body %% #bodies + 1
  return wrk.format("POST", "/search", {["content-type"] = "application/json"}, bodies[next_body])
end
"""


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--seconds", default=20, show_default=True, help="Of each load.")
@click.option("--connections", default="1,8,32", show_default=True)
def serve(output: Path, rows: int, seconds: int, connections: str) -> None:
    """Load the service with one query a request by `wrk`, which shares the processors with it.

    Besides, a writer updates 100 rows every second, and a client compares each of its answers, ids
    and scores, with a search of the version that the answer names. OUTPUT gets serve.json.
    """
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is not installed; apt install wrk")
    output.mkdir(parents=True, exist_ok=True)
    command = f"python scripts/benchmarks/catalogue serve --rows {rows} --seconds {seconds}"
    record = about(command, ("starlette", "uvicorn", "httptools"))
    record |= {"rows": rows, "points": []}
    path = output / "catalogue"
    shutil.rmtree(path, ignore_errors=True)
    model = dictionary()
    codes = compress(model, planted(100_000, 2), residual_bytes=RESIDUAL_BYTES)
    repeated = codes.take(np.random.default_rng(0).integers(0, len(codes), rows))
    writer = Catalogue.create(path, model.projection, repeated)
    queries = planted(QUERIES, 4)
    bodies = [json.dumps({"queries": [query.tolist()], "k": K}) for query in queries]
    (output / "bodies.txt").write_text("\n".join(bodies) + "\n")
    (output / "post.lua").write_text(SCRIPT % (output / "bodies.txt"))
    for entries in (0, 100_000):
        for changing in (False, True):
            with _served(path, entries) as address:
                for count in map(int, connections.split(",")):
                    point: dict[str, Any] = {"cache": entries, "connections": count}
                    with _beside(changing, writer, codes, address, queries, rows) as checked:
                        point |= _load(output / "post.lua", address, count, seconds)
                    point |= checked
                    record["points"].append(point)
                    write_record(output / "serve.json", record)
                    click.echo(str(point))
            writer.prune()
    shutil.rmtree(path)


class _served:
    """The service in a process of its own."""

    def __init__(self, path: Path, entries: int) -> None:
        command = [sys.executable, "-m", "compressae", "serve", str(path), "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--cache", str(entries)], stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> str:
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        match = re.search(r"http://\S+", line)
        if match is None:
            raise click.ClickException(f"no service: {line}")
        return match[0]

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()


class _beside:
    """A writer that makes a version a second, and a client that checks its answers."""

    def __init__(
        self,
        changing: bool,
        writer: Catalogue,
        codes: Any,
        address: str,
        queries: np.ndarray,
        rows: int,
    ) -> None:
        self.said: dict[str, Any] = {"changing": changing}
        self._stop = threading.Event()
        self._threads = []
        if changing:
            self._threads = [
                threading.Thread(target=self._write, args=(writer, codes, rows)),
                threading.Thread(target=self._check, args=(writer.path, address, queries)),
            ]

    def _write(self, writer: Catalogue, codes: Any, rows: int) -> None:
        rng, first = np.random.default_rng(3), writer.version
        while not self._stop.wait(1):
            ids = rng.choice(rows, 100, replace=False)
            writer.update(ids, codes.take(rng.integers(0, len(codes), 100)))
        self.said["versions"] = writer.version - first

    def _check(self, path: Path, address: str, queries: np.ndarray) -> None:
        rng, answers = np.random.default_rng(4), []
        while not self._stop.wait(0.05):
            i = int(rng.integers(len(queries)))
            body = json.dumps({"queries": [queries[i].tolist()], "k": K}).encode()
            with urllib.request.urlopen(f"{address}/search", body) as response:
                answers.append((i, json.load(response)))
        wrong, opened = 0, {}
        for i, answer in answers:
            number = answer["version"]
            if number not in opened:
                opened = {number: Catalogue.open(path, version=number, threads=1)}
            hits = opened[number].search(queries[i : i + 1], K)
            found = [hit["id"] for hit in answer["hits"][0]]
            scores = [hit["score"] for hit in answer["hits"][0]]
            wrong += found != hits.ids[0].tolist() or not np.allclose(scores, hits.scores[0])
        self.said |= {"checked": len(answers), "wrong": wrong}
        self.said["versions_seen"] = len({answer["version"] for _, answer in answers})

    def __enter__(self) -> dict[str, Any]:
        for thread in self._threads:
            thread.start()
        return self.said

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _load(script: Path, address: str, connections: int, seconds: int) -> dict[str, Any]:
    """Requests a second and latencies, as wrk says; two seconds to warm up are not counted."""
    command = ["wrk", "-t1", f"-c{connections}", "-s", str(script), "--latency", address]
    subprocess.run([*command, "-d2s"], capture_output=True, check=True)
    started = time.perf_counter()
    said = subprocess.run(
        [*command, f"-d{seconds}s"], capture_output=True, text=True, check=True
    ).stdout
    result: dict[str, Any] = {"seconds": time.perf_counter() - started}
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    for share in ("50", "99"):
        match = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", said)
        assert match is not None, said
        result[f"p{share}_ms"] = float(match[1]) * units[match[2]]
    requests = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert requests is not None, said
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    errors = re.search(r"Socket errors: .*", said)
    return result | {
        "requests_per_second": float(requests[1]),
        "refused": int(failed[1]) if failed else 0,
        "socket_errors": errors[0] if errors else "none",
    }
