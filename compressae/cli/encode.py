"""compressae encode"""

from pathlib import Path

import click

from compressae.cli import common
from compressae.model import CompresSAE
from compressae.progress import progress
from compressae.retrieval.codes import KIND
from compressae.retrieval.embeddings import open_embeddings
from compressae.retrieval.storage import check_destination
from compressae.training import pick_device


@click.command(cls=common.Command)
@common.EMBEDDINGS
@common.model_option(True, "Folder of a trained model.")
@common.output_option("Folder of the codes.")
@common.values_option
@click.option("--nnz", type=click.IntRange(min=1), help="Nonzeros a row; the model's if not given.")
@click.option("--no-refit", is_flag=True, help="Keep the encoder's values, as the paper does.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@common.json_option
def encode(
    embeddings: Path,
    model: Path,
    output: Path,
    values: str,
    nnz: int | None,
    no_refit: bool,
    device: str,
    as_json: bool,
) -> None:
    """Compress every row of EMBEDDINGS to a sparse code."""
    check_destination(output, KIND)
    items = open_embeddings(embeddings)
    encoder = CompresSAE.from_pretrained(model).to(pick_device(device))
    with progress("encoding") as show:
        codes = encoder.compress(items, values, nnz, False if no_refit else None, show)  # type: ignore[arg-type]
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
