"""Command tune: set the fastest search that reaches a recall."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.cli.progress import progress
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.tuning import Setting
from compressae.retrieval.index.tuning import tune as tune_index
from compressae.retrieval.store import Catalogue


@click.command(
    cls=common.Command,
    examples=("tune index queries.npy -k 10 --recall 0.99 --exact items.npy",),
)
@click.argument("index", type=common.PATH)
@click.argument("queries", type=common.TABLE)
@click.option(
    "-k",
    "count",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Results per query.",
)
@click.option(
    "--recall",
    default=0.99,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Recall to reach, relative to a scan of all codes.",
)
@click.option(
    "--exact",
    type=common.TABLE,
    help="The items' embeddings, to measure recall against exact cosine too.",
)
@common.column_option
@common.json_option
def tune(
    index: Path, queries: Path, count: int, recall: float, exact: Path | None, as_json: bool
) -> None:
    """Set the query nonzeros and the candidates of INDEX.

    Measures settings on QUERIES, some hundred representative ones, and writes the fastest that
    reaches the recall into INDEX. The recall is relative to a scan of all codes. It leaves out the
    loss of the codes themselves; --exact measures both together.
    """
    catalogue = Catalogue.open(index)
    searcher = catalogue.index
    if not isinstance(searcher, CompressedIndex):
        raise InputError(f"{index}: takes sparse queries, whose search is exact; nothing to tune")
    items = None if exact is None else common.open_table(exact)
    with progress("tuning") as show:
        settings = tune_index(searcher, common.open_table(queries), count, recall, items, show)
    with catalogue.writing() as change:
        change.configure(searcher.search_settings)
    best = _entry(settings[0])
    if as_json:
        best["tried"] = [_entry(setting) for setting in settings]
    common.say(best, as_json)


def _entry(setting: Setting) -> dict[str, Any]:
    """Convert a setting to JSON entries; name each recall by what it is relative to."""
    entry = asdict(setting)
    entry["recall_of_scan"] = entry.pop("recall")
    exact = entry.pop("exact_recall")
    return entry if exact is None else {**entry, "recall_of_exact_cosine": exact}
