"""The picture of a report."""

from pathlib import Path
from typing import Any

_SHOWN = "recall@10"


def draw(entries: list[dict[str, Any]], path: Path) -> bool:
    """Draw recall@10 against held bytes an item and against queries/s as a PNG, with the frontiers.

    Returns:
        False where matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    measured = [entry for entry in entries if entry["error"] is None]
    families = list(dict.fromkeys(entry["family"] for entry in measured))
    figure = Figure(figsize=(14, 5.5), layout="constrained")
    sides = zip(
        figure.subplots(1, 2, sharey=True),
        (("bytes_an_item", "bytes an item held by search"), ("queries_per_second", "queries/s")),
        (True, False),
        strict=True,
    )
    for axes, (field, title), low in sides:
        # Four digits: a few bytes in all, spread over the items, are no difference.
        points = [
            (float(f"{entry[field]:.4g}"), entry["metrics"][_SHOWN]["mean"], entry)
            for entry in measured
        ]
        for number, family in enumerate(families):
            of_family = [(x, y) for x, y, entry in points if entry["family"] == family]
            marker = "osdv^P"[number % 6]
            axes.scatter(*zip(*of_family, strict=True), label=family, marker=marker)
        edge = frontier([(x, y) for x, y, _ in points], low)
        if edge:
            axes.plot(*zip(*edge, strict=True), "--", color="0.4", linewidth=1, zorder=0)
        first: dict[str, tuple[float, float]] = {}
        for x, y, entry in points:
            if (x, y) in edge:
                first.setdefault(entry["method"], (x, y))
        for name, place in first.items():
            axes.annotate(name, place, xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.set(xlabel=title, ylabel=_SHOWN, ylim=(0, 1.06))
        if measured:
            axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.grid(alpha=0.3)
    if measured:
        figure.axes[0].legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(path)
    return True


def frontier(points: list[tuple[float, float]], low: bool) -> list[tuple[float, float]]:
    """Points (x, y) that no other beats: none has as much y at as small an x (large, unless low).

    >>> frontier([(1, 0.2), (2, 0.5), (3, 0.4)], low=True)
    [(1, 0.2), (2, 0.5)]
    """
    sign = 1 if low else -1
    return sorted(
        p
        for p in set(points)
        if not any(sign * q[0] <= sign * p[0] and q[1] >= p[1] and q != p for q in points)
    )
