"""Train and judge every kind of compressed table at equal bytes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from benchmarks.gowalla.cells import Cell, Store
from benchmarks.gowalla.files import write
from benchmarks.gowalla.methods import METHODS, SMOKE_METHODS
from benchmarks.gowalla.report import dense_line, draw, groups, markdown, rows
from benchmarks.gowalla.workbench import Setting
from recommenders.interactions import Split, read_split, subset
from recommenders.models import MODELS
from recommenders.synthetic import blocks, shuffled
from recommenders.training import Recipe, recipe_for

from compressae.retrieval.errors import InputError

DIMS = {"lightgcn": 64, "bet": 128}
#: Settings by protocol, model and loss, chosen on validation pairs (docs/results/gowalla.md). The
#: defaults are those of the LightGCN split with LightGCN.
RECIPES: dict[tuple[str, str, str], dict[str, Any]] = {
    ("bet", "lightgcn", "softmax"): dict(
        temperature=0.1, user_power=0.0, batch=32768, candidates=4096
    ),
    ("bet", "ngcf", "softmax"): dict(
        temperature=0.2, user_power=0.0, candidates=4096, learning_rate=0.01
    ),
    ("bet", "ncf", "softmax"): dict(
        temperature=0.2,
        user_power=0.0,
        batch=32768,
        candidates=512,
        learning_rate=0.01,
        check_users=2000,
    ),
    ("lightgcn", "mf", "softmax"): dict(temperature=0.2),
}
#: Settings of "bpr" for all others: batch and L2 of BET's public code.
BPR: dict[str, Any] = dict(batch=10_000, l2=1e-4)
#: Settings of --smoke, unless options say otherwise.
SMOKE: dict[str, Any] = dict(batch=4096, candidates=256, check_every=2, learning_rate=0.02)
SMOKE_DIM, SMOKE_EPOCHS, SMOKE_USERS, SMOKE_ITEMS = 32, 8, 900, 600


_SHARE = click.FloatRange(0, 100, min_open=True, max_open=True)


@click.command()
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path))
@click.option(
    "--protocol", "protocols", multiple=True, type=click.Choice(list(DIMS)), help="Default: both."
)
@click.option("--method", "names", multiple=True, help="Default: all of METHODS but bet-long.")
@click.option(
    "--removed", multiple=True, default=(80, 90, 95), type=_SHARE, help="Per cent of the bytes."
)
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), default=(0,))
@click.option("--model", type=click.Choice(MODELS), default="lightgcn")
@click.option("--loss", type=click.Choice(["softmax", "bpr"]), help="Default: bpr for ncf alone.")
@click.option("--dim", type=click.IntRange(1), help="Default: 64 for lightgcn, 128 for bet.")
@click.option("--epochs", type=int, help=f"Default: {Recipe.epochs}.")
@click.option("--test/--no-test", default=True, help="Without: validation pairs judge.")
@click.option("--smoke", is_flag=True, help="Little data, few epochs: does it run?")
@click.option("--report-only", is_flag=True, help="Only write the report of the cells in OUT.")
def compare(data: Path | None, out: Path, report_only: bool, **options: Any) -> None:
    """Train and judge every kind of compressed table, at equal bytes.

    OUT gets

    \b
      cells/*.json   one a protocol, model, method, budget and seed; one that exists is kept
      dense/         the trained dense tables, one a protocol, model and seed
      gowalla.md     the table: Recall@20 / NDCG@20, bytes a row, seconds
      gowalla.json   all cells
      gowalla.png    Recall@20 over bytes a row

    The same command goes on where it stopped. Whatever is trained from scratch has the same epochs;
    what methods have beyond that is in methods.py. A budget is a share of the dense table's bytes,
    and everything that a table stores is counted. The test pairs are read once for each cell; with
    --no-test validation pairs judge instead.

    With --smoke all of it takes a minute at most, on the most active users and items of DATA, or on
    synthetic pairs without DATA; its figures mean nothing.
    """
    failed = [] if report_only else run(data, out, **options)
    report(out)
    if failed:
        raise click.ClickException(
            f"{len(failed)} cells failed; the same command tries them again\n" + "\n".join(failed)
        )


def run(
    data: Path | None,
    out: Path,
    protocols: tuple[str, ...],
    names: tuple[str, ...],
    removed: tuple[float, ...],
    seeds: tuple[int, ...],
    model: str,
    loss: Literal["softmax", "bpr"] | None,
    dim: int | None,
    epochs: int | None,
    test: bool,
    smoke: bool,
) -> list[str]:
    """Make the missing cells; returns a line for each that failed."""
    if unknown := [name for name in names if name not in METHODS]:
        raise InputError(f"method {', '.join(unknown)}; expected some of {', '.join(METHODS)}")
    whole, methods = _read(data, out, smoke), METHODS
    if smoke:
        methods = SMOKE_METHODS
        epochs, dim = SMOKE_EPOCHS if epochs is None else epochs, dim or SMOKE_DIM
    names = names or tuple(name for name, method in METHODS.items() if not method.on_request)
    settings = [
        Setting(
            protocol,
            model,
            dim or DIMS[protocol],
            _recipe(protocol, model, loss, epochs, smoke),
            test,
        )
        for protocol in protocols or DIMS
    ]
    store = Store(out)
    for setting in settings:
        store.check(setting, whole)
    cells = [
        Cell(setting, seed, methods[name], share)
        for setting in settings
        for seed in seeds
        for name in names
        for share in ((0.0,) if name == "dense" else removed)
    ]
    failed = []
    missing = {cell.name: cell for cell in cells if not store.done(cell)}
    for cell in missing.values():
        record = store.make(cell, whole)
        if record["failed"]:
            failed.append(f"{cell.name}: {record['failed']}")
    return failed


def _recipe(
    protocol: str,
    model: str,
    loss: Literal["softmax", "bpr"] | None,
    epochs: int | None,
    smoke: bool,
) -> Recipe:
    recipe = recipe_for(model, loss)
    usual = BPR if recipe.loss == "bpr" else {}
    recipe = replace(recipe, **RECIPES.get((protocol, model, recipe.loss), usual))
    if smoke:
        recipe = replace(recipe, **SMOKE)
    return replace(recipe, epochs=recipe.epochs if epochs is None else epochs)


def report(out: Path) -> None:
    """Write the report of all cells of a folder, and print its tables.

    Raises:
        InputError: no cell.
    """
    records = Store(out).records() if (out / "cells").is_dir() else []
    if not records:
        raise InputError(
            f"{out}: holds no cells; expected the output of a run without --report-only"
        )
    write(out / "gowalla.md", markdown(records))
    write(out / "gowalla.json", json.dumps(records, indent=1) + "\n")
    if not draw(records, out / "gowalla.png"):
        click.echo("no picture: pip install matplotlib", err=True)
    _show(records)


def _show(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 200)
    for protocol, model, group in groups(records):
        header, lines = rows(group)
        title = f"{model}, protocol {protocol}: Recall@20 / NDCG@20"
        table = Table(*header, title=title, caption=dense_line(group))
        for line in lines:
            table.add_row(*line)
        console.print(table)


def _read(data: Path | None, out: Path, smoke: bool) -> Split:
    if not smoke:
        if data is None:
            raise InputError("no DATA; expected an .npz of pairs, or --smoke")
        return read_split(data)
    if data is not None:
        return subset(read_split(data), SMOKE_USERS, SMOKE_ITEMS)
    click.echo("no DATA: synthetic pairs", err=True)
    Store(out)
    pairs = shuffled(blocks(SMOKE_USERS, SMOKE_ITEMS, groups=10, each=12))
    np.savez(out / "planted.npz", **pairs)  # type: ignore[arg-type]
    return read_split(out / "planted.npz")
