"""Command inspect: write an atlas of the latents of an index."""

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from compressae.cli import common
from compressae.evaluation.atlas import atlas, write_atlas
from compressae.retrieval.codes import KIND as CODES
from compressae.retrieval.codes import load_codes
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.inverted import InvertedIndex
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.io.artifacts import read_config
from compressae.retrieval.io.atomic import check_file_destination
from compressae.retrieval.io.labels import read_labels
from compressae.retrieval.store import Catalogue


@click.command(
    cls=common.Command,
    examples=(
        "inspect index -o atlas.html --labels texts.txt",
        "inspect codes -m model -o atlas.html --latents 500",
    ),
)
@click.argument("index", type=common.PATH)
@click.option(
    "-o",
    "--output",
    required=True,
    type=common.PATH,
    help="The page, an HTML file; replaces an older one.",
)
@common.model_option(False, "Folder of the model, where INDEX is codes.")
@click.option(
    "--labels",
    type=common.PATH,
    help="A UTF-8 text (or .gz) with a line for each row of the indexed table; the first is that "
    "of row 0.  [default: ids]",
)
@click.option(
    "--top",
    default=8,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Rows shown at each end of a latent.",
)
@click.option(
    "--latents",
    type=click.IntRange(min=1),
    help="Number of latents listed, the most used first.  [default: all that a row uses]",
)
@common.json_option
def inspect(
    index: Path,
    output: Path,
    model: Path | None,
    labels: Path | None,
    top: int,
    latents: int | None,
    as_json: bool,
) -> None:
    """Write an atlas of the latents of INDEX: a page for a browser.

    It shows for each latent the number of rows that use it, the rows of largest positive and
    negative values, and the nearest latents. INDEX may be codes; give their model then.
    """
    check_file_destination(output)
    if (read_config(index).kind == CODES) != (model is not None):
        raise click.UsageError(
            "codes need their model: give -m MODEL" if model is None else "-m is for codes alone"
        )
    texts = None if labels is None else read_labels(labels)
    opened: CompressedIndex | InvertedIndex
    catalogue = None
    if model is not None:
        codes = load_codes(index)
        opened = CompressedIndex(Projection.load(model), codes, lists=False)
    else:
        catalogue = Catalogue.open(index)
        opened = catalogue.index
    result = atlas(opened, texts, top, latents)
    if texts is None and catalogue is not None and catalogue.has_text_ids:
        shown = np.unique(np.concatenate([result.positive.ids, result.negative.ids]))
        shown = shown[shown >= 0]
        names = catalogue.texts_of(shown).tolist()
        result = replace(result, labels=dict(zip(shown.tolist(), names, strict=True)))
    write_atlas(result, output, f"Atlas of latents: {index.resolve().name}")
    common.say(
        {
            "atlas": str(output),
            "bytes": output.stat().st_size,
            "rows": result.rows,
            "latents": result.latents,
            "live": result.live,
            "dead": result.latents - result.live,
            "listed": len(result.numbers),
            "nonzeros": result.nonzeros,
            "list_imbalance": result.list_imbalance,
        },
        as_json,
    )
