"""Search as a table grows to 10⁷ rows, and 10⁸ in shards, beside IVF-PQ of the same rows."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.catalogue.rows import about, folder_bytes, timed, write_record
from benchmarks.cluster import ivf_pq
from benchmarks.cluster.fresh import Figures, in_fresh_process, latencies, resident
from benchmarks.cluster.rows import (
    JITTER,
    QUERIES,
    QUERY_SEED,
    K,
    jittered,
    write_files,
)
from compressae import CompresSAE, TrainConfig, fit_quantizer, load_sample, train
from compressae.cluster.encode import encode_shards
from compressae.cluster.pool import Pool
from compressae.cluster.units import Job
from compressae.retrieval import Catalogue, recall_at
from compressae.retrieval.store.sharded import (
    CatalogueRecord,
    ShardedCatalogue,
    open_catalogue,
    write_catalogues,
)
from compressae.retrieval.store.shards import merge_shards

LATENTS, NONZEROS, RESIDUAL_BYTES, STEPS = 1024, 8, 16, 40
CANDIDATES = (3000, 10_000)
PROBES = (1, 4, 16, 64)
#: Rows of a file, at most; rows of the table that the quantiser is fitted to, at most.
FILE_ROWS, FITTED = 250_000, 100_000


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--rows",
    multiple=True,
    type=int,
    default=(100_000, 1_000_000, 10_000_000),
    show_default=True,
)
@click.option("--copies", default=10, show_default=True, help="Shards of the last size's codes.")
@click.option(
    "--workers", default=2, show_default=True, help="Processes; threads of IVF-PQ's build."
)
@click.option("--pq", default="32,48", show_default=True, help="Bytes of IVF-PQ's codes; or none.")
@click.option("--smoke", is_flag=True, help="A thousand rows, to see that it works.")
@click.option("--keep", is_flag=True, help="Keep the files that were made.")
def size(
    output: Path,
    rows: tuple[int, ...],
    copies: int,
    workers: int,
    pq: str,
    smoke: bool,
    keep: bool,
) -> None:
    """Search of n rows against n, and of many shards; OUTPUT/size.json gets a figure at a time.

    Rows are those of `encode`. Each size is written to parquet files, encoded, indexed and
    searched, a query at a time on one thread, in a process of its own. The codes of the last size
    are indexed once for each of the copies, and these shards are searched one after another: rows
    repeat, so that this measures cost, not recall. Last comes IVF-PQ of the same rows.

    Indexes that an earlier run left in OUTPUT (--keep) are searched again, not made again.
    """
    if smoke:
        rows, copies, workers, pq = (1500,), 2, 0, "32"
    sizes = tuple(int(part) for part in pq.split(",") if part)
    measured = partial(in_fresh_process, threads=min(1, workers))
    output.mkdir(parents=True, exist_ok=True)
    path, queries = output / "size.json", output / "queries.npy"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if record:
        record.setdefault("built_at_commit", record["commit"])
    record |= about("python scripts/benchmarks/cluster size", ("pyarrow", "faiss-cpu"))
    record |= {"jitter": JITTER, "nonzeros": NONZEROS, "residual_bytes": RESIDUAL_BYTES}
    record["queries"] = QUERIES
    np.save(queries, jittered(QUERIES, QUERY_SEED))

    def note(part: dict[str, Any], figures: dict[str, Any]) -> None:
        part.update(figures)
        write_record(path, record)
        click.echo(json.dumps(figures))

    if not (output / "quantizer").exists():
        note(record, _fit(output, min(FITTED, rows[0]), smoke))
    folders = {n: output / str(n) for n in rows}
    points = {point["rows"]: point for point in record.setdefault("points", [])}
    for n, folder in folders.items():
        if n not in points:
            points[n] = {"rows": n}
            record["points"].append(points[n])
        if not (folder / "index").exists():
            for figures in _build(output, folder, n, workers):
                note(points[n], figures)
        for figures in measured(search_catalogue, folder / "index", queries, folder):
            note(points[n], figures)
    if copies:
        shards = record.setdefault("copies", {})
        shards |= {"rows": copies * rows[-1], "shards": copies, "distinct_rows": rows[-1]}
        if not (output / "shards").exists():
            paths = (folders[rows[-1]] / "coded", output / "model", output / "shards")
            for figures in measured(build_copies, *paths, copies):
                note(shards, figures)
        share = max(K, int(1.2 * CANDIDATES[0] / copies))
        for figures in measured(search_shards, output / "shards", queries, share):
            note(shards, figures)
        if not keep:
            shutil.rmtree(output / "shards")
    for n, folder in folders.items():
        _measure_rivals(measured, queries, folder, points[n], note, sizes, workers)
    if not keep:
        for path in (output / "model", output / "quantizer", *folders.values()):
            shutil.rmtree(path, ignore_errors=True)
        queries.unlink()


def _measure_rivals(
    measured: Callable[..., Iterator[Figures]],
    queries: Path,
    folder: Path,
    point: Figures,
    note: Callable[[Figures, Figures], None],
    sizes: tuple[int, ...],
    workers: int,
) -> None:
    """Build and search IVF-PQ of the rows; the recall of all against the exact neighbours."""
    rival = point.setdefault("ivf_pq", {})
    if not (folder / "truth.npy").exists():
        arguments = (folder / "items", queries, folder, sizes)
        for figures in in_fresh_process(ivf_pq.build, *arguments, threads=workers):
            note(rival, figures)
    note(point, {"recall": _recalls(folder, [*map(str, CANDIDATES), "all"])})
    for bytes_a_code in sizes:
        part = rival.setdefault(f"pq{bytes_a_code}", {})
        index = folder / f"pq{bytes_a_code}.faiss"
        for figures in measured(ivf_pq.search, index, queries, folder, PROBES):
            note(part, figures)
        note(part, {"recall": _recalls(folder, [f"{index.stem}_{p}" for p in PROBES])})


def _fit(output: Path, rows: int, smoke: bool) -> Figures:
    """Train the model on the sample, and fit the quantiser to jittered rows."""
    latents, steps = (128, 2) if smoke else (LATENTS, STEPS)
    config = TrainConfig(latents=latents, nonzeros=NONZEROS, steps=steps)
    train_s, model = timed(lambda: train(load_sample().embeddings, config))
    model.save(output / "model")
    items = jittered(rows, 0)
    fit_s, quantizer = timed(lambda: fit_quantizer(model, items, residual_bytes=RESIDUAL_BYTES))
    quantizer.save(output / "quantizer")
    return {"latents": latents, "train_s": train_s, "fit_quantizer_s": fit_s, "fitted_to": rows}


def _build(output: Path, folder: Path, rows: int, workers: int) -> Iterator[Figures]:
    """Write, encode and index the rows, by processes; in this one when ``workers`` is 0."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    items, coded = (folder / name for name in ("items", "coded"))
    files = max(2, -(-rows // FILE_ROWS))
    yield {"make_s": timed(lambda: write_files(items, rows, files, workers))[0]}
    parts = (str((output / name).absolute()) for name in ("model", "quantizer"))
    job = Job(*parts, str(coded.absolute()))
    encode_s, _ = timed(
        lambda: encode_shards(job, items.absolute(), Pool(workers) if workers else None)
    )
    yield {"encode_s": encode_s, "encoded_rows_a_s": rows / encode_s}
    arguments = (coded, output / "model", folder / "index")
    yield from in_fresh_process(_index, *arguments, threads=min(1, workers))


def _index(coded: Path, model: Path, path: Path) -> Iterator[Figures]:
    projection = CompresSAE.load(model).projection
    merge_s, (codes, ids) = timed(lambda: merge_shards(coded))
    yield {"merge_s": merge_s, "code_bytes_a_row": codes.nbytes / len(codes)}
    index_s, made = timed(lambda: Catalogue.create(path, projection, codes, ids, threads=1))
    yield {"index_s": index_s, "index_peak_mb": resident()["peak_mb"]}
    yield {"bytes_a_row": made.nbytes / len(made), "files_bytes": folder_bytes(path)}


def search_catalogue(path: Path, queries: Path, folder: Path) -> Iterator[Figures]:
    """Open and search a catalogue on one thread; ids go to FOLDER/<candidates>.npy."""
    x, (catalogue, figures) = np.load(queries), _opened(path)
    yield figures
    scan = catalogue.search(x, K, candidates="all").ids
    np.save(folder / "all.npy", scan)
    for candidates in CANDIDATES:
        ids = catalogue.search(x, K, candidates=candidates).ids
        np.save(folder / f"{candidates}.npy", ids)
        one = latencies(lambda q, c=candidates: catalogue.search(q, K, candidates=c), x)
        one |= {f"recall_of_scan@{k}": recall_at(ids, scan, k) for k in (10, K)}
        yield {f"candidates_{candidates}": one}
    yield {"scan": latencies(lambda q: catalogue.search(q, K, candidates="all"), x[:40], 1)}
    yield {f"searched_{name}": value for name, value in resident().items()}


def build_copies(coded: Path, model: Path, output: Path, copies: int) -> Iterator[Figures]:
    """Index the same codes once for each shard, under ids of its own."""
    projection, (codes, _) = CompresSAE.load(model).projection, merge_shards(coded)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    seconds, records = [], []
    for number in range(copies):
        first = number * len(codes)
        ids, path = np.arange(first, first + len(codes)), output / f"part-{number:05d}"
        spent, catalogue = timed(lambda: Catalogue.create(path, projection, codes, ids, threads=1))
        seconds.append(spent)
        records.append(CatalogueRecord.of(catalogue))
        yield {"built": number + 1, "index_s": sum(seconds)}
    write_catalogues(output, records)
    yield {"bytes": folder_bytes(output), "index_peak_mb": resident()["peak_mb"]}


def search_shards(path: Path, queries: Path, share: int) -> Iterator[Figures]:
    """Search shards one after another, and one shard, on one thread."""
    x, (catalogue, figures) = np.load(queries), _opened(path)
    yield figures
    assert isinstance(catalogue, ShardedCatalogue)
    few, shard = x[:40], catalogue.shards[0]
    for candidates in (CANDIDATES[0], share):
        each = latencies(lambda q, c=candidates: catalogue.search(q, K, candidates=c), few)
        yield {f"candidates_{candidates}_a_shard": each}
        one = latencies(lambda q, c=candidates: shard.search(q, K, candidates=c), few)
        yield {f"one_shard_candidates_{candidates}": one}
    yield {f"searched_{name}": value for name, value in resident().items()}
    yield {"one_shard_scan": latencies(lambda q: shard.search(q, K, candidates="all"), few, 1)}
    yield {"scan": latencies(lambda q: catalogue.search(q, K, candidates="all"), few[:5], 1)}


def _opened(path: Path) -> tuple[Catalogue | ShardedCatalogue, Figures]:
    before = resident()  # Of libraries, torch among them.
    open_s, catalogue = timed(lambda: open_catalogue(path, threads=1))
    opened = resident()
    memory = {f"open_{name}": opened[name] - before[name] for name in ("own_mb", "mapped_mb")}
    libraries = {f"libraries_{name}": before[name] for name in ("own_mb", "mapped_mb")}
    return catalogue, {"open_ms": 1e3 * open_s, **libraries, **memory}


def _recalls(folder: Path, names: list[str]) -> Figures:
    """Recall@10 and @K against the exact neighbours, of ids in files."""
    truth = np.load(folder / "truth.npy")
    return {
        name: {f"recall@{k}": recall_at(np.load(folder / f"{name}.npy"), truth, k) for k in (10, K)}
        for name in names
    }
