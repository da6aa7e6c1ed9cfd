"""Command update: add, replace and remove rows of an index."""

from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.cli.progress import progress
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.inverted import KIND as INVERTED
from compressae.retrieval.index.inverted import InvertedIndex
from compressae.retrieval.io.artifacts import read_config
from compressae.retrieval.io.embeddings import open_embeddings


@click.command(
    cls=common.Command,
    examples=("update index --add new.npy --ids new_ids.npy --remove gone.npy",),
)
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--remove", type=click.Path(path_type=Path), help="A .npy of ids to remove.")
@click.option(
    "--add",
    type=click.Path(path_type=Path),
    help="Rows to add: a table, or codes or a scipy .npz if the index has no model.",
)
@click.option(
    "--ids",
    type=click.Path(path_type=Path),
    help="A .npy of ids of the added rows; rows of ids in the index are replaced.  "
    "[default: the next ids]",
)
@common.json_option
def update(
    index: Path, remove: Path | None, add: Path | None, ids: Path | None, as_json: bool
) -> None:
    """Remove, replace and add rows of INDEX by id, and save it compacted.

    An error leaves INDEX unchanged.
    """
    if add is None and remove is None:
        raise click.UsageError("nothing to do: give --add or --remove")
    if ids is not None and add is None:
        raise click.UsageError("--ids are those of --add, which is missing")
    searcher: InvertedIndex | CompressedIndex
    rows: Any = None
    if read_config(index)["kind"] == INVERTED:
        searcher = InvertedIndex.load(index)
        rows = None if add is None else common.sparse_rows(add)
    else:
        searcher = CompressedIndex.load(index)
        rows = None if add is None else _encode(searcher, add)
    removed = added = replaced = 0
    if remove is not None:
        removed_ids = common.load_ids(remove)
        searcher.remove(removed_ids)
        removed = len(removed_ids)
    if add is not None:
        new_ids = None if ids is None else common.load_ids(ids)
        if new_ids is not None:
            replaced_ids = new_ids[searcher.segments.known(new_ids)]
            searcher.remove(replaced_ids)
            replaced = len(replaced_ids)
        added = len(searcher.add(rows, new_ids)) - replaced
    searcher.save(index)
    common.say(
        {
            "index": str(index),
            "rows": len(searcher),
            "added": added,
            "replaced": replaced,
            "removed": removed,
        },
        as_json,
    )


def _encode(index: CompressedIndex, table: Path) -> Any:
    """Encode a table like the codes of the index."""
    rows = open_embeddings(table)
    from compressae.coding.compress import encode_like
    from compressae.model import CompresSAE

    model = CompresSAE.from_projection(index.projection)
    with progress("encoding") as show:
        return encode_like(model, rows, index.codes, show)
