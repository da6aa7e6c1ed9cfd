"""Command update: add, replace and remove rows of an index, merge and roll back."""

from pathlib import Path
from typing import Any

import click

from compressae.cli import common, inputs
from compressae.cli.progress import progress
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import Embeddings
from compressae.retrieval.store import Catalogue


@click.command(
    cls=common.Command,
    examples=(
        "update index --add new.npy --ids new_ids.npy --remove gone.npy",
        "update index --add new.parquet --id-column sku --metadata-columns price",
        "update index --metadata prices.parquet --id-column sku",
        "update index --compact --prune 2",
        "update index --rollback 3",
    ),
)
@click.argument("index", type=common.PATH)
@click.option("--remove", type=common.PATH, help="Ids to remove, as those of --ids.")
@click.option(
    "--add",
    type=common.TABLE,
    help="Rows to add: a table, or codes or a scipy .npz if the index has no model.",
)
@click.option(
    "--ids",
    type=common.PATH,
    help="Ids of the added rows: a .npy, a .txt of a line each or a .parquet; rows "
    "of ids in the index are replaced.  [default: the next numbers]",
)
@inputs.metadata_options
@click.option("--compact", is_flag=True, help="Merge all segments, without removed rows.")
@click.option(
    "--rollback", type=click.IntRange(min=1), help="Go back to an older version: see 'info'."
)
@click.option(
    "--prune",
    type=click.IntRange(min=1),
    help="Delete all versions but so many of the newest, and what only they need.",
)
@click.option(
    "--wait",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds to wait for another process that writes.",
)
@common.column_option
@common.json_option
def update(
    index: Path,
    remove: Path | None,
    add: Path | None,
    ids: Path | None,
    metadata: Path | None,
    metadata_columns: str | None,
    id_column: str | None,
    compact: bool,
    rollback: int | None,
    prune: int | None,
    wait: float,
    as_json: bool,
) -> None:
    """Remove, replace and add rows of INDEX by id, as one new version.

    --metadata alone replaces the columns of the rows of the ids.
    Searches elsewhere go on meanwhile. Older versions are kept until --prune, and --rollback goes
    back to one. An error leaves INDEX unchanged.
    """
    changes = add is not None or remove is not None or metadata is not None
    if rollback is not None and (changes or compact):
        raise click.UsageError("--rollback goes alone, or with --prune")
    if not (changes or compact or rollback or prune):
        raise click.UsageError(
            "nothing to do: give --add, --remove, --metadata, --compact, --rollback or --prune"
        )
    if ids is not None and add is None and metadata is None:
        raise click.UsageError("--ids are those of --add or --metadata, which are missing")
    # Everything is read, checked and encoded before the index is locked.
    removed_ids = None if remove is None else inputs.load_ids(remove)
    new_ids, columns = inputs.ids_and_metadata(ids, metadata, metadata_columns, id_column, add)
    if columns is not None and add is None and new_ids is None:
        raise click.UsageError("--metadata of which rows? Give --ids or --id-column")
    if rollback is not None:
        catalogue = Catalogue.open(index, version=rollback)
        catalogue.rollback(rollback)
    else:
        catalogue = Catalogue.open(index)
    rows = None
    if add is not None:
        dense = catalogue.projection is not None
        table: Any = common.open_table(add) if dense else inputs.sparse_rows(add)
        if new_ids is not None and len(new_ids) != len(table):
            raise InputError(f"{len(new_ids)} ids for {len(table)} rows; expected one a row")
        rows = _encode(catalogue, table) if dense else table
    added = replaced = 0
    if changes or compact:
        with catalogue.writing(wait) as change:
            if removed_ids is not None:
                change.remove(removed_ids)
            if rows is not None and new_ids is not None:
                replaced = change.put(rows, new_ids, columns)
                added = len(new_ids) - replaced
            elif rows is not None:
                added = len(change.add(rows, metadata=columns))
            elif columns is not None:
                change.update(new_ids, metadata=columns)
                replaced = len(columns)
            if compact:
                change.compact()
    said: dict[str, Any] = {"index": str(index), "version": catalogue.version}
    said["rows"] = len(catalogue)
    if changes:
        removed = 0 if removed_ids is None else len(removed_ids)
        said |= {"added": added, "replaced": replaced, "removed": removed}
    if prune is not None:
        said["bytes_freed"] = catalogue.prune(prune)
    common.say(said, as_json)


def _encode(catalogue: Catalogue, rows: Embeddings) -> Any:
    """Encode a table like the codes of the catalogue."""
    from compressae.coding.compress import encode_like
    from compressae.model import CompresSAE

    assert catalogue.projection is not None
    model = CompresSAE.from_projection(catalogue.projection)
    with progress("encoding") as show:
        return encode_like(model, rows, catalogue.like, show)
