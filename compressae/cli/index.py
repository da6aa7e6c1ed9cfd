"""Command index: build a search index."""

from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.cli.progress import progress
from compressae.retrieval.codes import Codes, load_codes
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.store.catalogue import Catalogue, check_place, check_row_ids
from compressae.retrieval.store.metadata import as_table


@click.command(
    cls=common.Command,
    examples=(
        "index items.npy -m model -o index --residual-bytes 32",
        "index codes -m model -o index",
        "index items.npy -m model -o index --similarity dot --queries users.npy --ids ids.npy",
        "index items.npy -m model -o index --metadata items.parquet --id-column sku",
        "index items.parquet -m model -o index --id-column sku --metadata-columns price,in_stock",
        "index documents.npz -o index",
    ),
)
@click.argument("source", metavar="CODES_OR_EMBEDDINGS", type=common.TABLE)
@common.model_option(False, "Folder of the model; without it the index takes sparse queries.")
@common.output_option("Folder of the index, a catalogue.")
@click.option(
    "--ids",
    type=common.PATH,
    help="The rows' ids, all distinct: a .npy of whole numbers from 0 or of texts, or a .txt of a "
    "line each, or a .parquet with --id-column.  [default: the row numbers]",
)
@common.metadata_options
@common.code_options
@common.device_option
@common.column_option
@common.json_option
def index(
    source: Path,
    model: Path | None,
    output: Path,
    overwrite: bool,
    ids: Path | None,
    metadata: Path | None,
    metadata_columns: str | None,
    id_column: str | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Build a search index.

    From codes and their model, or from embeddings and a model (which are encoded first), the index
    takes dense queries. From codes alone, or a scipy sparse .npz, it takes sparse queries. The
    options of codes apply to embeddings only.
    """
    is_matrix = source.suffix == ".npz"
    is_coded = is_matrix or (source / "config.json").exists()
    if not is_coded and model is None:
        common.open_table(source)  # What cannot be read is reported before the missing model.
        raise click.UsageError("embeddings need a model: give -m MODEL")
    if is_coded and any(options.values()):
        raise click.UsageError("codes are indexed as they are: options of codes are for embeddings")
    check_place(output, overwrite)
    names, table = common.ids_and_metadata(
        ids, metadata, metadata_columns, id_column, None if is_coded else source
    )
    codes: Codes
    projection = None
    if not is_coded:
        assert model is not None
        items = common.open_table(source)
        check_row_ids(names, len(items))  # Before rows are encoded, which takes longest.
        if table is not None:
            as_table(table, len(items))
        from compressae.model import CompresSAE

        encoder = CompresSAE.load(model)
        with progress("encoding") as show:
            codes = common.encode_rows(encoder, items, options, device, show)
        projection = encoder.projection
    else:
        codes = common.sparse_rows(source) if is_matrix else load_codes(source)
        if model is not None:
            projection = Projection.load(model)
        elif codes.residual_bytes:
            click.echo(
                "warning: residual codes are left out; give -m to search with them", err=True
            )
    catalogue = Catalogue.create(
        output, projection, codes, names, metadata=table, overwrite=overwrite
    )
    common.say(
        {
            "index": str(output),
            "queries": "sparse" if model is None else "dense",
            "rows": len(catalogue),
            "bytes_an_item": catalogue.nbytes / len(catalogue),
        },
        as_json,
    )
