"""Points of the search benchmark: how they are timed, written and drawn."""

import json
import subprocess
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
from benchmarks.search.engines import Engine, Setting

from compressae.evaluation.protocol import machine
from compressae.retrieval import recall_at

PACKAGES = ("faiss-cpu", "hnswlib", "usearch", "annoy", "pyvsag", "pyseismic-lsr", "scipy")


@dataclass
class Point:
    """One engine at one setting.

    Attributes:
        bytes_an_item: all that is held and grows with the rows.
        constant_bytes: what does not grow.
        recall: of the top K against exact search.
        p50_ms, p99_ms: of whole calls of one query each.
        queries_per_second: of all queries in one call; of single ones where there is no such call.
        p50_over_ours: p50 over that of our first engine on the same set, in the same run; 0 where
            there is none.
    """

    engine: str
    setting: str
    rows: int
    bytes_an_item: float
    constant_bytes: int
    build_seconds: float
    recall: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    queries_per_second: float = 0.0
    p50_over_ours: float = 0.0
    more: dict[str, float] = field(default_factory=dict)


class Rounds:
    """Time engines in turn, several times over, and take medians.

    Args:
        queries: (q, h) CSR or (q, d) dense; row i is the query of one call.
        truth: (q, K) ids of exact search.
        count: queries timed one by one.
        rounds: rounds.
    """

    def __init__(self, queries: Any, truth: np.ndarray, count: int, rounds: int) -> None:
        self.queries, self.truth, self.rounds = queries, truth, rounds
        self.rows = [queries[i : i + 1] for i in range(min(count, len(truth)))]
        self.jobs: list[tuple[Point, Setting]] = []

    def add(
        self, name: str, engine: Engine, setting: Setting, n: int, seconds: float, prefix: str = ""
    ) -> Point:
        """Add a setting of an engine of n rows, built in ``seconds``."""
        nbytes = engine.nbytes if setting.nbytes is None else setting.nbytes
        label = ", ".join(filter(None, (prefix, setting.name)))
        point = Point(name, label, n, nbytes / n, engine.constant_nbytes, seconds)
        point.more.update(engine.facts)
        self.jobs.append((point, setting))
        return point

    def run(self) -> list[Point]:
        times: list[list[tuple[float, ...]]] = [[] for _ in self.jobs]
        for _ in range(self.rounds):
            for (point, setting), figures in zip(self.jobs, times, strict=True):
                figures.append(self._time(point, setting))
        for (point, _), figures in zip(self.jobs, times, strict=True):
            medians = np.median(figures, axis=0)
            point.p50_ms, point.p99_ms, point.queries_per_second = map(float, medians)
        return [point for point, _ in self.jobs]

    def _time(self, point: Point, setting: Setting) -> tuple[float, float, float]:
        """(p50 ms, p99 ms, queries a second) of one round; sets the point's recall."""
        K = self.truth.shape[1]
        queries = [setting.prepare(row) for row in self.rows]
        for query in queries[:20]:  # Warm up.
            setting.search(query, K)
        ids, single = [], []
        for query in queries:
            started = time.perf_counter()
            hits = setting.search(query, K)
            single.append(1e3 * (time.perf_counter() - started))
            ids.append(hits.reshape(K))
        rate = 1e3 / float(np.mean(single))
        if setting.batch is not None:
            started = time.perf_counter()
            setting.batch(self.queries, K)
            rate = len(self.truth) / (time.perf_counter() - started)
        point.recall = recall_at(np.array(ids), self.truth[: len(ids)], K)
        return float(np.percentile(single, 50)), float(np.percentile(single, 99)), rate


def write(
    output: Path, name: str, points: list[Point], missing: list[str], facts: dict[str, Any]
) -> None:
    """Write records, table and picture of a benchmark into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    about = {**facts, "machine": machine(), "versions": _versions(), "commit": commit}
    record = {"about": about, "missing": missing, "points": [asdict(point) for point in points]}
    (output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "| engine | setting | rows | B/item | constant MB | build s | recall | p50 ms | p99 ms | "
        "queries/s | p50 over ours |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.engine} | {p.setting} | {p.rows:,} | {p.bytes_an_item:,.0f} | "
        f"{p.constant_bytes / 1e6:.1f} | {p.build_seconds:.1f} | {p.recall:.4f} | {p.p50_ms:.3f} | "
        f"{p.p99_ms:.3f} | {p.queries_per_second:,.0f} | "
        f"{f'{p.p50_over_ours:.2f}' if p.p50_over_ours else ''} |"
        for p in points
    ]
    lines += [f"\nNot installed: {', '.join(missing)}."] if missing else []
    (output / f"{name}.md").write_text("\n".join(lines) + "\n")
    click.echo("\n".join(lines))
    draw(output / f"{name}.png", name, points)


def _versions() -> dict[str, str]:
    """Versions of the engines that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def draw(path: Path, name: str, points: list[Point]) -> None:
    """Draw time against rows ("growth"), or recall against time, coloured by bytes an item."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    if name == "growth":
        for label in dict.fromkeys(p.setting for p in points):
            line = [(p.rows, p.p50_ms) for p in points if p.setting == label]
            axes.plot(*zip(*line, strict=True), "o-", label=label)
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="ms a query (p50), top 100")
        axes.legend()
    else:
        ours = [p for p in points if p.engine.startswith("compressae")]
        others = [p for p in points if p not in ours]
        for group, label, marker, edge in (
            (ours, "ours", "o", "red"),
            (others, "others", "s", "none"),
        ):
            times, recalls = [p.p50_ms for p in group], [p.recall for p in group]
            style = dict(marker=marker, edgecolors=edge, norm=LogNorm(20, 2000), cmap="viridis")
            nbytes = [p.bytes_an_item for p in group]
            dots = axes.scatter(times, recalls, c=nbytes, label=label, **style)
        for engine in {p.engine for p in others}:
            best = max((p for p in others if p.engine == engine), key=lambda p: p.recall)
            axes.annotate(engine, (best.p50_ms, best.recall), fontsize=7)
        axes.set(xscale="log", xlabel="ms a query (p50), one thread", ylabel="recall")
        figure.colorbar(dots, label="bytes an item")
        axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)
