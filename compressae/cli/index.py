"""compressae index"""

from pathlib import Path

import click

from compressae.cli import common
from compressae.model import CompresSAE
from compressae.progress import progress
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.embeddings import open_embeddings
from compressae.retrieval.inverted import KIND as INVERTED
from compressae.retrieval.inverted import InvertedIndex
from compressae.retrieval.storage import check_destination
from compressae.search import KIND as COMPRESSED
from compressae.search import CompressedIndex


@click.command(cls=common.Command)
@click.argument("source", metavar="CODES_OR_EMBEDDINGS", type=click.Path(path_type=Path))
@common.model_option(False, "Folder of the model; without it the index takes sparse queries.")
@common.output_option("Folder of the index.")
@common.values_option
@common.json_option
def index(source: Path, model: Path | None, output: Path, values: str, as_json: bool) -> None:
    """Build a search index.

    From codes and their model, or from embeddings and a model (which are encoded first), the index
    takes dense queries. From codes alone it takes sparse queries. --values is for embeddings.
    """
    coded = (source / "config.json").exists()
    if not coded and model is None:
        open_embeddings(source)  # What is missing altogether is said first.
        raise click.UsageError("embeddings need a model: give -m MODEL")
    check_destination(output, INVERTED if model is None else COMPRESSED)
    built: CompressedIndex | InvertedIndex
    if model is None:
        built = InvertedIndex(SparseCodes.load(source))
    else:
        encoder = CompresSAE.from_pretrained(model)
        if coded:
            codes = SparseCodes.load(source)
        else:
            with progress("encoding") as show:
                codes = encoder.compress(source, values, progress=show)  # type: ignore[arg-type]
        built = CompressedIndex(encoder, codes)
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
