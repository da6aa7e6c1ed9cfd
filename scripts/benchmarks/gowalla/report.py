"""The comparison as Markdown and as a picture, from the cells."""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.gowalla.cells import TOP
from benchmarks.gowalla.methods import METHODS

Record = dict[str, Any]

#: Published Recall@20 by model and per cent removed: BET, arXiv 2310.14884, tables 1 and 2,
#: Gowalla, d = 128, which counts numbers only; its split, seeds and machine are not ours.
PUBLISHED = {
    "lightgcn": {
        "uniform": {80: 0.1674, 90: 0.1477, 95: 0.1085},
        "random sizes": {80: 0.1583, 90: 0.1403, 95: 0.1178},
        "CIESS": {80: 0.1750, 90: 0.1589, 95: 0.1214},
        "BET, random choice": {80: 0.1749, 90: 0.1594, 95: 0.1335},
        "BET": {80: 0.1753, 90: 0.1620, 95: 0.1374},
    },
    "ngcf": {
        "uniform": {80: 0.1466, 90: 0.1380, 95: 0.1213},
        "random sizes": {80: 0.1223, 90: 0.1123, 95: 0.1040},
        "CIESS": {80: 0.1504, 90: 0.1380, 95: 0.1129},
        "BET": {80: 0.1454, 90: 0.1426, 95: 0.1172},
    },
    "ncf": {
        "uniform": {80: 0.1235, 90: 0.1112, 95: 0.0952},
        "random sizes": {80: 0.1243, 90: 0.1069, 95: 0.0918},
        "CIESS": {80: 0.1307, 90: 0.1131, 95: 0.0933},
        "BET": {80: 0.1294, 90: 0.1122, 95: 0.0963},
    },
}
#: Published Recall@20 and NDCG@20 of the dense table: LightGCN, arXiv 2002.02126, d = 64.
PUBLISHED_DENSE = (0.1830, 0.1554)
_GOWALLA = (29858, 40981)


def groups(records: Iterable[Record]) -> list[tuple[str, str, list[Record]]]:
    """Group cells by (protocol, model)."""

    def key(record: Record) -> tuple[str, str]:
        return record["protocol"], record["model"]

    ordered = sorted(records, key=key)
    return [(*names, list(found)) for names, found in groupby(ordered, key)]


def markdown(records: list[Record]) -> str:
    """All tables, one for each protocol and model."""
    parts = ["# Recommender tables under a budget of bytes\n"]
    for protocol, model, found in groups(records):
        setting = found[0]["settings"]
        seeds = sorted({record["seed"] for record in found})
        header, lines = rows(found)
        judged = "test" if setting["test"] else "validation"
        title = f"{_MODELS[model]}, {_PROTOCOLS[protocol]}, d = {setting['dim']}"
        kept = " at most, the best by validation pairs kept" * (protocol == "bet")
        kept += ", and these judge" * (protocol == "bet" and not setting["test"])
        spread = " (mean ± standard deviation, where there are several)" * (len(seeds) > 1)
        parts.append(
            f"## {title}\n\n"
            f"Recall@{TOP} / NDCG@{TOP} of the {judged} pairs, full ranking with training pairs "
            f"left out; {setting['users']:,} users, {setting['items']:,} items, "
            f"{setting['recipe']['epochs']} epochs{kept}, "
            f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            f"{spread}. B: bytes a row of what is "
            "stored, everything counted (rows of items alone: an item). s: seconds of training for "
            "this cell, the dense table's not counted in the rows that start from it (*).\n"
        )
        if dense := dense_line(found):
            parts.append(dense + "\n")
        parts.append("\n".join(map(_line, [header, ["---"] * len(header), *lines])) + "\n")
        if notes := _notes(found):
            parts.append(notes + "\n")
        if hidden := _hidden(found):
            parts.append(hidden + "\n")
        parts.append(f"Machine: {_machine(found[0])}\n")
    return "\n".join(parts)


_MODELS = {"lightgcn": "LightGCN", "mf": "MF", "ncf": "NCF", "ngcf": "NGCF"}
_PROTOCOLS = {"lightgcn": "LightGCN split", "bet": "BET's protocol (50/25/25 per user)"}


def rows(found: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of one table: methods by budgets, without dense, published rows last."""
    budgets = sorted({record["removed"] for record in found if record["removed"]})
    header = ["method"]
    for removed in budgets:
        header += [f"{removed:g} % removed", "B", "s"]
    lines = []
    for name in methods(found):
        if name == "dense":
            continue
        cells = [record for record in found if record["method"] == name]
        line = [METHODS[name].label if name in METHODS else name]
        for removed in budgets:
            line += _entry([record for record in cells if record["removed"] == removed])
        lines.append(line)
    if is_published(found[0]):
        for name, figures in PUBLISHED[found[0]["model"]].items():
            line = [f"{name}, published"]
            for removed in budgets:
                line += [f"{figures[removed]:.4f}"[1:] if removed in figures else "", "", ""]
            lines.append(line)
    return header, lines


def dense_line(found: list[Record]) -> str:
    """The dense table in one line, or "" without a cell."""
    cells = [record for record in found if record["method"] == "dense"]
    if not cells:
        return ""
    quality, width, seconds = _entry(cells)
    line = f"Dense, nothing removed: {quality}" + f", {width} B, {seconds} s" * bool(width)
    if _is_published_dense(cells[0]):
        recall, ndcg = (f"{x:.4f}"[1:] for x in PUBLISHED_DENSE)
        line += f"; published: {recall} / {ndcg}"
    return line + "."


def methods(found: list[Record]) -> list[str]:
    """Names of the methods with cells, in the order of METHODS."""
    there = dict.fromkeys(record["method"] for record in found)
    return [n for n in METHODS if n in there] + [n for n in there if n not in METHODS]


def figure_of(record: Record, name: str = f"recall{TOP}") -> float | None:
    """A figure of the test pairs, or else of the validation pairs, or None."""
    return record.get(name, record.get(f"valid_{name}"))


def is_published(record: Record) -> bool:
    """Whether BET's published rows are of this data, model and width."""
    setting = record["settings"]
    same = (record["protocol"], setting["dim"]) == ("bet", 128) and record["model"] in PUBLISHED
    return same and setting["test"] and (setting["users"], setting["items"]) == _GOWALLA


def _is_published_dense(record: Record) -> bool:
    setting = record["settings"]
    same = (record["protocol"], record["model"], setting["dim"]) == ("lightgcn", "lightgcn", 64)
    return same and setting["test"] and (setting["users"], setting["items"]) == _GOWALLA


def _entry(cells: list[Record]) -> list[str]:
    """(quality, bytes a row, seconds) over the seeds of a cell."""
    if not cells:
        return ["", "", ""]
    for reason, said in (("does_not_fit", "does not fit"), ("failed", "failed")):
        if any(record[reason] for record in cells):
            return [said, "", ""]
    recall, ndcg = (_mean([figure_of(r, f"{x}{TOP}") for r in cells]) for x in ("recall", "ndcg"))
    width = np.mean([record["bytes_a_row"] for record in cells])
    seconds = np.mean([record["seconds"] for record in cells])
    star = "*" * any(r["dense_seconds"] and r["method"] != "dense" for r in cells)
    return [f"{recall} / {ndcg}", f"{width:.1f}", f"{seconds:.0f}{star}"]


def _mean(figures: list[Any]) -> str:
    text = f"{np.mean(figures):.4f}".removeprefix("0")
    if len(figures) > 1:  # The standard deviation over seeds.
        text += f" ± {np.std(figures, ddof=1):.4f}".replace("± 0", "± ")
    return text


def _notes(found: list[Record]) -> str:
    lines = []
    for name in methods(found):
        method = METHODS.get(name)
        if method is None:
            continue
        counted = "numbers alone are counted" * (method.counts == "numbers")
        if said := "; ".join(filter(None, [method.note, counted])):
            lines.append(f"- {method.label}: {said}.")
    return "\n".join(lines)


def _hidden(found: list[Record]) -> str:
    """A list of Recall with validation pairs masked too."""
    name = f"recall{TOP}_hidden"
    lines = []
    for method in methods(found):
        cells = [r for r in found if r["method"] == method and r.get(name) is not None]
        budgets = sorted({record["removed"] for record in cells})
        figures = [
            f"{_mean([r[name] for r in cells if r['removed'] == b])} ({b:g} %)" for b in budgets
        ]
        if figures:
            label = METHODS[method].label if method in METHODS else method
            lines.append(f"- {label}: {', '.join(figures)}")
    if not lines:
        return ""
    return f"Recall@{TOP} with validation pairs left out of the rankings, too:\n\n" + "\n".join(
        lines
    )


def _machine(record: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in record["machine"].items())


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(records: list[Record], path: Path) -> bool:
    """Draw Recall@20 over bytes a row, a line a method, as a PNG; False without matplotlib.

    One panel for each protocol and model, three beside each other at most.
    The dense table is a dashed line, BET's published figures are crosses.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    found, known = groups(records), list(METHODS)
    columns = max(1, min(len(found), 3))
    lines = max(1, -(-len(found) // columns))
    figure = Figure(figsize=(7.5 * columns, 5.5 * lines), layout="constrained")
    for place, (protocol, model, cells) in enumerate(found, 1):
        axes = figure.add_subplot(lines, columns, place)
        budgets = {record["removed"] for record in cells if record["removed"]}
        for name in methods(cells):
            number = known.index(name) if name in known else len(known)  # The same in all panels.
            if name in METHODS and METHODS[name].counts == "items":
                continue  # Their users are dense: bytes a row do not compare.
            points = _points([record for record in cells if record["method"] == name])
            label = METHODS[name].label if name in METHODS else name
            if not points:
                continue
            if name == "dense":
                (width, recall), *_ = points
                text = f"{label}, {width:g} B"
                axes.axhline(recall, ls="--", color="0.4", linewidth=1, label=text)
                continue
            style = f"{'osdv^P'[number % 6]}{'-' if number < 10 else '-.'}"
            axes.plot(*zip(*points, strict=True), style, label=label, color=f"C{number % 10}")
        if is_published(cells[0]):
            dense = 4 * cells[0]["settings"]["dim"]
            figures = PUBLISHED[model]["BET"].items()
            points = [(dense * (100 - b) / 100, recall) for b, recall in figures]
            axes.plot(*zip(*points, strict=True), "x:k", label="BET, published")
        judged = "test" if cells[0]["settings"]["test"] else "validation"
        axes.set(
            xlabel="bytes a row",
            ylabel=f"Recall@{TOP}, {judged} pairs",
            title=f"{_MODELS[model]}, {_PROTOCOLS[protocol]}",
            xscale="log",
        )
        widths = sorted({4 * cells[0]["settings"]["dim"] * (100 - b) / 100 for b in budgets})
        axes.set_xticks(widths, [f"{width:g}" for width in widths])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    FigureCanvasAgg(figure).print_png(path)
    return True


def _points(cells: list[Record]) -> list[tuple[float, float]]:
    """(bytes a row, recall) of each budget, means over seeds, ascending."""
    points = []
    for removed in {record["removed"] for record in cells}:
        of_budget = [r for r in cells if r["removed"] == removed and figure_of(r) is not None]
        if of_budget:
            width = float(np.mean([record["bytes_a_row"] for record in of_budget]))
            points.append((width, float(np.mean([figure_of(record) for record in of_budget]))))
    return sorted(points)
