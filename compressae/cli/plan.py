"""Command plan: list codes that fit a memory size."""

import json
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.cli.progress import progress
from compressae.coding.plan import TRAINED_NONZEROS, Plan, fitting
from compressae.coding.plan import plan as measured_plans
from compressae.retrieval.io.embeddings import SIMILARITIES

_COLUMNS = (
    "h",
    "k",
    "values",
    "residual B",
    "code B",
    "held B",
    "total",
    "recall@100",
    "expected",
)


@click.command(
    cls=common.Command,
    examples=(
        "plan sample.npy --items 100e6 --memory 8GB",
        "plan --items 1e6 --memory 80B/row --dim 768",
    ),
)
@click.argument("embeddings", required=False, type=common.TABLE)
@click.option("--items", required=True, type=float, help="Rows of the whole table, such as 100e6.")
@click.option("--memory", required=True, help="Memory for search, such as '8GB' or '80B/row'.")
@click.option("--dim", type=click.IntRange(min=1), help="d.  [default: that of EMBEDDINGS]")
@click.option(
    "--latents",
    default="1024,4096,16384",
    show_default=True,
    help="Numbers to try, comma-separated.",
)
@click.option(
    "--queries",
    default=1000,
    show_default=True,
    type=common.QueriesType(),
    help="Rows of EMBEDDINGS held out as queries, at most a tenth; or a table of queries.",
)
@click.option(
    "--similarity",
    type=click.Choice(SIMILARITIES),
    default="cosine",
    show_default=True,
    help="How queries are compared with rows; dot, the dot product, for a recommender.",
)
@click.option("--codes-only", is_flag=True, help="Leave the posting lists out of the memory.")
@common.column_option
@common.json_option
def plan(
    embeddings: Path | None,
    items: float,
    memory: str,
    dim: int | None,
    latents: str,
    queries: int | Path,
    similarity: Any,
    codes_only: bool,
    as_json: bool,
) -> None:
    """List the latents, nonzeros, values and residual codes that fit a memory size.

    With EMBEDDINGS, a sample of the table (20,000 to 200,000 rows), each plan is trained and
    measured on it, and the best comes first. 'expected' extrapolates the recall on the sample to
    all rows of the table, most of which training does not see where the table is much larger.
    Without EMBEDDINGS nothing is measured.
    """
    if not (math.isfinite(items) and items >= 1 and items == int(items)):
        raise click.UsageError(f"--items {items}: expected a whole number of at least 1")
    try:
        choices = [int(number) for number in latents.split(",")]
    except ValueError:
        choices = []
    if not choices or min(choices) < 1:
        raise click.UsageError(f"--latents {latents!r}: expected numbers, comma apart")
    if embeddings is None:
        if dim is None:
            raise click.UsageError("give --dim, or EMBEDDINGS")
        plans = fitting(int(items), dim, memory, choices, lists=not codes_only)
    else:
        sample = common.open_table(embeddings)
        if dim not in (None, sample.shape[1]):
            raise click.UsageError(f"--dim {dim}, but {embeddings} has {sample.shape[1]} columns")
        with progress("planning") as show:
            plans = measured_plans(
                sample, int(items), memory, choices, queries, not codes_only, show, similarity
            )
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in plans]))
        return
    _print(plans)
    if embeddings is None:
        click.echo("Nothing was measured: give a sample of the table to measure recall.")
        return
    top = plans[0]
    table, trained = shlex.quote(str(embeddings)), min(TRAINED_NONZEROS, top.latents)
    compared = "" if similarity == "cosine" else f" --similarity {similarity}"
    weighted = "" if isinstance(queries, int) else f" --queries {shlex.quote(str(queries))}"
    dropout = f" --latent-dropout {top.latent_dropout}" if top.latent_dropout else ""
    residual = f" --residual-bytes {top.residual_bytes}" if top.residual_bytes else ""
    click.echo(
        f"compressae train {table} -o model --latents {top.latents} --nonzeros {trained}"
        f"{dropout}{compared}\n"
        f"compressae index {table} -m model -o index --values {top.value_type} "
        f"--nonzeros {top.nonzeros}{residual}{weighted}"
    )


def _size_text(nbytes: int) -> str:
    """Bytes to three digits.

    >>> _size_text(1_790_000), _size_text(8_000_000_000)
    ('1.79 MB', '8 GB')
    """
    unit, name = (1e9, "GB") if nbytes >= 1e9 else (1e6, "MB")
    return f"{nbytes / unit:.3g} {name}"


def _print(plans: list[Plan]) -> None:
    """Print plans as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*_COLUMNS)
    for entry in plans:
        recalls = ("" if r is None else f"{r:.3f}" for r in (entry.recall, entry.expected))
        table.add_row(
            str(entry.latents),
            str(entry.nonzeros),
            entry.value_type,
            str(entry.residual_bytes),
            str(entry.code_bytes),
            f"{entry.held_bytes:.0f}",
            _size_text(entry.total_bytes),
            *recalls,
        )
    Console(width=None if Console().is_terminal else 120).print(table)
