"""compressae evaluate"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from compressae.cli import common
from compressae.cli.settings import settings_option
from compressae.cli.train import run
from compressae.evaluation import report
from compressae.evaluation.labels import labels_of, read_labels
from compressae.evaluation.methods import METHODS, Method, parse
from compressae.evaluation.protocol import evaluate as measure
from compressae.evaluation.summary import summarise
from compressae.model import CompresSAE
from compressae.progress import progress
from compressae.retrieval.embeddings import Embeddings, open_embeddings
from compressae.retrieval.errors import InputError
from compressae.retrieval.exact import check_queries
from compressae.training import held_out_rows


class _Methods(click.ParamType):
    name = "methods"

    def convert(self, value: Any, parameter: Any, context: Any) -> list[Method]:
        if not isinstance(value, str | list):
            self.fail(f"{value!r}: expected names, comma apart, or a list", parameter, context)
        try:
            return parse(value)
        except InputError as error:
            self.fail(str(error), parameter, context)


class _Sizes(click.ParamType):
    name = "bytes"

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = value if isinstance(value, list) else str(value).split(",")
        try:
            sizes = tuple(int(str(part)) for part in parts)
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            self.fail(f"{value!r}: expected bytes a row, such as 32,64", parameter, context)
        return sizes


class _Queries(click.ParamType):
    name = "rows|table"

    def convert(self, value: Any, parameter: Any, context: Any) -> int | Path:
        text = str(value)
        if not text.removeprefix("-").isdecimal():
            return Path(text)
        if int(text) < 1:
            self.fail(f"{text}: expected at least 1 row, or a table", parameter, context)
        return int(text)


@click.command(cls=common.Command)
@common.EMBEDDINGS
@common.model_option(False, "Folder of a model; without it one is trained on the other rows.")
@common.output_option("Folder of the report: report.html, .md, .json, .png and hits.npz.")
@click.option(
    "--methods", default="all", show_default=True, type=_Methods(),
    help="Names, comma apart, with settings as in 'pq:code_bytes=32/64'. Known: "
    + ", ".join(METHODS) + ".",
)  # fmt: skip
@click.option(
    "--bytes", "code_bytes", default="64", show_default=True, type=_Sizes(),
    help="Code bytes a row of every method that can be of any size; several comma apart.",
)  # fmt: skip
@click.option(
    "--queries", default="1000", show_default=True, type=_Queries(),
    help="How many rows are held out as queries and not searched for, or a table of queries.",
)  # fmt: skip
@click.option(
    "--qrels", type=click.Path(path_type=Path),
    help="Relevance labels, lines 'query item grade' by row number, for nDCG and MRR.",
)  # fmt: skip
@settings_option
@common.training_options
@common.json_option
def evaluate(
    embeddings: Path,
    model: Path | None,
    output: Path,
    methods: list[Method],
    code_bytes: tuple[int, ...],
    queries: int | Path,
    qrels: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare compressed search with other ways to hold EMBEDDINGS, at equal bytes.

    Queries are rows held out by seed 0, or a table of their own. Without -m a model is trained on
    the other rows first, with the training options; with -m, train it with --hold-out of the same
    number. A method that fails is a line with its reason.
    """
    held_out = queries if isinstance(queries, int) else 0
    config = common.make_config(held_out, settings)
    report.check_report_destination(output)
    items = open_embeddings(embeddings)
    asked, rows, names = _split(items, queries)
    labels: list[dict[int, float]] | None = None
    about: dict[str, Any] = {}
    if qrels is not None:
        labels, gone = labels_of(read_labels(qrels), names, rows, qrels)
        about["labelled_queries"] = sum(any(g > 0 for g in one.values()) for one in labels)
        if gone:
            about["labels_left_out"] = f"{gone} of items that cannot be found"
    encoder = None
    if any(method.needs_model for method in methods):
        if model is None:
            encoder = run(items, config, settings["device"])
        else:
            encoder = CompresSAE.from_pretrained(model)
            warning = _may_have_seen(encoder, held_out, len(items))
            if warning:
                about["warning"] = warning
                click.echo(f"warning: {warning}", err=True)
    with progress("measuring", seconds=0) as show:
        corpus = items.subset(rows) if held_out else items
        result = measure(
            corpus, asked, methods, encoder, code_bytes, rows, names, labels, about, show
        )
    summary = summarise(result)
    if not as_json:  # First, so that a full disk does not lose it.
        report.print_table(summary)
    if all(record.error is not None for record in result.records):
        raise click.ClickException(f"every method failed: {result.records[0].error}")
    drawn = report.write(result, output, summary)
    if as_json:
        click.echo(json.dumps({"report": str(output), "methods": summary["methods"]}))
    else:
        click.echo(f"{output / 'report.html'}", err=True)
    if not drawn:
        click.echo("no report.png: pip install 'compressae[plots]' draws it", err=True)


def _split(items: Embeddings, queries: int | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries (q, d), the rows that are searched for, and what the queries are called."""
    if isinstance(queries, Path):
        table = open_embeddings(queries)
        check_queries(table.shape[1], items.shape[1], table.name, 1)
        return table.to_array(), np.arange(len(items)), np.arange(len(table))
    if len(items) < queries + 2:
        raise InputError(
            f"{items.name}: {len(items)} rows cannot give {queries} queries and a corpus; "
            "lower --queries"
        )
    held, kept = held_out_rows(len(items), queries)
    return items.take(held), np.sort(kept), held


def _may_have_seen(model: CompresSAE, held_out: int, n: int) -> str | None:
    """A warning where held-out queries may have been trained on."""
    seen = model.settings
    if not held_out or (seen.get("rows") == n and (seen.get("hold_out") or 0) >= held_out):
        return None  # The first of the same permutation.
    return (
        f"the model was trained with {seen.get('hold_out')} of {seen.get('rows')} rows held out, "
        f"so that it may have seen the {held_out} queries; train with --hold-out {held_out} for "
        "an honest figure"
    )
