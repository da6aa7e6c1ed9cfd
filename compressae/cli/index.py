"""Command index: build a search index."""

from pathlib import Path
from typing import Any

import click

from compressae.cli import coding, common, inputs
from compressae.cli.progress import progress
from compressae.retrieval.codes import Codes, PackedCodes, load_like
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.store.catalogue import Catalogue, check_place
from compressae.retrieval.store.metadata import as_table
from compressae.retrieval.store.names import check_row_ids
from compressae.retrieval.store.packed_table import is_packed_table, read_packed_table
from compressae.retrieval.store.sharded import ShardedCatalogue, index_shards
from compressae.retrieval.store.shards import is_sharded, load_shard, merge_shards

_NO_RESIDUALS = "warning: residual codes are left out; give -m to search with them"


@click.command(
    cls=common.Command,
    examples=(
        "index items.npy -m model -o index --residual-bytes 32",
        "index codes -m model -o index",
        "index coded -m model -o served --shards",
        "index codes.parquet -m model --like quantizer -o index",
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
@click.option(
    "--shards",
    is_flag=True,
    help="Of codes in shards: an index for each, searched as one, instead of one for all.",
)
@inputs.metadata_options
@coding.code_options
@common.device_option
@common.column_option
@common.json_option
def index(
    source: Path,
    model: Path | None,
    output: Path,
    overwrite: bool,
    ids: Path | None,
    shards: bool,
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
    options of codes apply to embeddings only. Codes in shards, of 'encode --shards', are merged.
    Packed codes in a .parquet, of 'encode -o codes.parquet' or another engine, take --like.
    """
    is_matrix, in_shards = source.suffix == ".npz", is_sharded(source)
    in_table = not is_matrix and not in_shards and is_packed_table(source)
    is_coded = is_matrix or in_shards or in_table or (source / "config.json").exists()
    if shards and not in_shards:
        raise click.UsageError(f"--shards: {source} holds no codes in shards, of encode --shards")
    if not is_coded and model is None:
        common.open_table(source)  # What cannot be read is reported before the missing model.
        raise click.UsageError("embeddings need a model: give -m MODEL")
    like = options.pop("like") if in_table else None
    if in_table and like is None:
        raise click.UsageError("a table of packed codes needs their quantiser: give --like")
    if is_coded and any(options.values()):
        raise click.UsageError("codes are indexed as they are: options of codes are for embeddings")
    if not shards:
        check_place(output, overwrite)
    names, table = inputs.ids_and_metadata(
        ids,
        metadata,
        metadata_columns,
        id_column,
        source if in_shards or in_table or not is_coded else None,
    )
    codes: Codes
    projection = None
    if in_shards and names is not None:
        raise click.UsageError(
            "--ids and --id-column: codes in shards have theirs; give them to encode"
        )
    if shards:
        projection = None if model is None else Projection.load(model)
        built = index_shards(source, output, projection, table, overwrite)
        if projection is None and built.shards[0].like.residual_bytes:
            click.echo(_NO_RESIDUALS, err=True)
        common.say(_result(output, built, model), as_json)
        return
    if not is_coded:
        assert model is not None
        items = common.open_table(source)
        check_row_ids(names, len(items))  # Before rows are encoded, which takes longest.
        if table is not None:
            as_table(table, len(items))
        from compressae.model import CompresSAE

        encoder = CompresSAE.load(model)
        with progress("encoding") as show:
            codes = coding.encode_rows(encoder, items, options, device, show)
        projection = encoder.projection
    else:
        if in_shards:
            codes, names = merge_shards(source)
        elif in_table:
            assert like is not None
            quantizer = load_like(like)
            fitted = quantizer.fitted if isinstance(quantizer, PackedCodes) else quantizer
            codes, own = read_packed_table(source, fitted)
            names = own if names is None else names
        elif is_matrix:
            codes = inputs.sparse_rows(source)
        else:
            codes, own = load_shard(source)
            names = own if names is None else names
        if model is not None:
            projection = Projection.load(model)
        elif codes.residual_bytes:
            click.echo(_NO_RESIDUALS, err=True)
    catalogue = Catalogue.create(
        output, projection, codes, names, metadata=table, overwrite=overwrite
    )
    common.say(_result(output, catalogue, model), as_json)


def _result(
    output: Path, index: Catalogue | ShardedCatalogue, model: Path | None
) -> dict[str, Any]:
    """What is printed of an index."""
    return {
        "index": str(output),
        "queries": "sparse" if model is None else "dense",
        "rows": len(index),
        "bytes_an_item": index.nbytes / len(index),
    }
