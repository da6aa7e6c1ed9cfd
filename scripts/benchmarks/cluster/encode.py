"""A table in many parquet files: encoded by processes and over Ray, indexed and searched."""

import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.catalogue.rows import about, folder_bytes, p50, timed, write_record
from benchmarks.cluster.rows import (
    JITTER,
    QUERIES,
    QUERY_SEED,
    DenseTop,
    K,
    jittered,
    write_files,
)
from compressae import CompresSAE, TrainConfig, fit_quantizer, load_sample, train
from compressae.cluster.encode import InProcess, Runner, encode_shards
from compressae.cluster.pool import Pool
from compressae.cluster.units import Job
from compressae.retrieval import Catalogue, recall_at
from compressae.retrieval.store.sharded import index_shards
from compressae.retrieval.store.shards import MANIFEST, merge_shards


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--files", default=40, show_default=True)
@click.option("--latents", default=1024, show_default=True)
@click.option("--nonzeros", default=8, show_default=True)
@click.option("--residual-bytes", default=16, show_default=True)
@click.option("--steps", default=40, show_default=True, help="Of training.")
@click.option(
    "--ways",
    default="processes,ray,killed",
    show_default=True,
    help="Of encoding: alone, processes, ray, killed (Ray, whose workers are killed).",
)
@click.option("--workers", default=2, show_default=True)
@click.option("--faiss/--no-faiss", "with_faiss", default=True, help="IVF-PQ of the same rows.")
@click.option("--keep", is_flag=True, help="Keep the files that were made.")
def encode(
    output: Path,
    rows: int,
    files: int,
    latents: int,
    nonzeros: int,
    residual_bytes: int,
    steps: int,
    ways: str,
    workers: int,
    with_faiss: bool,
    keep: bool,
) -> None:
    """Make the rows, encode them each way, and write OUTPUT/cluster.json a figure at a time.

    Rows are those of the WordNet sample that ships, each many times, with noise: seeds 0, 1, 2 …
    for the files, 10,000 for the queries.
    """
    output.mkdir(parents=True, exist_ok=True)
    record = about("python scripts/benchmarks/cluster encode", ("pyarrow", "ray", "faiss-cpu"))
    record |= {"rows": rows, "files": files, "jitter": JITTER}
    record |= {"latents": latents, "nonzeros": nonzeros, "residual_bytes": residual_bytes}

    def note(**figures: Any) -> None:
        record.update(figures)
        write_record(output / "cluster.json", record)
        click.echo(json.dumps(figures))

    items, model_path, quantizer_path = (output / n for n in ("items", "model", "quantizer"))
    if not items.exists():
        note(make_s=timed(lambda: write_files(items, rows, files))[0])
    sample = load_sample().embeddings
    if not model_path.exists():
        config = TrainConfig(latents=latents, nonzeros=nonzeros, steps=steps)
        seconds, model = timed(lambda: train(sample, config))
        model.save(model_path)
        note(train_s=seconds)
    model = CompresSAE.load(model_path)
    if not quantizer_path.exists():
        fit = timed(lambda: fit_quantizer(model, items, residual_bytes=residual_bytes))
        fit[1].save(quantizer_path)
        note(fit_quantizer_s=fit[0])

    # Encode each way; the manifests name the checksums of all files.
    manifests = {}
    for way in filter(None, ways.split(",")):
        folder = output / f"coded_{way}"
        shutil.rmtree(folder, ignore_errors=True)
        job = Job(
            str(model_path.absolute()), str(quantizer_path.absolute()), str(folder.absolute())
        )
        killed = _KillOnce(way == "killed")
        seconds, _ = timed(lambda: encode_shards(job, items.absolute(), _runner(way, workers)))
        manifests[way] = (folder / MANIFEST).read_text()
        note(**{
            f"{way}_encode_s": seconds,
            f"{way}_rows_a_s": rows / seconds,
            f"{way}_workers_killed": killed.stop(),
        })  # fmt: skip
    first = next(iter(manifests))
    note(same_bytes=all(text == manifests[first] for text in manifests.values()))
    coded = output / f"coded_{first}"
    note(code_bytes=folder_bytes(coded))

    # One index of all shards, and one a shard.
    for name in ("index", "served"):
        shutil.rmtree(output / name, ignore_errors=True)
    merge_s, merged = timed(lambda: merge_shards(coded))
    build_s, _ = timed(lambda: Catalogue.create(output / "index", model.projection, *merged))
    note(merge_s=merge_s, index_s=build_s, index_bytes=folder_bytes(output / "index"))
    shards_s, shards = timed(
        lambda: index_shards(coded, output / "served", model.projection, threads=1)
    )
    note(index_shards_s=shards_s, peak_mb=_peak())
    open_s, index = timed(lambda: Catalogue.open(output / "index", threads=1))
    queries = jittered(QUERIES, QUERY_SEED)
    exact = index.search(queries, K, candidates="all")
    sharded = shards.search(queries, K, candidates="all")
    note(
        open_ms=1e3 * open_s,
        sharded_differences=int((exact.ids != sharded.ids).sum()),
        sharded_score_difference=float(np.abs(exact.scores - sharded.scores).max()),
    )
    for candidates in (1000, 3000, 10_000):
        share = max(K, int(1.2 * candidates / len(shards.shards)))
        one = index.search(queries, K, candidates=candidates)
        each = shards.search(queries, K, candidates=share)
        note(**{
            f"recall_of_scan_{candidates}": recall_at(one.ids, exact.ids, K),
            f"sharded_recall_of_scan_{candidates}": recall_at(each.ids, exact.ids, K),
            f"sharded_candidates_{candidates}": share,
            f"p50_ms_{candidates}": p50(
                lambda q, c=candidates: index.search(q, K, candidates=c), queries
            ),
            f"shard_p50_ms_{candidates}": p50(
                lambda q, c=share: shards.shards[0].search(q, K, candidates=c), queries
            ),
        })  # fmt: skip
    note(fan_out=_fan_out(shards.shards, queries))
    note(scan_p50_ms=p50(lambda q: index.search(q, K, candidates="all"), queries[:40]))
    if with_faiss:
        note(**_faiss(items, files, queries))
    if not keep:
        for path in output.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


def _runner(way: str, workers: int) -> Runner:
    if way == "alone":
        return InProcess()
    if way == "processes":
        return Pool(workers)
    from compressae.cluster.ray import RayRunner

    return RayRunner("local")


class _KillOnce:
    """Kills three workers of Ray, one every few seconds, if asked to.

    Args:
        is_on: kill.
    """

    def __init__(self, is_on: bool) -> None:
        self.killed, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if is_on:
            self._thread.start()

    def _run(self) -> None:
        while self.killed < 3 and not self._done.wait(5):
            found = subprocess.run(
                ["pgrep", "-f", "^ray::encode_unit"], capture_output=True, text=True, check=False
            )
            workers = found.stdout.split()
            if workers:
                os.kill(int(workers[0]), signal.SIGKILL)
                self.killed += 1

    def stop(self) -> int:
        """Stop; how many were killed."""
        self._done.set()
        return self.killed


def _faiss(items: Path, files: int, queries: np.ndarray) -> dict[str, Any]:
    """IVF-PQ of the same rows at 32 bytes: time, recall of the dense rows' top, p50."""
    import faiss

    from compressae import open_embeddings

    faiss.omp_set_num_threads(1)
    table = open_embeddings(items)
    lists = int(4 * np.sqrt(len(table)))
    index = faiss.index_factory(table.shape[1], f"IVF{lists},PQ32", faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    index.train(table.take(np.sort(rng.choice(len(table), min(len(table), 100_000), False))))
    trained = time.perf_counter()
    truth = DenseTop(queries)
    for start, batch in table.batches(100_000):
        index.add(batch)
        truth.add(start, batch)
    added = time.perf_counter()
    figures: dict[str, Any] = {"faiss_train_s": trained - began, "faiss_add_s": added - trained}
    ours = Catalogue.open(items.parent / "index", threads=1)
    for candidates in (3000, 10_000, "all"):
        hits = ours.search(queries, K, candidates=candidates)
        figures[f"recall_{candidates}"] = recall_at(hits.ids, truth.ids, K)
    for probes in (16, 64, 256):
        index.nprobe = probes
        figures[f"faiss_recall_{probes}"] = recall_at(index.search(queries, K)[1], truth.ids, K)
        figures[f"faiss_p50_ms_{probes}"] = p50(lambda q: index.search(q, K), queries)
    return figures


def _fan_out(shards: list[Catalogue], queries: np.ndarray) -> dict[str, Any]:
    """Latency of a search of many shards at once, simulated: the slowest of as many draws.

    Latencies are those of single searches of some of these shards, one thread each, 3,000
    candidates; network and merging are left out.
    """
    latencies = []
    for shard in shards[:: max(1, len(shards) // 4)][:4]:
        for query in queries:
            shard.search(query[None], K, candidates=3000)
        latencies += [
            1e3 * timed(lambda s=shard, q=query: s.search(q[None], K, candidates=3000))[0]
            for query in queries
        ]
    rng = np.random.default_rng(0)
    rows = int(np.mean([len(shard) for shard in shards]))
    figures = {"shard_rows": rows, "shard_ms": _percentiles(np.array(latencies))}
    for count in (10, 100, 1000):
        slowest = rng.choice(latencies, (2000, count)).max(1)
        figures[f"of_{count}_ms"] = _percentiles(slowest)
    return figures


def _percentiles(milliseconds: np.ndarray) -> dict[str, float]:
    """The median, and 90 and 99 per cent."""
    return {f"p{p}": float(np.percentile(milliseconds, p)) for p in (50, 90, 99)}


def _peak() -> float:
    """Most resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
