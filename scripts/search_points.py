"""Points of the search benchmark: how they are timed, written and drawn."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from compressae.evaluation.protocol import machine
from compressae.retrieval import recall_at


@dataclass
class Point:
    """One engine at one setting.

    Attributes:
        bytes_an_item: all that is held and grows with the rows.
        constant_bytes: what does not grow.
        recall: of the top K against exact search.
        p50_ms, p99_ms: of single queries, one a round.
        queries_per_second: of all queries in one call; of single ones where there is no such call.
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
    more: dict[str, float] = field(default_factory=dict)


One = Callable[[int], np.ndarray]  # The number of a query to its ids.
All = Callable[[], np.ndarray]


class Rounds:
    """Engines that take turns."""

    def __init__(self, queries: int, rounds: int, truth: np.ndarray) -> None:
        self.queries, self.rounds, self.truth = queries, rounds, truth
        self.jobs: list[tuple[Point, One, All | None]] = []

    def add(self, point: Point, one: One, everything: All | None = None) -> None:
        self.jobs.append((point, one, everything))

    def run(self) -> list[Point]:
        """Time all jobs, ``rounds`` times over, and take medians."""
        times: list[list[tuple[float, float, float]]] = [[] for _ in self.jobs]
        for _ in range(self.rounds):
            for (point, one, everything), kept in zip(self.jobs, times, strict=True):
                found = [one(i) for i in range(20)]  # Warm up.
                found, single = [], []
                for i in range(self.queries):
                    started = time.perf_counter()
                    found.append(one(i))
                    single.append(1e3 * (time.perf_counter() - started))
                rate = 1e3 / np.mean(single)
                if everything is not None:
                    started = time.perf_counter()
                    everything()
                    rate = len(self.truth) / (time.perf_counter() - started)
                kept.append((np.percentile(single, 50), np.percentile(single, 99), rate))
                K = self.truth.shape[1]
                point.recall = recall_at(np.array(found), self.truth[: self.queries], K)
        for (point, _, _), kept in zip(self.jobs, times, strict=True):
            figures = np.median(kept, axis=0)
            point.p50_ms, point.p99_ms, point.queries_per_second = map(float, figures)
        return [point for point, _, _ in self.jobs]


def write(
    output: Path, what: str, points: list[Point], missing: list[str], facts: dict[str, Any]
) -> None:
    """Records, table and picture."""
    output.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    about = {**facts, "machine": machine(), "versions": versions(), "commit": commit}
    record = {"about": about, "missing": missing, "points": [asdict(point) for point in points]}
    (output / f"{what}.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "| engine | setting | rows | B/item | constant MB | build s | recall | p50 ms | p99 ms | "
        "queries/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.engine} | {p.setting} | {p.rows:,} | {p.bytes_an_item:,.0f} | "
        f"{p.constant_bytes / 1e6:.1f} | {p.build_seconds:.1f} | {p.recall:.4f} | {p.p50_ms:.3f} | "
        f"{p.p99_ms:.3f} | {p.queries_per_second:,.0f} |"
        for p in points
    ]
    lines += [f"\nNot installed: {', '.join(missing)}."] if missing else []
    (output / f"{what}.md").write_text("\n".join(lines) + "\n")
    click.echo("\n".join(lines))
    draw(output / f"{what}.png", what, points)


def versions() -> dict[str, str]:
    """Of the other engines, where they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("faiss-cpu", "hnswlib", "usearch", "annoy", "pyvsag", "pyseismic-lsr", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def draw(path: Path, what: str, points: list[Point]) -> None:
    """Time against recall (its colour: bytes an item), or against rows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    figure, axes = plt.subplots(figsize=(9, 6), constrained_layout=True)
    if what == "growth":
        for kind in dict.fromkeys(p.setting for p in points):
            line = [(p.rows, p.p50_ms) for p in points if p.setting == kind]
            axes.plot(*zip(*line, strict=True), "o-", label=kind)
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="ms a query (p50), top 100")
        axes.legend()
    else:
        ours = [p for p in points if p.engine.startswith("compressae")]
        scale = LogNorm(20, 2000)
        for group, mark in ((ours, "o"), ([p for p in points if p not in ours], "s")):
            shown = axes.scatter(
                [p.p50_ms for p in group], [p.recall for p in group], marker=mark,
                c=[p.bytes_an_item for p in group], norm=scale, cmap="viridis",
                edgecolors="red" if mark == "o" else "none", label="ours" if mark == "o" else
                "others",
            )  # fmt: skip
        for name in {p.engine for p in points if p not in ours}:
            best = max((p for p in points if p.engine == name), key=lambda p: p.recall)
            axes.annotate(name, (best.p50_ms, best.recall), fontsize=7)
        axes.set(xscale="log", xlabel="ms a query (p50), one thread", ylabel="recall")
        figure.colorbar(shown, label="bytes an item")
        axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)
