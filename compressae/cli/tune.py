"""compressae tune"""

from dataclasses import asdict
from pathlib import Path

import click

from compressae.cli import common
from compressae.progress import progress
from compressae.retrieval.embeddings import open_embeddings
from compressae.search import CompressedIndex


@click.command(cls=common.Command)
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("queries", type=click.Path(path_type=Path))
@click.option(
    "-k", "count", default=100, show_default=True, type=click.IntRange(min=1),
    help="Results a query.",
)  # fmt: skip
@click.option(
    "--recall",
    default=0.99,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of what a scan of all codes finds that the search has to find.",
)
@common.json_option
def tune(index: Path, queries: Path, count: int, recall: float, as_json: bool) -> None:
    """Set how many entries of a query search the lists and how many items are rescored.

    Of the settings that reach the recall on QUERIES, some hundred like those to come, the fastest
    is written into INDEX.
    """
    searcher = CompressedIndex.load(index)
    with progress("tuning") as show:
        found = searcher.tune(open_embeddings(queries), count, recall, show)
    searcher.save(index)
    best = asdict(found[0])
    if as_json:
        common.say({**best, "tried": [asdict(one) for one in found]}, True)
        return
    common.say(best, False)
