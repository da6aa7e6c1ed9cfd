#!/usr/bin/env python3
"""Draw recall@100 over code bytes, and over all bytes a row, constants included.

usage: python scripts/benchmarks/recall RECORD... -o PICTURE.png [--rows 116659]

A RECORD is the report.json of `compressae evaluate`, a file of several of them ({"runs": […]}), or
docs/results/recall_per_byte.json, of which the methods that learned from the same rows are taken.
Points of one method are joined by a line; where several records have it, the first one counts.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import click

#: Names of the methods that are drawn, by what a record calls them, and by their settings.
NAMES = {
    "asymmetric-all": "ours",
    "prq": "PRQ",
    "lsq": "LSQ",
    "rq": "RQ",
    "opq": "OPQ",
    "pq": "PQ",
    "scann": "ScaNN",
    "rabitqlib": "RaBitQ (rabitqlib)",
    "turboquant": "TurboQuant",
}
#: Of the older record, whose other methods are in newer ones.
OLDER = ("RQ",)
_MARKERS = "osdv^P<>X*phD"


class Point(NamedTuple):
    """A method at one size: bytes of a row's code, bytes whatever the number of rows, recall."""

    method: str
    code_bytes: float
    constant_bytes: float
    recall: float


def read_points(record: Path) -> list[Point]:
    """Points of a record; methods without a recall are left out."""
    content = json.loads(record.read_text())
    if "unseen" in content:
        return [
            Point(entry["family"], entry["code_bytes"], entry["constant_bytes"], entry["recall100"])
            for entry in content["unseen"]
            if entry["family"] in OLDER
        ]
    points = []
    for run in content.get("runs", [content]):
        for entry in run["methods"]:
            if entry["error"] is None and entry["method"] in NAMES:
                recall = entry["metrics"]["recall@100"]["mean"]
                code, constant = entry["code_bytes"], entry["constant_bytes"]
                points.append(Point(_name(entry), code, constant, recall))
    return points


def _name(entry: dict[str, Any]) -> str:
    """What the picture calls a method, with what it is given of ours."""
    given = {"weighted": ", weighted", "length": ", length byte"}
    added = (words for setting, words in given.items() if entry["settings"].get(setting))
    return NAMES[entry["method"]] + "".join(added)


def draw(points: list[Point], rows: int, path: Path) -> None:
    """Draw the points of a table of ``rows`` rows as a PNG of two panels."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.2), layout="constrained")
    code, whole = figure.subplots(1, 2, sharey=True)
    shades = colormaps["tab20"].colors  # type: ignore[attr-defined]
    colours = [*shades[::2], *shades[1::2]]
    for number, method in enumerate(dict.fromkeys(point.method for point in points)):
        own = sorted(point for point in points if point.method == method)
        style = {"marker": _MARKERS[number % len(_MARKERS)], "color": colours[number % 20]}
        style["linewidth"] = 2.5 if method == "ours" else 1
        recalls = [point.recall for point in own]
        code.plot([point.code_bytes for point in own], recalls, label=method, **style)
        totals = [point.code_bytes + point.constant_bytes / rows for point in own]
        whole.plot(totals, recalls, label=method, **style)
    code.set(xlabel="bytes of a row's code", ylabel="recall@100")
    whole.set(xlabel=f"all bytes a row, constants spread over {rows:,} rows")
    for axes in (code, whole):
        axes.set_xscale("log", base=2)
        axes.set_xticks([16, 32, 64, 128, 256], labels=["16", "32", "64", "128", "256"])
        axes.grid(alpha=0.3)
    code.legend(fontsize=8, loc="lower right")
    FigureCanvasAgg(figure).print_png(path)


@click.command(help=__doc__)
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "output", required=True, type=click.Path(path_type=Path), help="The PNG.")
@click.option("--rows", default=116_659, show_default=True, help="Rows of the table.")
def main(records: tuple[Path, ...], output: Path, rows: int) -> None:
    points: list[Point] = []
    for record in records:
        before = {point.method for point in points}
        try:
            own = read_points(record)
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # Of another form.
            raise click.ClickException(
                f"{record}: no record of an evaluation ({error!r}); expected its report.json"
            ) from error
        points += [point for point in own if point.method not in before]
    if not points:
        raise click.ClickException("no method with a recall in these records; expected reports")
    draw(points, rows, output)


if __name__ == "__main__":
    main()
