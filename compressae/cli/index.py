"""compressae index"""

from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.model import CompresSAE
from compressae.progress import progress
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.embeddings import open_embeddings
from compressae.retrieval.inverted import KIND as INVERTED
from compressae.retrieval.inverted import InvertedIndex
from compressae.retrieval.packed import PackedCodes, load_codes
from compressae.retrieval.storage import check_destination
from compressae.search import KIND as COMPRESSED
from compressae.search import CompressedIndex


@click.command(cls=common.Command)
@click.argument("source", metavar="CODES_OR_EMBEDDINGS", type=click.Path(path_type=Path))
@common.model_option(False, "Folder of the model; without it the index takes sparse queries.")
@common.output_option("Folder of the index.")
@common.code_options
@common.device_option
@common.json_option
def index(
    source: Path,
    model: Path | None,
    output: Path,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Build a search index.

    From codes and their model, or from embeddings and a model (which are encoded first), the index
    takes dense queries. From codes alone, or a scipy sparse .npz, it takes sparse queries. The
    options of codes are for embeddings.
    """
    matrix = source.suffix == ".npz"
    coded = matrix or (source / "config.json").exists()
    if not coded and model is None:
        open_embeddings(source)  # What is missing altogether is said first.
        raise click.UsageError("embeddings need a model: give -m MODEL")
    if coded and any(options.values()):
        raise click.UsageError("codes are indexed as they are: options of codes are for embeddings")
    check_destination(output, INVERTED if model is None else COMPRESSED)
    encoder = None if model is None else CompresSAE.from_pretrained(model)
    codes: SparseCodes | PackedCodes
    if not coded:
        assert encoder is not None
        settings = common.make_codes(options)
        with progress("encoding") as show:
            codes = encoder.compress(source, progress=show, device=device, **settings)
    else:
        codes = common.sparse_rows(source) if matrix else load_codes(source)
    built: CompressedIndex | InvertedIndex
    if encoder is not None:
        built = CompressedIndex(encoder, codes)
    else:
        if isinstance(codes, PackedCodes) and codes.quantizer.residual_bytes:
            click.echo(
                "warning: residual codes are left out; give -m to search with them", err=True
            )
        built = InvertedIndex(codes)
    built.save(output)
    common.say(
        {
            "index": str(output),
            "kind": INVERTED if model is None else COMPRESSED,
            "rows": len(built),
            "bytes_an_item": built.nbytes / len(built),
        },
        as_json,
    )
