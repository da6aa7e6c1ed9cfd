"""compressae evaluate"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from compressae.cli import common
from compressae.cli.train import run
from compressae.compress import check_form
from compressae.evaluation import report
from compressae.evaluation.protocol import METHODS
from compressae.evaluation.protocol import evaluate as measure
from compressae.model import CompresSAE
from compressae.progress import progress
from compressae.retrieval.embeddings import open_embeddings
from compressae.retrieval.errors import InputError
from compressae.training import held_out_rows


@click.command(cls=common.Command)
@common.EMBEDDINGS
@common.model_option(False, "Folder of a model; without it one is trained on the other rows.")
@common.output_option("Folder of the report: report.json, report.md, report.png.")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="Names, comma apart.")
@click.option(
    "--queries", default=1000, show_default=True, type=click.IntRange(min=1),
    help="Rows held out as queries; not searched for.",
)  # fmt: skip
@common.values_option
@common.residual_option
@common.training_options
@common.json_option
def evaluate(
    embeddings: Path,
    model: Path | None,
    output: Path,
    methods: str,
    queries: int,
    values: str | None,
    residual_bytes: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare compressed search with exact dense search on EMBEDDINGS.

    Queries are rows held out by seed 0. Without -m a model is trained on the others first, with
    the training options; with -m, train it with --hold-out of the same number.
    """
    names = [name.strip() for name in methods.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise click.UsageError(
            f"--methods {methods!r}: expected some of {', '.join(METHODS)}, comma apart"
        )
    config = common.make_config(queries, settings)
    report.check_report_destination(output)
    items = open_embeddings(embeddings)
    if len(items) < queries + 2:
        raise InputError(
            f"{embeddings}: {len(items)} rows cannot give {queries} queries and a corpus; "
            "lower --queries"
        )
    check_form(values or "int2", residual_bytes, None, items.shape[1])
    about: dict[str, Any] = {}
    if model is None:
        encoder = run(items, config, settings["device"])
    else:
        encoder = CompresSAE.from_pretrained(model)
        seen = encoder.settings
        if (seen.get("hold_out"), seen.get("rows")) != (queries, len(items)):
            about["warning"] = (
                f"the model was trained with {seen.get('hold_out')} of {seen.get('rows')} rows "
                f"held out, so that it may have seen the {queries} queries; train with "
                f"--hold-out {queries} for an honest figure"
            )
            click.echo(f"warning: {about['warning']}", err=True)
    held, kept = held_out_rows(len(items), queries)
    with progress("measuring") as show:
        codes = {"values": values, "residual_bytes": residual_bytes}
        result = measure(
            encoder, items.subset(np.sort(kept)), items.take(held), names, codes, about, show
        )
    drawn = report.write(result, output)
    if as_json:
        summary = [dict(zip(report.HEADER, cells, strict=True)) for cells in report.rows(result)]
        click.echo(json.dumps({"report": str(output), "methods": summary}))
    else:
        report.print_table(result)
    if not drawn:
        click.echo("no report.png: pip install 'compressae[plots]' draws it", err=True)
    if all(record.error is not None for record in result.records):
        raise click.ClickException(f"every method failed: {result.records[0].error}")
