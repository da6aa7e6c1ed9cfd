"""An evaluation as a table, JSON, Markdown and a picture."""

import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compressae.evaluation.plots import draw
from compressae.evaluation.protocol import METHODS, Evaluation, Record
from compressae.retrieval.errors import InputError
from compressae.retrieval.storage import check_destination, swap_in

HEADER = (
    "method", "code B/item", "held B/item", "constant MB", "recall@10", "recall@100",
    "build s", "p50 ms", "p99 ms", "queries/s",
)  # fmt: skip
_FILES = {"report.json", "report.md", "report.png"}


def rows(evaluation: Evaluation) -> list[list[str]]:
    """The table's cells, one list a method, under ``HEADER``."""
    return [_cells(record) for record in evaluation.records]


def _cells(record: Record) -> list[str]:
    if record.error is not None:
        return [record.method, f"failed: {record.error}"] + [""] * (len(HEADER) - 2)
    return [
        record.method,
        f"{record.code_bytes:,.0f}",
        f"{record.bytes_an_item:,.0f}",
        f"{record.constant_bytes / 1e6:.1f}",
        f"{np.mean(record.recall10):.3f}",
        f"{np.mean(record.recall100):.3f}",
        f"{record.build_seconds:.1f}",
        f"{record.p50_ms:.2f}",
        f"{record.p99_ms:.2f}",
        f"{record.queries_per_second:,.0f}",
    ]


def markdown(evaluation: Evaluation) -> str:
    """What was measured on what, the table, a legend."""
    about = evaluation.about
    lines = [
        "# Evaluation",
        "",
        f"{about['items']:,} items of {about['dim']} dimensions from {about['table']}, "
        f"{about['queries']:,} queries; recall is against exact float32 cosine.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(cells) + " |" for cells in rows(evaluation)),
        "",
        *(f"- {record.method}: {METHODS[record.method]}" for record in evaluation.records),
        "",
        "Held bytes are all that search reads and that grows with the number of items (codes, "
        "posting lists, norms); constant bytes are the weights that it needs.",
        "",
        *(f"- {name}: {json.dumps(value)}" for name, value in about.items()),
    ]
    return "\n".join(lines) + "\n"


def print_table(evaluation: Evaluation) -> None:
    """The table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADER)
    for cells in rows(evaluation):
        table.add_row(*cells)
    console = Console()
    if not console.is_terminal:  # A pipe has no width to fit into.
        console = Console(width=160)
    console.print(table)


def write(evaluation: Evaluation, folder: str | Path) -> bool:
    """Write report.json, report.md and report.png into a folder, all or nothing.

    Returns:
        Whether the picture was drawn, which needs matplotlib (``pip install compressae[plots]``).

    Raises:
        InputError: the folder cannot be written, or is something else than a report.
    """
    folder = Path(folder)
    check_report_destination(folder)
    temporary = folder.absolute().parent / f".{folder.name}.tmp-{os.getpid()}"
    raw = {"about": evaluation.about, "records": [asdict(r) for r in evaluation.records]}
    try:
        temporary.mkdir()
        (temporary / "report.json").write_text(json.dumps(_finite(raw), allow_nan=False) + "\n")
        (temporary / "report.md").write_text(markdown(evaluation))
        drawn = draw(evaluation, temporary / "report.png")
        swap_in(temporary, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: could not be written ({error.strerror}); choose another place"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return drawn


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
    return isinstance(raw, dict) and raw.keys() == {"about", "records"}


def _finite(value: Any) -> Any:
    """The same with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
