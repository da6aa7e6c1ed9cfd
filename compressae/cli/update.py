"""Command update: add, replace and remove rows of an index."""

from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.cli.progress import progress
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.inverted import KIND as INVERTED
from compressae.retrieval.index.inverted import InvertedIndex
from compressae.retrieval.io.artifacts import read_config
from compressae.retrieval.io.embeddings import Embeddings, open_embeddings


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
    # Everything is read and checked before rows are encoded, which takes longest.
    removed_ids = None if remove is None else common.load_ids(remove)
    new_ids = None if ids is None else common.load_ids(ids)
    searcher: InvertedIndex | CompressedIndex
    rows: Any = None
    if read_config(index).kind == INVERTED:
        searcher = InvertedIndex.load(index)
        rows = None if add is None else common.sparse_rows(add)
    else:
        searcher = CompressedIndex.load(index)
        rows = None if add is None else open_embeddings(add)
    if new_ids is not None and len(new_ids) != len(rows):
        raise InputError(f"{len(new_ids)} ids for {len(rows)} rows; expected one a row")
    removed = added = replaced = 0
    if removed_ids is not None:
        searcher.remove(removed_ids)
        removed = len(removed_ids)
    if add is not None:
        if new_ids is not None:
            replaced_ids = new_ids[searcher.segments.known(new_ids)]
            searcher.remove(replaced_ids)
            replaced = len(replaced_ids)
        if isinstance(searcher, CompressedIndex):
            rows = _encode(searcher, rows)
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


def _encode(index: CompressedIndex, rows: Embeddings) -> Any:
    """Encode a table like the codes of the index."""
    from compressae.coding.compress import encode_like
    from compressae.model import CompresSAE

    model = CompresSAE.from_projection(index.projection)
    with progress("encoding") as show:
        return encode_like(model, rows, index.segments.parts[0].codes, show)
