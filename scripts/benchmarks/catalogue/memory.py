"""A catalogue larger than memory: searched by a process within a memory cgroup."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np

from benchmarks.catalogue.rows import (
    RESIDUAL_BYTES,
    about,
    dictionary,
    folder_bytes,
    planted,
    write_record,
)
from compressae import compress
from compressae.retrieval import Catalogue

#: Queries one by one, twice, and in a batch.
SINGLE, BATCH = 50, 200

#: Enters the cgroup, opens the catalogue and searches.
CHILD = """
import json, os, sys, time
path, queries, group, single_queries = *sys.argv[1:4], int(sys.argv[4])
if group:
    with open(group + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
import numpy as np
from compressae.retrieval import Catalogue

queries = np.load(queries)
catalogue = Catalogue.open(path, threads=1)


def read_bytes():
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))


def single():
    times, ids, before = [], [], read_bytes()
    for query in queries[:single_queries]:
        started = time.perf_counter()
        ids.append(catalogue.search(query[None], 100).ids[0].tolist())
        times.append(1e3 * (time.perf_counter() - started))
    figures = {
        "first_ms": times[0],
        "p50_ms": float(np.median(times)),
        "p90_ms": float(np.quantile(times, 0.9)),
        "read_mb_a_query": (read_bytes() - before) / 1e6 / len(times),
    }
    return figures, ids


cold, cold_ids = single()
warm, warm_ids = single()
before, started = read_bytes(), time.perf_counter()
ids = catalogue.search(queries, 100).ids.tolist()
batch = {"total_s": time.perf_counter() - started, "read_mb": (read_bytes() - before) / 1e6}
assert cold_ids == warm_ids == ids[:single_queries]
record = {"single_cold": cold, "single_again": warm, "batch": batch}
with open("/proc/self/status") as file:
    lines = [line.split() for line in file if line.startswith(("VmHWM", "RssAnon"))]
record["peak_resident_mb"], record["anonymous_mb"] = (int(line[1]) / 1e3 for line in lines)
print(json.dumps(record | {"ids": ids}))
"""


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=40_000_000, show_default=True)
@click.option("--limit-mb", default=512, show_default=True, help="Memory, caches too.")
@click.option("--keep", is_flag=True, help="Keep the catalogue, and use one that a run left.")
def memory(output: Path, rows: int, limit_mb: int, keep: bool) -> None:
    """Search a catalogue within a cgroup that holds a part of it, and without one.

    The limit counts the process and the pages of files that it has read; none are in the page cache
    at the start. Fifty queries are searched one by one, then again, then 200 in a batch. Needs a
    memory cgroup that it may make (root, cgroup v1 or v2). OUTPUT gets memory.json.
    """
    output.mkdir(parents=True, exist_ok=True)
    command = f"python scripts/benchmarks/catalogue memory --rows {rows} --limit-mb {limit_mb}"
    record = about(command, ())
    path = output / "catalogue"
    if not (keep and path.exists()):
        shutil.rmtree(path, ignore_errors=True)
        _make(path, rows)
    np.save(output / "queries.npy", planted(BATCH, 4))
    rows = len(Catalogue.open(path))
    record |= {"rows": rows, "catalogue_mb": folder_bytes(path) / 1e6, "limit_mb": limit_mb}
    free = _search(path, output / "queries.npy", "")
    with _cgroup(limit_mb << 20) as group:
        held = _search(path, output / "queries.npy", str(group))
    record["same_answers"] = free.pop("ids") == held.pop("ids")
    record |= {"without_limit": free, "within_limit": held}
    write_record(output / "memory.json", record)
    click.echo(json.dumps(record))
    if not keep:
        shutil.rmtree(path)
    (output / "queries.npy").unlink()


def _make(path: Path, rows: int) -> None:
    """Write a catalogue of the codes of 100,000 rows, repeated in random order."""
    model = dictionary()
    codes = compress(model, planted(100_000, 2), residual_bytes=RESIDUAL_BYTES)
    repeated = codes.take(np.random.default_rng(0).integers(0, len(codes), rows))
    Catalogue.create(path, model.projection, repeated)


def _evict(path: Path) -> None:
    """Drop a catalogue's pages from the page cache, so that the next process reads its own."""
    for file in path.rglob("*.safetensors"):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _search(path: Path, queries: Path, group: str) -> dict:
    _evict(path)
    command = [sys.executable, "-c", CHILD, str(path), str(queries), group, str(SINGLE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"exit {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


@contextmanager
def _cgroup(limit: int) -> Iterator[Path]:
    """A memory cgroup of its own, removed afterwards."""
    root = Path("/sys/fs/cgroup")
    first = (root / "memory").is_dir()
    group = (root / "memory" if first else root) / f"compressae-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
    except OSError as error:
        raise click.ClickException(f"no memory cgroup can be made here ({error})") from error
    try:
        yield group
    finally:
        group.rmdir()
