"""A catalogue as it grows: writing, opening, changing, and searching with little memory."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

from benchmarks.catalogue.rows import (
    DIM,
    RESIDUAL_BYTES,
    about,
    dictionary,
    folder_bytes,
    p50,
    planted,
    timed,
    write_record,
)
from compressae import compress, encode_like
from compressae.retrieval import Catalogue, CompressedIndex, PackedCodes

#: Distinct rows that are encoded; larger catalogues repeat their codes in random order.
ENCODED = 100_000
QUERIES = 200

#: Opens a catalogue in a fresh process, and searches it within a limit of memory if there is one.
CHILD = """
import json, resource, sys, time
import numpy as np
from compressae.retrieval import Catalogue

path, queries, limit = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])

def resident():
    with open("/proc/self/status") as file:
        return {k: int(v.split()[0]) * 1024 for k, v in (l.split(":") for l in file)
                if k in ("RssAnon", "RssFile", "VmHWM")}

Catalogue, np.empty(1)
before = resident()
started = time.perf_counter()
catalogue = Catalogue.open(path, threads=1)
opened = time.perf_counter() - started
after = resident()
started = time.perf_counter()
hits = catalogue.search(queries[:1], 100)
first = time.perf_counter() - started
if limit:  # No more anonymous memory than now and so much; mapped pages come and go.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
ids = catalogue.search(queries, 100).ids
print(json.dumps({
    "open_ms": 1e3 * opened, "first_search_ms": 1e3 * first,
    "open_anonymous_mb": (after["RssAnon"] - before["RssAnon"]) / 1e6,
    "open_mapped_mb": (after["RssFile"] - before["RssFile"]) / 1e6,
    "after_searches": resident(), "ids": ids.tolist(),
}))
"""


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", multiple=True, type=int, default=(1_000_000, 10_000_000), show_default=True)
def growth(output: Path, rows: tuple[int, ...]) -> None:
    """Write catalogues of so many rows; time opening, adding 1,000 rows, removing, and searching.

    Rows are packed codes of 100,000 planted rows, repeated in random order. Opening is measured in
    a fresh process whose pages are in the page cache, resident memory by kind. OUTPUT gets
    growth.json, a row at a time.
    """
    output.mkdir(parents=True, exist_ok=True)
    record = about("python scripts/benchmarks/catalogue growth", ())
    model = dictionary()
    table = planted(ENCODED, 2)
    codes = compress(model, table, residual_bytes=RESIDUAL_BYTES)
    more = encode_like(model, planted(1000, 3), codes)
    queries = planted(QUERIES, 4)
    np.save(output / "queries.npy", queries)
    record |= {"bytes_a_row": codes.nbytes / len(codes), "dim": DIM, "points": []}
    for n in rows:
        point = _point(output / "catalogue", n, model.projection, codes, more, queries)
        record["points"].append(point)
        write_record(output / "growth.json", record)
        click.echo(json.dumps(point))
    (output / "queries.npy").unlink()


def _point(
    path: Path, n: int, projection, codes: PackedCodes, more: PackedCodes, queries: np.ndarray
) -> dict:
    shutil.rmtree(path, ignore_errors=True)
    repeated = codes.take(np.random.default_rng(n).integers(0, len(codes), n))
    build_s, index = timed(lambda: CompressedIndex(projection, repeated, threads=1))
    write_s, catalogue = timed(lambda: Catalogue.write(path, index))
    point = {"rows": n, "build_s": build_s, "write_s": write_s, "bytes": folder_bytes(path)}
    point["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    fresh = _child(path, queries)
    expected = index.search(queries, 100)
    assert fresh.pop("ids") == expected.ids.tolist()
    point |= {key: fresh[key] for key in fresh if key != "after_searches"}
    point["catalogue_over_memory"] = _ratio(Catalogue.open(path, threads=1), index, queries)
    point["p50_ms"] = p50(lambda query: index.search(query, 100), queries)
    # Changes, each durable when it returns.
    adds, written = [], []
    for _ in range(5):
        before = folder_bytes(path)
        adds.append(1e3 * timed(lambda: catalogue.add(more))[0])
        written.append(folder_bytes(path) - before)
    point |= {"add_1000_ms": float(np.median(adds)), "add_1000_bytes": int(np.median(written))}
    removes = [1e3 * timed(lambda i=i: catalogue.remove([i]))[0] for i in range(5)]
    point["remove_1_ms"] = float(np.median(removes))
    point["verify_s"] = timed(lambda: Catalogue.open(path, threads=1, verify=True))[0]
    point["compact_s"] = timed(catalogue.compact)[0]
    catalogue.prune()
    shutil.rmtree(path)
    return point


def _child(path: Path, queries: np.ndarray) -> dict:
    """Open and search in a fresh process."""
    command = [sys.executable, "-c", CHILD, str(path), str(path.parent / "queries.npy"), "0"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _ratio(catalogue: Catalogue, index: CompressedIndex, queries: np.ndarray) -> float:
    """Median time of a search of the catalogue over one of the index in memory, query by query."""
    ratios = []
    for query in np.concatenate([queries, queries]):
        mine = timed(lambda query=query: catalogue.search(query[None], 100))[0]
        ratios.append(mine / timed(lambda query=query: index.search(query[None], 100))[0])
    return float(np.median(ratios[len(queries) :]))
