"""compressae search"""

import json
from pathlib import Path

import click

from compressae.cli import common
from compressae.devices import pick_device
from compressae.retrieval.embeddings import open_embeddings
from compressae.retrieval.files import check_file_destination
from compressae.retrieval.inverted import KIND as INVERTED
from compressae.retrieval.inverted import InvertedIndex
from compressae.retrieval.searcher import Hits
from compressae.retrieval.storage import read_config
from compressae.search import SCORINGS, CompressedIndex


@click.command(cls=common.Command)
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("queries", type=click.Path(path_type=Path))
@click.option(
    "-k",
    "count",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="Results a query.",
)
@click.option(
    "--scoring",
    type=click.Choice(SCORINGS),
    default="asymmetric",
    show_default=True,
    help="How dense queries are compared with codes.",
)
@click.option("--candidates", help="Items rescored a query, or 'all'.")
@click.option(
    "--query-nonzeros",
    type=click.IntRange(min=1),
    help="Entries of the query that search the lists; more find more and take longer.",
)
@click.option(
    "--allowed",
    type=click.Path(path_type=Path),
    help="A .npy of the only ids that may be found, or of one flag an id.",
)
@click.option(
    "--dense",
    type=click.Path(path_type=Path),
    help="The items' embeddings: the best items are read from them and ranked exactly.",
)
@click.option(
    "--dense-candidates",
    type=click.IntRange(min=1),
    help="How many items are read from --dense a query; 4 times -k if not given.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="A .npz file of ids and scores."
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda or auto. A GPU scores every item unless --candidates is given.",
)
@common.json_option
def search(
    index: Path,
    queries: Path,
    count: int,
    scoring: str,
    candidates: str | None,
    query_nonzeros: int | None,
    allowed: Path | None,
    dense: Path | None,
    dense_candidates: int | None,
    output: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Find the nearest items of QUERIES.

    Dense queries are a table like the embeddings. An index without a model takes sparse queries:
    codes, or a scipy .npz. Prints "query: id score, …" unless -o is given.
    """
    if candidates not in (None, "all") and not candidates.isdecimal():
        raise click.UsageError(f"--candidates {candidates}: expected a number or 'all'")
    if output is not None:
        check_file_destination(output)
    kept = None if allowed is None else common.load_numbers(allowed, "ids or flags", "iub")
    gpu = pick_device(device).type == "cuda"
    if read_config(index)["kind"] == INVERTED:
        if gpu and device != "auto":
            raise click.UsageError(
                f"--device {device} is for an index made with -m MODEL; lists alone are searched "
                "on the cpu"
            )
        for option in (candidates, query_nonzeros, dense, dense_candidates):
            if option is not None:
                raise click.UsageError(
                    "candidates, query nonzeros and dense rows are for an index made with -m MODEL"
                )
        hits = InvertedIndex.load(index).search(common.sparse_rows(queries), count, kept)
    else:
        rescored = candidates if candidates in (None, "all") else int(candidates)
        loaded = CompressedIndex.load(index)
        searcher = loaded.to(device) if gpu else loaded
        hits = searcher.search(
            open_embeddings(queries),
            count,
            scoring,  # type: ignore[arg-type]
            rescored,  # type: ignore[arg-type]
            query_nonzeros,
            kept,
            dense,
            dense_candidates,
        )
    if output is not None:
        hits.save(output)
        common.say({"hits": str(output), "queries": len(hits.ids), "results": count}, as_json)
        return
    _print(hits, as_json)


def _print(hits: Hits, as_json: bool) -> None:
    for number, (ids, scores) in enumerate(zip(hits.ids, hits.scores, strict=True)):
        found = ids >= 0
        if as_json:
            line = {"query": number, "ids": ids[found].tolist(), "scores": scores[found].tolist()}
            click.echo(json.dumps(line))
        else:
            pairs = zip(ids[found], scores[found], strict=True)
            click.echo(f"{number}: " + ", ".join(f"{i} {s:.4f}" for i, s in pairs))
