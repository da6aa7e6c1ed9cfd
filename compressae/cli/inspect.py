"""compressae inspect"""

from pathlib import Path

import click

from compressae.cli import common
from compressae.evaluation.atlas import atlas, write_atlas
from compressae.retrieval.codes import KIND as CODES
from compressae.retrieval.codes import load_codes
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.inverted import KIND as INVERTED
from compressae.retrieval.index.inverted import InvertedIndex
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.io.artifacts import read_config
from compressae.retrieval.io.atomic import check_file_destination
from compressae.retrieval.io.labels import read_labels


@click.command(
    cls=common.Command,
    examples=(
        "inspect index -o atlas.html --labels texts.txt",
        "inspect codes -m model -o atlas.html --latents 500",
    ),
)
@click.argument("index", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The page, an HTML file; an older one is replaced.",
)
@common.model_option(False, "Folder of the model, where INDEX is codes.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="A UTF-8 text (or .gz) of a line for each row of the table that was indexed: the first "
    "names id 0. Rows are shown by id if not given.",
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
    help="List this many, the most used; all that some row has if not given.",
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
    """Write an atlas of the latents of INDEX: a page to look through in a browser.

    For each latent: how many rows have it, the rows at its positive and its negative end, and the
    latents nearest to it. INDEX may be codes where their model is given.
    """
    check_file_destination(output)
    kind = read_config(index)["kind"]
    if (kind == CODES) != (model is not None):
        raise click.UsageError(
            "codes need their model: give -m MODEL" if model is None else "-m is for codes alone"
        )
    texts = None if labels is None else read_labels(labels)
    opened: CompressedIndex | InvertedIndex
    if model is not None:
        codes = load_codes(index)
        opened = CompressedIndex(Projection.load(model), codes, lists=False)
    elif kind == INVERTED:
        opened = InvertedIndex.load(index)
    else:
        opened = CompressedIndex.load(index)
    found = atlas(opened, texts, top, latents)
    write_atlas(found, output, f"Atlas of latents: {index.resolve().name}")
    common.say(
        {
            "atlas": str(output),
            "bytes": output.stat().st_size,
            "rows": found.rows,
            "latents": found.latents,
            "live": found.live,
            "dead": found.latents - found.live,
            "listed": len(found.numbers),
            "nonzeros": found.nonzeros,
            "list_imbalance": found.list_imbalance,
        },
        as_json,
    )
