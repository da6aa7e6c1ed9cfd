"""Command encode: compress a table to codes."""

from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.cli.progress import progress
from compressae.retrieval.codes.base import KIND


@click.command(
    cls=common.Command,
    examples=(
        "encode items.npy -m model -o codes --residual-bytes 32",
        "encode items.npy -m model -o codes --budget '48 B/row' --importance popularity.npy",
        "encode items.npy -m model -o codes --values int8",
    ),
)
@common.EMBEDDINGS
@common.model_option(True, "Folder of a trained model.")
@common.output_option("Folder of the codes.")
@common.code_options
@common.device_option
@common.column_option
@common.json_option
def encode(
    embeddings: Path,
    model: Path,
    output: Path,
    overwrite: bool,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Compress every row of EMBEDDINGS to a sparse code."""
    common.check_output(output, KIND, overwrite)
    items = common.open_table(embeddings)
    from compressae.model import CompresSAE

    encoder = CompresSAE.load(model)
    with progress("encoding") as show:
        codes = common.encode_rows(encoder, items, options, device, show)
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
