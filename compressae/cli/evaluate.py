"""compressae evaluate"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from compressae.cli import common, inputs, training
from compressae.cli.progress import progress
from compressae.cli.settings import settings_option
from compressae.cli.train import run
from compressae.evaluation import report
from compressae.evaluation.interactions import Interactions
from compressae.evaluation.labels import labels_of, read_qrels
from compressae.evaluation.methods import METHODS, Method, parse
from compressae.evaluation.protocol import evaluate as measure
from compressae.evaluation.summary import summarise
from compressae.model import CompresSAE
from compressae.retrieval.baselines.sample import sample_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.exact import check_queries
from compressae.retrieval.io.embeddings import Embeddings, Similarity
from compressae.retrieval.io.interactions import read_interactions
from compressae.training.config import held_out_rows


class _Methods(click.ParamType):
    name = "methods"

    def convert(self, value: Any, parameter: Any, context: Any) -> list[Method]:
        if not isinstance(value, str | list):
            self.fail(
                f"{value!r}: expected names, separated by commas, or a list", parameter, context
            )
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


@click.command(
    cls=common.Command,
    examples=(
        "evaluate items.npy -m model -o report --bytes 32,64",
        "evaluate items.npy -o report --nonzeros 16 --train-rows 50000",
        "evaluate items.npy --queries users.npy --interactions train.npz --test test.npz "
        "--similarity dot -o report --bytes 32",
        "evaluate items.npy -o report --methods 'dense,pq,hnsw:ef=50/100,asymmetric-all'",
    ),
)
@common.EMBEDDINGS
@common.model_option(False, "Folder of a model; without it one is trained on the other rows.")
@common.output_option("Folder of the report: report.html, .md, .json, .png and hits.npz.")
@click.option(
    "--methods",
    default="all",
    show_default=True,
    type=_Methods(),
    help="Names, separated by commas, with settings as in 'pq:code_bytes=32/64'; 'all' is all "
    "but lsq, which is slow to train. Known: " + ", ".join(METHODS) + ".",
)
@click.option(
    "--bytes",
    "code_bytes",
    default="64",
    show_default=True,
    type=_Sizes(),
    help="Code bytes a row of every method that can be of any size; several separated by commas.",
)
@click.option(
    "--queries",
    default="1000",
    show_default=True,
    type=common.QueriesType(),
    help="Number of rows held out as queries and not searched for, or a table of queries.",
)
@click.option(
    "--train-rows",
    type=click.IntRange(min=1),
    help="Train the model and every codebook on this many of the rows that are searched, the same "
    "ones; the others are encoded unseen.  [default: all rows, or as many as a method takes]",
)
@click.option(
    "--qrels",
    type=common.PATH,
    help="Relevance labels, lines 'query item grade' by row number, for nDCG and MRR.",
)
@click.option(
    "--interactions",
    type=common.PATH,
    help="Pairs of a query (a user) and an item that it has seen, left out of its results: a scipy "
    "sparse .npz, or an .npz or .parquet of integers 'user' and 'item'.",
)
@click.option(
    "--test",
    type=common.PATH,
    help="Held-out pairs in the same form, for recall, nDCG, hit rate and coverage at 20.",
)
@click.option(
    "--query-sample",
    type=common.TABLE,
    help="A table of other queries, by which errors are weighted.  [default: the rows themselves, "
    "or with --interactions the users who are not judged]",
)
@click.option(
    "--importance",
    type=common.PATH,
    help="A .npy of one number for each row that is searched: its weight where a method has a "
    "budget, as in 'asymmetric:budget=32:residual_bytes=16'.  [default: equal]",
)
@click.option(
    "--users",
    default=2000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Users that are judged, drawn by seed 0 from those with held-out pairs (--interactions).",
)
@settings_option
@training.training_options
@common.column_option
@common.json_option
def evaluate(
    embeddings: Path,
    model: Path | None,
    output: Path,
    overwrite: bool,
    methods: list[Method],
    code_bytes: tuple[int, ...],
    queries: int | Path,
    train_rows: int | None,
    qrels: Path | None,
    interactions: Path | None,
    test: Path | None,
    query_sample: Path | None,
    importance: Path | None,
    users: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare compressed search with other ways to hold EMBEDDINGS, at equal bytes.

    Queries are rows held out by seed 0, or a table of their own. Without -m a model is trained on
    the other rows first, with the training options; with -m, train it with --hold-out of the same
    number. A method that fails is a line with its reason.
    """
    held_out = queries if isinstance(queries, int) else 0
    if interactions is not None:  # A recommender's scores, unless told.
        settings["similarity"] = settings["similarity"] or "dot"
    config = training.make_config(held_out, settings)
    if train_rows is not None and model is not None:
        raise click.UsageError(
            "--train-rows trains a model on the rows that every method learns from: leave out -m"
        )
    if (interactions is None) != (test is None):
        raise click.UsageError(
            "--interactions and --test go together: what users saw, and took next"
        )
    if interactions is not None and (held_out or qrels is not None):
        raise click.UsageError(
            "--interactions need --queries TABLE, the users, and take no --qrels"
        )
    report.check_report_destination(output, overwrite)

    # Queries, the rows that are searched, and labels.
    items = common.open_table(embeddings)
    weights = None
    if importance is not None:
        weights = inputs.load_numbers(importance, "one number a row", "fiub")
    query_rows, rows, names = _split(items, queries, settings["similarity"])
    corpus = items.subset(rows) if held_out else items
    if train_rows is not None and train_rows > len(corpus):
        raise InputError(
            f"{train_rows} rows to train on: expected at most {len(corpus)}, the rows that are "
            "searched; lower --train-rows"
        )
    labels: list[dict[int, float]] | None = None
    about: dict[str, Any] = {}
    weigh_by: Any = None if query_sample is None else common.open_table(query_sample)
    pairs = None
    if interactions is not None and test is not None:
        pairs, judged, others = _judged(interactions, test, len(query_rows), len(corpus), users)
        if weigh_by is None and len(others):
            weigh_by = query_rows[others]
        query_rows, names = query_rows[judged], names[judged]
    if qrels is not None:
        labels, missing = labels_of(read_qrels(qrels), names, rows, qrels)
        about["labelled_queries"] = sum(any(g > 0 for g in grades.values()) for grades in labels)
        if missing:
            about["labels_left_out"] = f"{missing} of items that cannot be found"

    # The model.
    encoder, similarity = None, settings["similarity"]
    if any(method.needs_model for method in methods):
        if train_rows is not None:
            sample = corpus.subset(sample_rows(len(corpus), train_rows))
            encoder = run(sample, replace(config, hold_out=0), settings["device"])
        elif model is None:
            encoder = run(items, config, settings["device"])
        else:
            encoder = CompresSAE.load(model)
            similarity = similarity or encoder.similarity
            warning = _may_have_seen(encoder, held_out, len(items))
            if warning:
                about["warning"] = warning
                click.echo(f"warning: {warning}", err=True)

    # Every method, and the report.
    with progress("measuring", seconds=0) as show:
        result = measure(
            corpus,
            query_rows,
            methods,
            encoder,
            code_bytes,
            rows,
            names,
            labels,
            about,
            show,
            train_rows,
            similarity,
            pairs,
            weigh_by,
            weights,
        )
    summary = summarise(result)
    if not as_json:  # First, so that a full disk does not lose it.
        report.print_table(summary)
    if all(record.error is not None for record in result.records):
        raise click.ClickException(f"every method failed: {result.records[0].error}")
    drawn = report.write(result, output, summary)
    if as_json:
        printed = {name: summary[name] for name in ("verdict", "methods")}
        click.echo(json.dumps({"report": str(output), **printed}))
    else:
        click.echo(f"{output / 'report.html'}", err=True)
    if not drawn:
        click.echo("no report.png: pip install 'compressae[plots]' draws it", err=True)


def _split(
    items: Embeddings, queries: int | Path, similarity: Similarity | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries (q, d), the rows that are searched for, and the names of the queries."""
    if isinstance(queries, Path):
        table = common.open_table(queries)
        table = table.compared_by("dot") if similarity == "dot" else table
        check_queries(table.shape[1], items.shape[1], table.name, 1)
        return table.to_array(), np.arange(len(items)), np.arange(len(table))
    if len(items) < queries + 2:
        raise InputError(
            f"{items.name}: {len(items)} rows cannot give {queries} queries and a corpus; "
            "lower --queries"
        )
    items = items.compared_by("dot") if similarity == "dot" else items
    held, others = held_out_rows(len(items), queries)
    return items.take(held), np.sort(others), held


def _judged(
    interactions: Path, test: Path, users: int, items: int, most: int
) -> tuple[Interactions, np.ndarray, np.ndarray]:
    """Interactions of users to judge, those users, and the others, by whom errors are weighted."""
    seen = read_interactions(interactions, users, items)
    held_out = read_interactions(test, users, items)
    some = np.flatnonzero(np.diff(held_out.indptr))
    judged = np.sort(np.random.default_rng(0).permutation(some)[:most])
    others = np.setdiff1d(np.arange(users), judged)
    return Interactions.of(seen, held_out, judged), judged, others


def _may_have_seen(model: CompresSAE, held_out: int, n: int) -> str | None:
    """A warning where held-out queries may have been trained on."""
    trained = model.settings
    if not held_out or (trained.get("rows") == n and (trained.get("hold_out") or 0) >= held_out):
        return None  # The first of the same permutation.
    return (
        f"the model was trained with {trained.get('hold_out')} of {trained.get('rows')} rows held "
        f"out, so that it may have seen the {held_out} queries; train with --hold-out {held_out} "
        "for an honest figure"
    )
