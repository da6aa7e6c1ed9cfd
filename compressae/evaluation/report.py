"""An evaluation as a table, JSON, Markdown, a web page and a picture, with the raw results."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from compressae.evaluation.pages import render
from compressae.evaluation.plots import draw
from compressae.evaluation.protocol import Evaluation
from compressae.evaluation.summary import summarise, training
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import check_destination
from compressae.retrieval.io.atomic import replacing

_KEYS = {"about", "metrics", "methods"}
_FILES = {"report.html", "report.json", "report.md", "report.png", "hits.npz"}
_SIZES = ("code B/item", "held B/item", "constant MB", "all B/item")
_TIMES = ("build s", "p50 ms", "p99 ms", "queries/s")
#: Columns that a narrow terminal drops, in this order.
_DISPENSABLE = (
    "score r",
    "p99 ms",
    "recall@1",
    "build s",
    "all B/item",
    "constant MB",
    "queries/s",
    "recall@100",
)
NOTES = (
    "Held bytes are those that search reads and that grow with the number of items: codes, ids, "
    "links, posting lists; constant bytes are weights, codebooks and centroids, as libraries hold "
    "them; all bytes are both, shared over these items.",
    "± is half of the 95 % interval of the mean over queries (percentile bootstrap, 1,000 "
    "resamples). Score r is the mean over queries of Pearson's correlation between the scores of "
    "the results and exact scores.",
    "truncate, pca, binary and the shared rows are decoded by numpy during the scan, and annoy "
    "uses one thread: these baselines are made for their recall, not for speed.",
    "Searches return 100 results, timed ones too; p50 and p99 are of one query at a time, encoding "
    "included. Build is from rows to a ready index, codebooks included, the model's training not.",
)


def header(summary: dict[str, Any]) -> list[str]:
    """Names of the columns of the table."""
    return ["method", *_SIZES, *summary["metrics"], *_TIMES]


def rows(summary: dict[str, Any]) -> list[list[str]]:
    """Cells of the table, one list a record, under ``header``."""
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
        f"{entry['all_bytes_an_item']:,.0f}",
        *(_figure(entry["metrics"][name]) for name in names),
        f"{entry['build_seconds']:.1f}",
        f"{entry['p50_ms']:.2f}",
        f"{entry['p99_ms']:.2f}",
        f"{entry['queries_per_second']:,.0f}",
    ]


def _figure(interval: dict[str, float | None]) -> str:
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    if mean is None:
        return "–"
    if low is None or high is None:
        return f"{mean:.3f}"
    half = f"{(high - low) / 2:.3f}".lstrip("0")
    return f"{mean:.3f} ±{half}"


def introduction(summary: dict[str, Any]) -> list[str]:
    """Sentences about table, queries and training rows."""
    about = summary["about"]
    scores = "dot product" if about.get("similarity") == "dot" else "cosine"
    sentences = [
        f"{about['items']:,} items of {about['dim']} dimensions from {about['table']}, "
        f"{about['queries']:,} queries; recall@K is against exact float32 {scores}."
    ]
    if "held_out_pairs" in about:
        sentences.append(
            f"Queries are users: {about['seen_pairs']:,} pairs that they have seen are left out of "
            f"all results; held-out recall, nDCG and hit compare with {about['held_out_pairs']:,} "
            f"other pairs of {about['users_with_held_out_pairs']:,} users, tail, middle and head "
            "with those of the least, middling and most popular third of the items; coverage is "
            "the share of items in anyone's results."
        )
    if about.get("train_rows") is not None:
        sentences.append(
            f"Everything is learned from the same {about['train_rows']:,} of these rows, drawn by "
            "seed 0; the others are encoded unseen."
        )
    if about.get("labelled_queries"):
        sentences.append(f"{about['labelled_queries']:,} queries have labels.")
    return sentences


def markdown(summary: dict[str, Any]) -> str:
    """The verdict, what was measured, the table, a legend."""
    about, names = summary["about"], header(summary)
    legend = {entry["method"]: entry["what"] for entry in summary["methods"]}
    lines = [
        "# Evaluation",
        "",
        f"**{' '.join(summary['verdict'])}**",
        "",
        " ".join(introduction(summary)),
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
        *(line for sentence in training(summary) for line in (sentence, "")),
        *(line for note in NOTES for line in (note, "")),
        *(f"- {name}: {json.dumps(value)}" for name, value in about.items()),
    ]
    return "\n".join(lines) + "\n"


def page(summary: dict[str, Any]) -> str:
    """The web page: the verdict, interactive charts, and a table that can be sorted."""
    title = f"Evaluation of {Path(summary['about']['table']).name}"
    data = {**summary, "introduction": introduction(summary), "notes": NOTES}
    return render("report", title, data)


def print_table(summary: dict[str, Any]) -> None:
    """Print the table on stdout, with as many columns as the terminal has room for.

    Reasons of methods that failed, the rows trained on and the verdict follow.
    """
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
        dropped = names.index(without.pop(0))
        names = names[:dropped] + names[dropped + 1 :]
        cells = [row[:dropped] + row[dropped + 1 :] for row in cells]
    failures = [
        f"{entry['label']} failed: {entry['error']}"
        for entry in summary["methods"]
        if entry["error"] is not None
    ]
    for line in [*failures, *training(summary), *summary["verdict"]]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write(
    evaluation: Evaluation, folder: str | Path, summary: dict[str, Any] | None = None
) -> bool:
    """Write the report as a folder, whole or not at all; ``summary`` is made when None.

    report.json (figures), report.md, report.html, report.png, and hits.npz: ``queries`` (q,),
    ``truth_ids`` and ``truth_scores`` (q, 100), and for the i-th entry of report.json's methods
    ``i_ids``, ``i_scores`` (q, 100) and ``i_times_ms`` (≤ 200,).

    Returns:
        Whether the picture was drawn, which needs matplotlib (``pip install compressae[plots]``).

    Raises:
        InputError: the folder cannot be written, or holds something else than a report.
    """
    folder = Path(folder)
    check_report_destination(folder)
    summary = summary or summarise(evaluation)
    with replacing(folder, folder=True) as temporary:
        figures = json.dumps(summary, allow_nan=False, indent=1) + "\n"
        texts = {"json": figures, "md": markdown(summary), "html": page(summary)}
        for kind, text in texts.items():  # The name of a table may be no text.
            (temporary / f"report.{kind}").write_bytes(text.encode("utf-8", "backslashreplace"))
        np.savez_compressed(temporary / "hits.npz", **_raw(evaluation))
        drawn = draw(summary["methods"], temporary / "report.png")
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


def check_report_destination(folder: str | Path, overwrite: bool = True) -> None:
    """Refuse a folder that ``write`` would refuse, or an older report without ``overwrite``.

    Raises:
        InputError: see above.
    """
    if not _is_report(Path(folder)):
        check_destination(folder, "report")
    elif not overwrite:
        raise InputError(
            f"{folder}: an older report is there; give --overwrite to replace it, or another name"
        )


def _is_report(folder: Path) -> bool:
    """Whether a folder holds a report and nothing else, which would be lost."""
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= _FILES:
        return False
    try:
        raw = json.loads((folder / "report.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(raw, dict) and _KEYS <= raw.keys() <= _KEYS | {"verdict"}
