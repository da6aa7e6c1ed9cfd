#!/usr/bin/env python3
"""Recall@100 against code bytes: the paper's codes, dense quantisers, and ours, on one table.

1,000 held-out queries against all other rows, exact scoring of every code. Each method leaves one
record in OUTPUT/records; methods that have one are not run again. Ends with OUTPUT/table.md and
OUTPUT/curve.png of all records.

--train-rows N trains every method on the first N rows of the corpus only; the others are unseen.
"""

import fnmatch
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
from peers import PEERS, Peer

from compressae import CompresSAE, CompressedIndex, TrainConfig, open_embeddings
from compressae.cli.train import run
from compressae.evaluation.protocol import machine
from compressae.retrieval.embeddings import Embeddings, unit_rows
from compressae.retrieval.exact import exact_search, largest_dots
from compressae.retrieval.metrics import recall_per_query
from compressae.retrieval.packed import PackedCodes
from compressae.training import held_out_rows

QUERIES = 1000
TOP = 100
#: The paper counts four bytes an id and four a value (arXiv 2505.11388).
PAPER_BYTES = 8
#: Rows that dense quantisers train on at most: RQ is slow with more, and faiss itself would draw
#: 256 rows a centroid (65,536) for the others.
PEERS_TRAIN_ON = 50_000


@dataclass(frozen=True)
class Score:
    """One method as measured: bytes of a row, of its constants, recalls and seconds."""

    family: str
    code_bytes: float
    constant_bytes: int
    recall10: float
    recall100: float
    standard_error: float
    seconds: float


class Bench:
    """The table split into queries, corpus and training rows, and the models trained on them."""

    def __init__(self, path: str, folder: Path, train_rows: int | None) -> None:
        items = open_embeddings(path)
        held, kept = held_out_rows(len(items), QUERIES)
        self.folder, self.queries = folder, unit_rows(items.take(held))
        self.corpus: Embeddings = items.subset(kept)
        self.train_rows = min(train_rows or len(kept), len(kept))
        self.training: Embeddings = items.subset(kept[: self.train_rows])

    @cached_property
    def truth(self) -> np.ndarray:
        return exact_search(self.corpus, self.queries, TOP).ids

    @cached_property
    def rows(self) -> np.ndarray:
        """The corpus (n, d) as unit rows; its first ``train_rows`` are those trained on."""
        return unit_rows(self.corpus.to_array())

    def model(self, **settings: Any) -> CompresSAE:
        """A model of these settings, trained once."""
        config = TrainConfig(**settings)
        name = f"{config.recipe}-h{config.latents}-k{config.nonzeros}"
        place = self.folder / "models" / name
        if not place.exists():
            started = time.perf_counter()
            model = run(self.training, config, "cpu")
            model.settings["training_seconds"] = time.perf_counter() - started
            place.parent.mkdir(exist_ok=True)
            model.save_pretrained(place)
        return CompresSAE.from_pretrained(place)

    def score(
        self, family: str, ids: np.ndarray, code_bytes: float, constants: int, seconds: float
    ) -> Score:
        recall10 = recall_per_query(ids, self.truth, 10)
        recall100 = recall_per_query(ids, self.truth, TOP)
        error = float(recall100.std() / np.sqrt(len(recall100)))
        mean10, mean100 = float(recall10.mean()), float(recall100.mean())
        return Score(family, code_bytes, constants, mean10, mean100, error, seconds)


Method = Callable[[Bench], Score]


def dense(family: str, peer: Peer) -> Method:
    """A dense quantiser, scored by the dot product or the cosine of its rows: the better one."""

    def measure(bench: Bench) -> Score:
        started = time.perf_counter()
        training = bench.rows[: min(bench.train_rows, PEERS_TRAIN_ON)]
        rows, code_bytes, constants = peer(training, bench.rows)
        seconds = time.perf_counter() - started
        rows = np.asarray(rows, np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        found = [
            bench.score(family, largest_dots(bench.queries, r, TOP), code_bytes, constants, seconds)
            for r in (rows, rows / np.maximum(lengths, 1e-12))
        ]
        return max(found, key=lambda score: score.recall100)

    return measure


def paper(scoring: str, nonzeros: int, steps: int = 2000) -> Method:
    """The paper's codes in one of its two modes, a model for each k."""

    def measure(bench: Bench) -> Score:
        started = time.perf_counter()
        model = bench.model(recipe="paper", latents=4096, nonzeros=nonzeros, steps=steps)
        index = CompressedIndex(model, model.compress(bench.corpus, values="float32"))
        seconds = time.perf_counter() - started
        hits = index.search(bench.queries, TOP, scoring, candidates="all")  # type: ignore[arg-type]
        constants = 4 * model.encoder.numel() * (2 if scoring == "reconstructed" else 1)
        family = f"paper, {scoring}"
        return bench.score(family, hits.ids, PAPER_BYTES * nonzeros, constants, seconds)

    return measure


def ours(latents: int, prefix: int | None = None, **settings: Any) -> Method:
    """Packed codes of one model, whatever their k; with ``prefix``, cut to so many nonzeros."""

    def measure(bench: Bench) -> Score:
        model = bench.model(recipe="pursuit", latents=latents, nonzeros=16)
        started = time.perf_counter()
        codes = model.compress(bench.training, **settings)
        if bench.train_rows < len(bench.corpus):  # The quantiser, too, has not seen the others.
            budget = settings.get("budget")
            codes = model.compress(bench.corpus, like=codes, budget=budget)
        assert isinstance(codes, PackedCodes)
        if prefix is not None:
            codes = codes.prefix(prefix)
        seconds = time.perf_counter() - started
        hits = CompressedIndex(model, codes).search(bench.queries, TOP, candidates="all")
        constants = 4 * model.decoder.numel() + codes.quantizer.nbytes
        kinds = ["prefix"] * (prefix is not None) + ["budget"] * ("budget" in settings)
        family = f"ours, {' '.join([f'h={latents}', *kinds])}"
        return bench.score(family, hits.ids, codes.nbytes / len(codes), constants, seconds)

    return measure


_FAMILIES = ("OPQ", "PQ", "RQ", "SQ", "RaBitQ", "binary")
METHODS: dict[str, Method] = {
    **{
        name: dense(
            next((f for f in _FAMILIES if name.startswith(f)), f"PCA {name.split()[-1]}"), peer
        )
        for name, peer in PEERS.items()
    },
    **{
        f"paper {scoring} k={k}": paper(scoring, k)
        for k in (8, 16, 32, 64, 128, 256)
        for scoring in ("sparse", "reconstructed")
    },
    **{
        f"ours h={h} k={k}" + f"+{m}" * (m > 0): ours(h, nonzeros=k, residual_bytes=m)
        for h, points in {
            4096: ((5, 0), (9, 0), (17, 0), (36, 0), (16, 34), (16, 98)),
            16384: ((5, 0), (9, 0), (15, 0), (16, 0), (31, 0), (16, 31), (16, 33), (16, 95),
                    (16, 97)),
        }.items()
        for k, m in points
    },
    **{f"ours h=4096 budget {b} B/row": ours(4096, budget=f"{b} B/row") for b in (17, 31, 64)},
    **{f"ours h=4096 prefix {k} of 24": ours(4096, k, nonzeros=24) for k in (8, 16)},
}  # fmt: skip


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def table(records: dict[str, Any], about: dict[str, Any]) -> str:
    """Markdown: one line a method, by code bytes."""
    lines = [
        f"{about['rows']:,} rows searched, {about['trained']:,} trained on, {about['dim']} "
        f"dimensions, {QUERIES:,} held-out queries.",
        "",
        "| code B | method | constant MB | recall@10 | recall@100 (± standard error) | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in sorted(records.items(), key=lambda pair: pair[1]["code_bytes"]):
        lines.append(
            f"| {r['code_bytes']:.1f} | {name} | {r['constant_bytes'] / 1e6:.1f} | "
            f"{r['recall10']:.3f} | {r['recall100']:.4f} ± {r['standard_error']:.4f} | "
            f"{r['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def draw(records: dict[str, Any], about: dict[str, Any], path: Path) -> None:
    """Recall@100 against code bytes, one line a family."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    families: dict[str, list[tuple[float, float]]] = {}
    for r in records.values():
        families.setdefault(r["family"], []).append((r["code_bytes"], r["recall100"]))
    for number, (family, points) in enumerate(sorted(families.items())):
        mine = family.startswith("ours")
        axes.plot(
            *zip(*sorted(points), strict=True), label=family, marker="os^v"[number % 4],
            linewidth=2.2 if mine else 1, linestyle="-" if mine else "--", color=f"C{number}"
            if number < 10 else f"{0.2 + 0.15 * (number - 10):.2f}",
        )  # fmt: skip
    axes.set(xlabel="code bytes a row", ylabel="recall@100", ylim=(0, 1.02))
    axes.set_xscale("log", base=2)
    axes.set_title(f"{about['rows']:,} rows, {about['trained']:,} trained on")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    FigureCanvasAgg(figure).print_png(path)


@click.command(help=__doc__)
@click.argument("embeddings", type=click.Path(exists=True))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--train-rows", type=click.IntRange(min=10_000), help="All when not given.")
@click.option("--only", default="*", help="Names of methods to run, * and ? allowed.")
@click.option("--list", "show_names", is_flag=True, help="Name the methods and stop.")
def main(
    embeddings: str, output: Path, train_rows: int | None, only: str, show_names: bool
) -> None:
    if show_names:
        click.echo("\n".join(METHODS))
        return
    chosen = [name for name in METHODS if fnmatch.fnmatch(name, only)]
    if not chosen:
        raise click.UsageError(f"no method is named {only!r}; --list names them")
    records = output / "records"
    records.mkdir(parents=True, exist_ok=True)
    bench = Bench(embeddings, output, train_rows)
    about = {
        "table": Path(embeddings).name,
        "rows": len(bench.corpus),
        "dim": bench.corpus.shape[1],
        "trained": bench.train_rows,
        "machine": machine(),
    }
    same = ("table", "rows", "dim", "trained")
    held = output / "about.json"
    if held.exists():
        old = json.loads(held.read_text())
        if any(old[name] != about[name] for name in same):
            raise click.UsageError(f"{output} holds records of {old}; name another folder")
    held.write_text(json.dumps(about, indent=1) + "\n")
    for name in chosen:
        place = records / f"{name.replace('/', ' a ')}.json"
        if place.exists():
            continue
        record = {"method": name, **asdict(METHODS[name](bench)), "commit": commit()}
        part = place.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(place)
        click.echo(f"{record['code_bytes']:8.1f} B  {record['recall100']:.4f}  {name}")
    found = {
        r["method"]: r for r in map(json.loads, (p.read_text() for p in records.glob("*.json")))
    }
    (output / "table.md").write_text(table(found, about))
    draw(found, about, output / "curve.png")
    click.echo(f"{output}/table.md and curve.png: {len(found)} of {len(METHODS)} methods")


if __name__ == "__main__":
    main()
