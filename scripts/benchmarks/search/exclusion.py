"""What it costs that each query leaves rows out: none, 50, 1,000."""

import json
import time
from pathlib import Path

import click
import numpy as np
from benchmarks.search.dense_search import more_rows
from scipy import sparse

from compressae import TrainConfig, compress, open_embeddings, train
from compressae.evaluation.protocol import machine
from compressae.retrieval import CompressedIndex

TOP, TIMED = 20, 300
LEFT_OUT = (0, 50, 1000)
SEARCHES = {"lists": {"candidates": 3000}, "scan": {"candidates": "all"}}


@click.command()
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", type=int, help="Made from real rows beyond their number.  [default: all]")
@click.option("--latents", default=1024, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def exclusion(embeddings: Path, output: Path, rows: int | None, latents: int, rounds: int) -> None:
    """The time of one query that leaves out none, 50 or 1,000 of its best rows.

    Queries are rows; those left out are their best, as what a user has seen is. exclusion.json in
    OUTPUT gets the medians of 300 queries each, on one thread.
    """
    table = open_embeddings(embeddings).to_array()
    items = more_rows(table, rows or len(table))
    model = train(table, TrainConfig(latents, nonzeros=8))
    index = CompressedIndex(
        model.projection, compress(model, items, nonzeros=8, residual_bytes=16), threads=1
    )
    queries = items[np.random.default_rng(0).choice(len(items), TIMED, replace=False)]
    best = index.search(queries, max(LEFT_OUT), candidates="all").ids
    points = []
    for name, search in SEARCHES.items():
        times: dict[int, list[float]] = {count: [] for count in LEFT_OUT}
        for _ in range(rounds):
            for query, ids in zip(queries, best, strict=True):
                for count in LEFT_OUT:  # In turn, so that all see the same machine.
                    pairs = sparse.csr_array(
                        (np.ones(count), (np.zeros(count, int), ids[:count])), (1, len(items))
                    )
                    pairs.sort_indices()
                    left_out = pairs if count else None
                    started = time.perf_counter()
                    index.search(query[None], TOP, exclude=left_out, **search)
                    times[count].append(1e3 * (time.perf_counter() - started))
        medians = {count: float(np.median(values)) for count, values in times.items()}
        for count, ms in medians.items():
            points.append({"search": name, "rows": len(items), "left_out": count, "p50_ms": ms})
            click.echo(
                f"{name}, {len(items):,} rows, {count:,} left out: {ms:.3f} ms "
                f"({ms / medians[0]:.2f})"
            )
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "points": points}
    (output / "exclusion.json").write_text(json.dumps(record, indent=1) + "\n")
