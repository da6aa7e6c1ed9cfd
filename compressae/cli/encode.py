"""compressae encode"""

from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.model import CompresSAE
from compressae.progress import progress
from compressae.retrieval.codes import KIND
from compressae.retrieval.embeddings import open_embeddings
from compressae.retrieval.storage import check_destination


@click.command(cls=common.Command)
@common.EMBEDDINGS
@common.model_option(True, "Folder of a trained model.")
@common.output_option("Folder of the codes.")
@common.code_options
@click.option("--no-refit", is_flag=True, help="Keep the encoder's values, as the paper does.")
@common.device_option
@common.json_option
def encode(
    embeddings: Path,
    model: Path,
    output: Path,
    no_refit: bool,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Compress every row of EMBEDDINGS to a sparse code."""
    settings = common.make_codes(options)
    check_destination(output, KIND)
    items = open_embeddings(embeddings)
    encoder = CompresSAE.from_pretrained(model)
    with progress("encoding") as show:
        codes = encoder.compress(
            items, refit=False if no_refit else None, progress=show, device=device, **settings
        )
    codes.save(output)
    common.say(
        {
            "codes": str(output),
            "rows": len(codes),
            "bytes": codes.nbytes,
            "bytes_an_item": codes.nbytes / len(codes),
        },
        as_json,
    )
