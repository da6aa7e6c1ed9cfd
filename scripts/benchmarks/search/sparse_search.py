"""Exact search of sparse codes beside other engines."""

import gc
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from benchmarks.search.engines import Engine, inverted, scipy_product, seismic, sindi
from benchmarks.search.measure import Point, Rounds, write
from benchmarks.search.synthetic_codes import CENTROIDS, LATENTS, QUERIES, SETS, make_codes
from scipy.sparse import csr_array

#: By name; the first one is what others are compared with.
ENGINES: dict[str, Callable[[csr_array], Engine]] = {
    "compressae int8": inverted.build,
    "compressae float32": inverted.build_float32,
    "VSAG SINDI float32": sindi.build,
    "Seismic": seismic.build,
    "scipy": scipy_product.build,
}
TOP = 100


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--queries", default=QUERIES, show_default=True, help="Timed one by one.")
@click.option("--smoke", is_flag=True, help="5,000 rows, 20 queries, one round: does it run?")
def sparse(output: Path, rows: int, rounds: int, queries: int, smoke: bool) -> None:
    """Exact search of sparse codes: 32 signed nonzeros out of 4,096, 1,000 queries, top 100.

    Whole calls are timed, one query each, in the form that each engine's own API takes: ours and
    scipy one scipy CSR row; VSAG's SINDI bounds, ids and values; Seismic ids and values.
    """
    count, centroids = QUERIES, CENTROIDS
    if smoke:
        rows, rounds, queries, count, centroids = 5000, 1, 20, 100, 500
    points: list[Point] = []
    missing: set[str] = set()
    for name, settings in SETS.items():
        click.echo(f"{name}: making {rows:,} codes", err=True)
        documents, asked = map(as_csr, make_codes(rows, count, centroids=centroids, **settings))
        turns = Rounds(asked, exact_ids(documents, asked, TOP), queries, rounds)
        for engine_name, build in ENGINES.items():
            click.echo(f"{name}: building {engine_name}", err=True)
            started = time.perf_counter()
            try:
                engine = build(documents)
            except ImportError as error:
                missing.add(f"{engine_name} ({error.name})")
                continue
            seconds = time.perf_counter() - started
            for setting in engine.settings:
                turns.add(engine_name, engine, setting, rows, seconds, name)
        of_set = turns.run()
        of_set[0].more["two_threads_over_one"] = inverted.two_threads_over_one(documents, asked)
        of_set[0].more["outside_kernels_ms"] = inverted.outside_kernels_ms(documents, asked)
        for point in of_set:
            point.p50_over_ours = point.p50_ms / of_set[0].p50_ms
        points += of_set
        del turns, documents
        gc.collect()
    facts = {"queries": queries, "rounds": rounds, "timed": "whole calls, scipy CSR rows"}
    write(output, "sparse", points, sorted(missing), facts)


def as_csr(codes: tuple[np.ndarray, np.ndarray]) -> csr_array:
    """Ids and values (n, k) as CSR rows (n, h), ids ascending."""
    ids, values = codes
    n, k = ids.shape
    indptr = np.arange(0, n * k + 1, k)
    rows = csr_array((values.ravel(), ids.ravel().astype(np.int32), indptr), shape=(n, LATENTS))
    rows.sort_indices()
    return rows


def exact_ids(documents: csr_array, queries: csr_array, K: int) -> np.ndarray:
    """Top K (q, K) by dot products in float64, rounded to float32, ties by smaller id."""
    matrix, dense = documents.astype(np.float64), queries.astype(np.float64).toarray()
    ids = np.empty((len(dense), K), np.int64)
    for i, query in enumerate(dense):
        scores = (matrix @ query).astype(np.float32)
        rows = np.flatnonzero(scores >= np.partition(scores, -K)[-K])
        ids[i] = rows[np.argsort(-scores[rows], kind="stable")[:K]]
    return ids
