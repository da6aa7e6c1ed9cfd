"""compressae check"""

import json
from dataclasses import asdict
from pathlib import Path

import click

from compressae.cli import common
from compressae.drift import Drift
from compressae.drift import check as check_drift
from compressae.model import CompresSAE
from compressae.retrieval.embeddings import open_embeddings

#: Exit code where the batch does not fit.
RETRAIN = 3


@click.command(cls=common.Command)
@click.argument("model", type=click.Path(path_type=Path))
@common.EMBEDDINGS
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="Table to compare with, in place of what training kept: the one MODEL was trained on, or "
    "rows that it is known to fit.",
)
@common.json_option
@click.pass_context
def check(
    ctx: click.Context, model: Path, embeddings: Path, reference: Path | None, as_json: bool
) -> None:
    """Say whether MODEL still fits EMBEDDINGS, a batch of new rows, or should be trained again.

    Nothing is written. Exit code 0: it fits; 3: train again; 1: failed; 2: wrong usage.
    """
    table = None if reference is None else open_embeddings(reference)
    found = check_drift(CompresSAE.from_pretrained(model), open_embeddings(embeddings), table)
    if as_json:
        click.echo(
            json.dumps({**asdict(found), "retrain": found.retrain, "verdict": found.verdict})
        )
    else:
        _print(found)
    if found.retrain:
        ctx.exit(RETRAIN)


def _print(found: Drift) -> None:
    click.echo(
        f"reference: {found.reference_rows:,} {found.source}; now: {found.measured:,} of "
        f"{found.rows:,} rows"
    )
    for one in found.findings:
        verdict = "worse" if one.worse else "fits"
        click.echo(
            f"{one.name}: {one.reference:.3f}, now {one.now:.3f}, limit {one.limit:.3f}: {verdict}"
        )
    click.echo(found.verdict)
