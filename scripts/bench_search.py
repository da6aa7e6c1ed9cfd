#!/usr/bin/env python3
"""Search beside other engines, all on one thread, in one run.

sparse: exact search of sparse codes. 1,000,000 synthetic codes of 32 signed nonzeros out of 4,096
(scripts/synthetic_codes.py), 1,000 queries, top 100: ours, VSAG's SINDI, Seismic, scipy. "Sampled"
is ours told of the queries, so that it adds bounds of blocks where these pay.

dense: dense queries in, ids out. A table's rows but 1,000 that are the queries, top 10: ours at
several bytes an item, faiss, hnswlib, usearch, annoy. --rows N more than the table has adds rows
x_i + (x_j − x_k) / 2 of random i, j, k.

growth: the time of one query of ours against the number of rows.

product: the time of q' = W·x, by which every dense query begins, with weights of several widths.

Engines that are not installed are named. Each figure is the median of --rounds rounds, in which all
engines take turns; OUTPUT gets the records (JSON), a table (Markdown) and a picture.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS="1")

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from search_points import Point, Rounds, write
from synthetic_codes import SETS, make_codes

from compressae import CompresSAE, CompressedIndex, TrainConfig, open_embeddings
from compressae.cli.train import run as run_training
from compressae.retrieval import InvertedIndex, SparseCodes
from compressae.retrieval.embeddings import unit_rows
from compressae.retrieval.packed import PackedCodes
from compressae.training import held_out_rows

QUERIES = 1000
LATENTS = 4096
#: (nonzeros, residual bytes) of our codes, and (query nonzeros, candidates) of the search.
CODES = ((6, 48), (8, 48), (16, 32), (8, 96), (16, 96))
FLOAT_CODES = "16+32"
STAGES = ((32, 150), (64, 250), (64, 500), (128, 1000), (128, 3000))
GROWTH = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000, 4_000_000)


@click.group()
def main() -> None:
    pass


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--queries", default=QUERIES, show_default=True, help="Timed one by one.")
def sparse(output: Path, rows: int, rounds: int, queries: int) -> None:
    """Exact search of sparse codes."""
    import sparse_peers

    points, missing = [], set()
    for kind, settings in SETS.items():
        click.echo(f"{kind}: making {rows:,} codes", err=True)
        (ids, values), (query_ids, query_values) = make_codes(rows, QUERIES, **settings)
        codes = SparseCodes.from_rows(ids.astype(np.int64), values, LATENTS)
        asked = SparseCodes.from_rows(query_ids.astype(np.int64), query_values, LATENTS)
        del ids, values
        truth = exact_ids(codes, asked, 100)
        turns = Rounds(queries, rounds, truth)
        singles = [asked.take(np.array([i])) for i in range(QUERIES)]
        small = codes.take(np.arange(10))
        ways: dict[str, dict[str, Any]] = {
            "int8": {},
            "float32": {"values": "float32"},
            "int8, sampled": {"sample": asked},
        }
        for stored, how in ways.items():
            InvertedIndex(small, 1, **how).search(asked, 1)  # Compile.
            started = time.perf_counter()
            index = InvertedIndex(codes, 1, **how)
            seconds = time.perf_counter() - started
            point = Point(
                f"compressae {stored}", kind, rows, index.nbytes / rows, 0, seconds,
                more={
                    "bytes_a_posting": index.list_nbytes / codes.nnz,
                    "bounds_of_blocks": float(index.has_blocks),
                },
            )  # fmt: skip
            turns.add(
                point,
                lambda i, index=index: index.search(singles[i], 100).ids[0],
                lambda index=index: index.search(asked, 100).ids,
            )
            if stored == "int8":
                one, two = (_rate(index, asked, threads) for threads in (1, 2))
                point.more["two_threads_over_one"] = two / one
        for name, build in sparse_peers.PEERS.items():
            click.echo(f"{kind}: building {name}", err=True)
            started = time.perf_counter()
            try:
                nbytes, constant, found = build(codes)
            except ImportError as error:
                missing.add(f"{name} ({error.name})")
                continue
            seconds = time.perf_counter() - started
            for setting, search in found:
                label = f"{kind}, {setting}" if setting else kind
                point = Point(name, label, rows, nbytes / rows, constant, seconds)
                turns.add(point, lambda i, search=search: search(singles[i], 100))
        points += turns.run()
        del turns, codes
        gc.collect()
    write(output, "sparse", points, sorted(missing), {"queries": queries, "rounds": rounds})


def _rate(index: InvertedIndex, queries: SparseCodes, threads: int) -> float:
    """Queries a second of a batch, the best of three."""
    index.threads, seconds = threads, []
    for _ in range(3):
        started = time.perf_counter()
        index.search(queries, 100)
        seconds.append(time.perf_counter() - started)
    index.threads = 1
    return len(queries) / min(seconds)


def exact_ids(codes: SparseCodes, queries: SparseCodes, K: int) -> np.ndarray:
    """Top K by dot products in float64, rounded to float32, ties by smaller id."""
    matrix = codes.to_scipy().astype(np.float64)
    asked = queries.to_scipy().astype(np.float64)
    found = np.empty((len(queries), K), np.int64)
    for i in range(len(queries)):
        scores = (matrix @ asked[[i]].toarray()[0]).astype(np.float32)
        least = np.partition(scores, -K)[-K]
        near = np.flatnonzero(scores >= least)
        found[i] = near[np.argsort(-scores[near], kind="stable")[:K]]
    return found


@main.command()
@click.argument("embeddings", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", type=int, help="Rows searched; the table's where not given.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--queries", default=300, show_default=True, help="Timed one by one.")
@click.option("--codes", "wanted", help="Only these of our codes, as 8+48,8+96.")
@click.option("--without", default="", help="Engines to leave out, by a part of their names.")
def dense(
    embeddings: Path,
    output: Path,
    rows: int | None,
    rounds: int,
    queries: int,
    wanted: str | None,
    without: str,
) -> None:
    """Dense queries in, ids out."""
    import faiss
    from dense_peers import peers

    items = open_embeddings(embeddings)
    held, kept = held_out_rows(len(items), QUERIES)
    asked = unit_rows(items.take(held))
    corpus = more_rows(unit_rows(items.take(np.sort(kept))), rows or len(kept))
    output.mkdir(parents=True, exist_ok=True)
    np.save(output / "corpus.npy", corpus)
    flat = faiss.IndexFlatIP(corpus.shape[1])
    flat.add(corpus)
    truth = flat.search(asked, 10)[1]
    del flat
    n, points, missing = len(corpus), [], []
    turns = Rounds(queries, rounds, truth)
    for index, name in our_indexes(embeddings, output, len(corpus), wanted):
        add_ours(turns, index, name, asked, output / "corpus.npy")
    points += turns.run()
    for name, build in peers(n).items():
        if any(part and part in name for part in without.split(",")):
            continue
        click.echo(name, err=True)
        started = time.perf_counter()
        faiss.omp_set_num_threads(1)
        try:
            built = build(corpus)
        except ImportError as error:
            missing.append(f"{name} ({error.name})")
            continue
        seconds = time.perf_counter() - started
        for setting, search in built.settings:
            turn = Rounds(queries, rounds, truth)
            point = Point(name, setting, n, built.nbytes / n, built.constant, seconds)
            turn.add(
                point,
                lambda i, search=search: search(asked[i : i + 1], 10)[0],
                lambda search=search: search(asked, 10),
            )
            points += turn.run()
        del built
        gc.collect()
    (output / "corpus.npy").unlink()
    facts = {"table": embeddings.name, "dim": corpus.shape[1], "queries": queries}
    write(output, "dense", points, missing, {**facts, "rounds": rounds})


def more_rows(rows: np.ndarray, n: int) -> np.ndarray:
    """The first n rows, or with rows x_i + (x_j − x_k) / 2 of random i, j, k after them."""
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
    embeddings: Path, output: Path, rows: int, wanted: str | None
) -> Iterator[tuple[CompressedIndex, str]]:
    """Our indexes of the corpus; models and codes are kept in OUTPUT and made once."""
    place = output / "model"
    if not place.exists():
        config = TrainConfig(latents=LATENTS, nonzeros=16, hold_out=QUERIES)
        run_training(open_embeddings(embeddings), config, "cpu").save_pretrained(place)
    model = CompresSAE.from_pretrained(place)
    for k, m in CODES:
        name = f"{k}+{m}"
        if wanted is not None and name not in wanted.split(","):
            continue
        codes = output / f"codes-{rows}-{name}"
        if not codes.exists():
            click.echo(f"compressae {name}: coding", err=True)
            model.compress(output / "corpus.npy", nonzeros=k, residual_bytes=m).save(codes)
        yield CompressedIndex(model, PackedCodes.load(codes), threads=1), name


def add_ours(
    turns: Rounds, index: CompressedIndex, name: str, asked: np.ndarray, corpus: Path
) -> None:
    """Points of one index: at each of STAGES, a scan of the codes, and with rows read from disk."""
    n, constant = len(index), index.constant_nbytes_for("asymmetric")
    searches: dict[str, dict[str, Any]] = {
        f"kq {kq}, C {C}": {"query_nonzeros": kq, "candidates": C} for kq, C in STAGES
    }
    searches["scan"] = {"candidates": "all"}
    if name == FLOAT_CODES:  # What int8 weights lose.
        exact = CompressedIndex(index.model, index.codes, threads=1, weights="float32")
        for setting in ("kq 128, C 1000", "scan"):
            turns.add(
                Point(f"compressae {name} float32 W", setting, n, index.nbytes / n,
                      exact.constant_nbytes_for("asymmetric"), 0.0),
                lambda i, own=searches[setting]: exact.search(asked[i : i + 1], 10, **own).ids[0],
                lambda own=searches[setting]: exact.search(asked, 10, **own).ids,
            )  # fmt: skip
    for kq, C, R in ((64, 250, 20), (64, 500, 40), (128, 1000, 80)):
        own = {"query_nonzeros": kq, "candidates": C, "dense": corpus, "dense_candidates": R}
        searches[f"kq {kq}, C {C}, {R} rows from disk"] = own
    for setting, own in searches.items():
        held = index.codes.nbytes if setting == "scan" else index.nbytes
        if "dense" in own:
            own["dense"] = open_embeddings(own["dense"])
        turns.add(
            Point(f"compressae {name}", setting, n, held / n, constant, 0.0),
            lambda i, own=own: index.search(asked[i : i + 1], 10, **own).ids[0],
            lambda own=own: index.search(asked, 10, **own).ids,
        )


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rounds", default=3, show_default=True)
@click.option("--most", default=GROWTH[-1], show_default=True, help="Rows.")
def growth(output: Path, rounds: int, most: int) -> None:
    """The time of one query against the number of rows."""
    points = []
    for kind, settings in SETS.items():
        sizes = [n for n in GROWTH if n <= most]
        (ids, values), (query_ids, query_values) = make_codes(sizes[-1], QUERIES, **settings)
        asked = SparseCodes.from_rows(query_ids.astype(np.int64), query_values, LATENTS)
        singles = [asked.take(np.array([i])) for i in range(300)]
        for n in sizes:
            codes = SparseCodes.from_rows(ids[:n].astype(np.int64), values[:n], LATENTS)
            started = time.perf_counter()
            index = InvertedIndex(codes, 1)
            seconds = time.perf_counter() - started
            truth = index.search(asked.take(np.arange(300)), 100).ids
            turns = Rounds(300, rounds, truth)
            point = Point("compressae int8", kind, n, index.nbytes / n, 0, seconds)
            turns.add(point, lambda i, index=index: index.search(singles[i], 100).ids[0])
            points += turns.run()
            click.echo(f"{kind} {n:,}: {points[-1].p50_ms:.3f} ms", err=True)
    write(output, "growth", points, [], {"rounds": rounds})


@main.command()
@click.option("--rounds", default=200, show_default=True)
def product(rounds: int) -> None:
    """The time of q' = W·x."""
    import torch

    from compressae.kernels.product import Int8Matrix
    from compressae.kernels.product import product as int8_product

    torch.set_num_threads(1)
    click.echo("| h | d | float32 | bfloat16 | int8 | float32, 256 queries | int8 off by |")
    click.echo("|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for h, d in ((4096, 384), (16384, 384), (4096, 768)):
        W, X = unit_rows(rng.standard_normal((h, d))), unit_rows(rng.standard_normal((256, d)))
        W, X = W.astype(np.float32), X.astype(np.float32)
        small, half, x = Int8Matrix.of(W), torch.from_numpy(W).bfloat16(), X[:1]
        half_x = torch.from_numpy(x[0]).bfloat16()
        jobs = [lambda: W @ x[0], lambda: half @ half_x, lambda: int8_product(small, x),
                lambda: X @ W.T]  # fmt: skip
        seconds: list[list[float]] = [[] for _ in jobs]
        for round_ in range(rounds + 1):
            for job, kept in zip(jobs, seconds, strict=True):
                if job is jobs[3] and round_ > 10:
                    continue
                started = time.perf_counter()
                job()
                kept.append(time.perf_counter() - started)
        one, two, three, batch = (1e6 * float(np.median(kept[1:])) for kept in seconds)
        off = np.abs(int8_product(small, X) - X @ W.T).max()
        click.echo(
            f"| {h:,} | {d} | {one:.0f} µs | {two:.0f} µs | {three:.0f} µs | "
            f"{batch / 256:.0f} µs each | {off:.4f} |"
        )


if __name__ == "__main__":
    main()
