"""A result cache under queries that repeat as Zipf's law has it."""

import shutil
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.catalogue.rows import RESIDUAL_BYTES, about, dictionary, planted, write_record
from compressae import compress
from compressae.retrieval import CachedSearch, Catalogue

DISTINCT, K = 100_000, 10


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--requests", default=30_000, show_default=True)
def cache(output: Path, rows: int, requests: int) -> None:
    """Search one query at a time of 100,000 that are drawn by Zipf's law, with caches of several
    sizes.

    Query i is drawn in proportion to 1/(i + 1)^s. OUTPUT gets cache.json.
    """
    output.mkdir(parents=True, exist_ok=True)
    command = f"python scripts/benchmarks/catalogue cache --rows {rows} --requests {requests}"
    record = about(command, ()) | {"rows": rows, "distinct": DISTINCT, "points": []}
    path = output / "catalogue"
    shutil.rmtree(path, ignore_errors=True)
    model = dictionary()
    codes = compress(model, planted(100_000, 2), residual_bytes=RESIDUAL_BYTES)
    repeated = codes.take(np.random.default_rng(0).integers(0, len(codes), rows))
    catalogue = Catalogue.create(path, model.projection, repeated, threads=1)
    queries = planted(DISTINCT, 4)
    catalogue.search(queries[:9], K)  # Kernels are compiled.
    for exponent in (0.8, 1.0, 1.2):
        share = np.arange(1, DISTINCT + 1) ** -exponent
        order = np.random.default_rng(1).choice(DISTINCT, requests, p=share / share.sum())
        for entries in (0, 1_000, 10_000, 100_000):
            point = {"zipf": exponent, "entries": entries} | _measure(
                CachedSearch(catalogue, entries), queries, order
            )
            record["points"].append(point)
            write_record(output / "cache.json", record)
            click.echo(str(point))
    shutil.rmtree(path)


def _measure(cached: CachedSearch, queries: np.ndarray, order: np.ndarray) -> dict[str, Any]:
    """Times of the second half of the requests; the first fills the cache."""
    half = len(order) // 2
    for i in order[:half]:
        cached.search(queries[i : i + 1], K)
    before, times = cached.counters.hits, []
    for i in order[half:]:
        started = time.perf_counter()
        cached.search(queries[i : i + 1], K)
        times.append(1e3 * (time.perf_counter() - started))
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "hit_share": (cached.counters.hits - before) / len(times),
        "mean_ms": float(np.mean(times)),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "held_mb": cached.nbytes / 1e6,
    }
