"""compressae check"""

import json
from dataclasses import asdict
from pathlib import Path

import click

from compressae.cli import common
from compressae.evaluation.drift import Drift
from compressae.evaluation.drift import check as check_drift
from compressae.model import CompresSAE

#: Exit code where the batch does not fit.
RETRAIN = 3


@click.command(
    cls=common.Command,
    examples=("check model new.npy", "check model new.npy --reference items.npy --json"),
)
@click.argument("model", type=common.TABLE)
@common.EMBEDDINGS
@click.option(
    "--reference",
    type=common.TABLE,
    help="Table to compare with: the training table of MODEL, or rows that it is known to fit.  "
    "[default: figures that training kept]",
)
@common.column_option
@common.json_option
@click.pass_context
def check(
    ctx: click.Context, model: Path, embeddings: Path, reference: Path | None, as_json: bool
) -> None:
    """Say whether MODEL still fits EMBEDDINGS, a batch of new rows, or should be trained again.

    Nothing is written. Exit code 0: it fits; 3: train again; 1: failed; 2: wrong usage.
    """
    table = None if reference is None else common.open_table(reference)
    drift = check_drift(CompresSAE.load(model), common.open_table(embeddings), table)
    if as_json:
        click.echo(
            json.dumps({**asdict(drift), "retrain": drift.retrain, "verdict": drift.verdict})
        )
    else:
        _print(drift)
    if drift.retrain:
        ctx.exit(RETRAIN)


def _print(drift: Drift) -> None:
    click.echo(
        f"reference: {drift.reference_rows:,} {drift.source}; now: {drift.measured:,} of "
        f"{drift.rows:,} rows"
    )
    for finding in drift.findings:
        then, now = f"{finding.reference:.3f}", f"{finding.now:.3f}"
        if finding.name == "mean cosine":  # It has its fraction of variance unexplained beside it.
            old, new = drift.fvu
            then += "" if old is None else f" (FVU {old:.3f})"
            now += f" (FVU {new:.3f})"
        verdict = "worse" if finding.worse else "fits"
        click.echo(f"{finding.name}: {then}, now {now}, limit {finding.limit:.3f}: {verdict}")
    click.echo(drift.verdict)
