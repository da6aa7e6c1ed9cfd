"""An evaluation as a table, JSON, Markdown, a web page and a picture, with the raw answers."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from compressae.evaluation.plots import draw
from compressae.evaluation.protocol import Evaluation
from compressae.evaluation.summary import summarise
from compressae.pages import render
from compressae.retrieval.errors import InputError
from compressae.retrieval.storage import check_destination, swap_in

_FILES = {"report.html", "report.json", "report.md", "report.png", "hits.npz"}
_SIZES = ("code B/item", "held B/item", "constant MB")
_TIMES = ("build s", "p50 ms", "p99 ms", "queries/s")
#: Columns that a terminal goes without, the first first, where there is no room for all.
_DISPENSABLE = (
    "score r",
    "p99 ms",
    "recall@1",
    "build s",
    "constant MB",
    "queries/s",
    "recall@100",
)
NOTES = (
    "Held bytes are all that search reads and that grows with the number of items: codes, ids, "
    "links, posting lists; constant bytes are weights, codebooks and centroids.",
    "± is half of the 95 % interval of the mean over queries (percentile bootstrap, 1,000 "
    "resamples). Score r is the mean over queries of Pearson's correlation between the scores of "
    "what was found and exact cosines.",
    "truncate, pca, binary and the shared rows are decoded by numpy while they are scanned, and "
    "annoy answers on one thread: their speed is that of baselines made for their recall.",
    "Searches return 100 results, timed ones too; p50 and p99 are of one query at a time, encoding "
    "included. Build is from rows to a ready index, codebooks included, the model's training not.",
)


def header(summary: dict[str, Any]) -> list[str]:
    """Names of the table's columns."""
    return ["method", *_SIZES, *summary["metrics"], *_TIMES]


def rows(summary: dict[str, Any]) -> list[list[str]]:
    """The table's cells, one list a record, under ``header``."""
    return [_cells(entry, summary["metrics"]) for entry in summary["methods"]]


def _cells(entry: dict[str, Any], names: list[str]) -> list[str]:
    if entry["error"] is not None:
        empty = len(_SIZES) + len(names) + len(_TIMES) - 1
        return [entry["label"], f"failed: {entry['error']}"] + [""] * empty
    return [
        entry["label"],
        f"{entry['code_bytes']:,.0f}",
        f"{entry['bytes_an_item']:,.0f}",
        f"{entry['constant_bytes'] / 1e6:.1f}",
        *(_figure(entry["metrics"][name]) for name in names),
        f"{entry['build_seconds']:.1f}",
        f"{entry['p50_ms']:.2f}",
        f"{entry['p99_ms']:.2f}",
        f"{entry['queries_per_second']:,.0f}",
    ]


def _figure(interval: dict[str, float | None]) -> str:
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    if mean is None or low is None or high is None:
        return "–"
    half = f"{(high - low) / 2:.3f}".lstrip("0")
    return f"{mean:.3f} ±{half}"


def markdown(summary: dict[str, Any]) -> str:
    """What was measured on what, the table, a legend."""
    about, names = summary["about"], header(summary)
    legend = {entry["method"]: entry["what"] for entry in summary["methods"]}
    lines = [
        "# Evaluation",
        "",
        f"{about['items']:,} items of {about['dim']} dimensions from {about['table']}, "
        f"{about['queries']:,} queries; recall is against exact float32 cosine.",
        "",
        "| " + " | ".join(names) + " |",
        "|" + "---|" * len(names),
        *(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
            for cells in rows(summary)
        ),
        "",
        *(f"- {name}: {what}" for name, what in legend.items()),
        "",
        *(line for note in NOTES for line in (note, "")),
        *(f"- {name}: {json.dumps(value)}" for name, value in about.items()),
    ]
    return "\n".join(lines) + "\n"


def page(summary: dict[str, Any]) -> str:
    """The web page: pictures that answer to the pointer, and a table that can be sorted."""
    title = f"Evaluation of {Path(summary['about']['table']).name}"
    return render("report", title, {**summary, "notes": NOTES})


def print_table(summary: dict[str, Any]) -> None:
    """The table on stdout, with as many columns as the terminal has room for; the reasons of those
    that failed below it."""
    from rich.console import Console
    from rich.table import Table

    measured = [entry for entry in summary["methods"] if entry["error"] is None]
    cells = rows({**summary, "methods": measured})
    console, names, without = Console(), header(summary), list(_DISPENSABLE)
    while cells:
        table = Table()
        for name in names:
            table.add_column(name, no_wrap=True)
        for row in cells:
            table.add_row(*row)
        wide = Console(width=10_000).measure(table).maximum
        if wide <= console.width or not without or not console.is_terminal:
            Console(width=max(wide, console.width)).print(table)
            break
        kept = [i for i, name in enumerate(names) if name != without[0]]
        without.pop(0)
        names, cells = [names[i] for i in kept], [[row[i] for i in kept] for row in cells]
    for entry in summary["methods"]:
        if entry["error"] is not None:
            console.print(
                f"{entry['label']} failed: {entry['error']}", markup=False, soft_wrap=True
            )


def write(
    evaluation: Evaluation, folder: str | Path, summary: dict[str, Any] | None = None
) -> bool:
    """Write the report into a folder, all or nothing; ``summary`` is made when None.

    report.json (figures), report.md, report.html, report.png, and hits.npz: ``queries`` (q,),
    ``truth_ids`` and ``truth_scores`` (q, 100), and for the i-th entry of report.json's methods
    ``i_ids``, ``i_scores`` (q, 100) and ``i_times_ms`` (≤ 200,).

    Returns:
        Whether the picture was drawn, which needs matplotlib (``pip install compressae[plots]``).

    Raises:
        InputError: the folder cannot be written, or is something else than a report.
    """
    folder = Path(folder)
    check_report_destination(folder)
    summary = summary or summarise(evaluation)
    temporary = folder.absolute().parent / f".{folder.name}.tmp-{os.getpid()}"
    try:
        temporary.mkdir()
        figures = json.dumps(summary, allow_nan=False, indent=1) + "\n"
        texts = {"json": figures, "md": markdown(summary), "html": page(summary)}
        for kind, text in texts.items():  # The name of a table may be no text.
            (temporary / f"report.{kind}").write_bytes(text.encode("utf-8", "backslashreplace"))
        np.savez_compressed(temporary / "hits.npz", **_raw(evaluation))
        drawn = draw(summary["methods"], temporary / "report.png")
        swap_in(temporary, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: could not be written ({error.strerror}); choose another place"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return drawn


def _raw(evaluation: Evaluation) -> dict[str, Any]:
    small = np.int32 if evaluation.truth.ids.max(initial=0) < 1 << 31 else np.int64
    held = {
        "queries": evaluation.queries,
        "truth_ids": evaluation.truth.ids.astype(small),
        "truth_scores": evaluation.truth.scores,
    }
    for i, record in enumerate(evaluation.records):
        if record.error is None:
            held[f"{i}_ids"] = record.hits.ids.astype(small)
            held[f"{i}_scores"] = record.hits.scores
            held[f"{i}_times_ms"] = record.times_ms
    return held


def check_report_destination(folder: str | Path) -> None:
    """Refuse a place where ``write`` would not write: anything but a report or a new folder."""
    if not _is_report(Path(folder)):
        check_destination(folder, "report")


def _is_report(folder: Path) -> bool:
    """Whether a folder holds what ``write`` made and nothing else, which would be lost."""
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= _FILES:
        return False
    try:
        raw = json.loads((folder / "report.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(raw, dict) and raw.keys() == {"about", "metrics", "methods"}
