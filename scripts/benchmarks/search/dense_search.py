"""Dense queries in, ids out, beside other engines."""

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
from benchmarks.search.engines import (
    Engine,
    annoy_trees,
    compressed,
    faiss_factory,
    hnswlib_graph,
    usearch_graph,
)
from benchmarks.search.measure import Rounds, write

from compressae import CompresSAE, TrainConfig, compress, open_embeddings
from compressae.cli.train import run as run_training
from compressae.retrieval import CompressedIndex, PackedCodes, exact_search
from compressae.retrieval.io.embeddings import unit_rows
from compressae.training.config import held_out_rows

QUERIES = 1000
LATENTS = 4096
TOP = 10
#: (nonzeros, residual bytes) of our codes; those that are searched by float32 weights as well.
CODES = ((6, 48), (8, 48), (16, 32), (8, 96), (16, 96))
FLOAT_CODES = "16+32"


@click.command()
@click.argument("embeddings", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", type=int, help="Rows searched; all of the table's when not given.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--queries", default=300, show_default=True, help="Timed one by one.")
@click.option("--codes", "names", help="Only these of our codes, as 8+48,8+96.")
@click.option("--without", default="", help="Engines to leave out, by parts of their names.")
@click.option("--steps", type=int, help="Training steps of our model; the recipe's when not given.")
def dense(
    embeddings: Path,
    output: Path,
    rows: int | None,
    rounds: int,
    queries: int,
    names: str | None,
    without: str,
    steps: int | None,
) -> None:
    """Dense queries in, ids out: rows of EMBEDDINGS, 1,000 of them the queries, top 10.

    --rows N above the table's adds rows x_i + (x_j − x_k) / 2 of random i, j, k.
    """
    items = open_embeddings(embeddings)
    held, rest = held_out_rows(len(items), QUERIES)
    asked = unit_rows(items.take(held))
    corpus = more_rows(unit_rows(items.take(np.sort(rest))), rows or len(rest))
    n, points, missing = len(corpus), [], []
    output.mkdir(parents=True, exist_ok=True)
    corpus_path = output / "corpus.npy"
    np.save(corpus_path, corpus)
    truth = exact_search(corpus, asked, TOP).ids

    turns = Rounds(asked, truth, queries, rounds)
    for index, name in our_indexes(embeddings, output, n, names, steps):
        engines = {f"compressae {name}": compressed.build(index, corpus_path)}
        if name == FLOAT_CODES:
            engines[f"compressae {name} float32 W"] = compressed.build_float32(index)
        for label, engine in engines.items():
            for setting in engine.settings:
                turns.add(label, engine, setting, n, 0.0)
    points += turns.run()

    for name, build in peers(n).items():
        if any(part and part in name for part in without.split(",")):
            continue
        click.echo(name, err=True)
        started = time.perf_counter()
        try:
            engine = build(corpus)
        except ImportError as error:
            missing.append(f"{name} ({error.name})")
            continue
        seconds = time.perf_counter() - started
        for setting in engine.settings:  # Setting by setting: each changes the index.
            turns = Rounds(asked, truth, queries, rounds)
            turns.add(name, engine, setting, n, seconds)
            points += turns.run()
        del engine
        gc.collect()
    corpus_path.unlink()
    facts = {"table": embeddings.name, "dim": corpus.shape[1], "queries": queries}
    write(output, "dense", points, missing, {**facts, "rounds": rounds})


def more_rows(rows: np.ndarray, n: int) -> np.ndarray:
    """The first n rows, or all followed by rows x_i + (x_j − x_k) / 2 of random i, j, k."""
    if n <= len(rows):
        return rows[:n]
    rng = np.random.default_rng(1)
    out = np.empty((n, rows.shape[1]), np.float32)
    out[: len(rows)] = rows
    for start in range(len(rows), n, 100_000):
        stop = min(start + 100_000, n)
        i, j, k = rng.integers(0, len(rows), (3, stop - start))
        out[start:stop] = unit_rows(rows[i] + (rows[j] - rows[k]) / 2)
    return out


def our_indexes(
    embeddings: Path, output: Path, rows: int, names: str | None, steps: int | None
) -> Iterator[tuple[CompressedIndex, str]]:
    """Our indexes of the corpus; model and codes are kept in OUTPUT and made once."""
    folder = output / "model"
    if not folder.exists():
        config = TrainConfig(LATENTS, nonzeros=16, hold_out=QUERIES, steps=steps)
        run_training(open_embeddings(embeddings), config, "cpu").save(folder)
    model = CompresSAE.load(folder)
    for k, m in CODES:
        name = f"{k}+{m}"
        if names is not None and name not in names.split(","):
            continue
        path = output / f"codes-{rows}-{name}"
        if not path.exists():
            click.echo(f"compressae {name}: compressing", err=True)
            compress(model, output / "corpus.npy", nonzeros=k, residual_bytes=m).save(path)
        yield CompressedIndex(model.projection, PackedCodes.load(path), threads=1), name


def peers(n: int) -> dict[str, Callable[[np.ndarray], Engine]]:
    """Engines by name, with inverted lists for n rows."""
    lists = 512 if n < 500_000 else 2048

    def ivf(spec: str, probes: tuple[int, ...] = (1, 4, 16, 64)) -> Callable[..., Engine]:
        spec = spec.replace("IVF", f"IVF{lists}")
        return partial(faiss_factory.build, spec=spec, parameter="nprobe", values=probes)

    def hnsw(spec: str, efs: tuple[int, ...] = (16, 32, 64, 128)) -> Callable[..., Engine]:
        return partial(faiss_factory.build, spec=spec, parameter="efSearch", values=efs)

    return {
        "faiss Flat": partial(faiss_factory.build, spec="Flat"),
        "faiss IVF-SQ4": ivf("IVF,SQ4"),
        "faiss IVF-PQ48": ivf("IVF,PQ48"),
        "faiss IVF-PQ96": ivf("IVF,PQ96"),
        "faiss IVF-OPQ96": ivf("OPQ96,IVF,PQ96"),
        "faiss IVF-PQ128x4 fast scan": ivf("IVF,PQ128x4fs"),
        "faiss IVF-PQ192x4 fast scan": ivf("IVF,PQ192x4fs"),
        "faiss IVF-RaBitQ": ivf("IVF,RaBitQ"),
        "faiss IVF-PQ64x4 fast scan + rows": ivf("IVF,PQ64x4fs,RFlat", (16, 64)),
        "faiss HNSW16": hnsw("HNSW16"),
        "faiss HNSW16 SQ8": hnsw("HNSW16,SQ8"),
        "faiss HNSW16 PQ48": hnsw("HNSW16,PQ48", (16, 64, 128)),
        "hnswlib M 16": hnswlib_graph.build,
        "usearch f32": partial(usearch_graph.build, dtype="f32"),
        "usearch i8": partial(usearch_graph.build, dtype="i8"),
        "annoy 20 trees": annoy_trees.build,
    }
