#!/usr/bin/env python3
"""Budgeted embedding tables (BET, arXiv 2310.14884) for a recommender of users and items.

DATA is an .npz of pairs (see recommenders/interactions.py for its arrays), or a folder with
LightGCN's train.txt and test.txt. A full table is trained (or taken, --full); widths of its rows
that sum to keep · dim · rows are searched on the validation pairs; the fittest are retrained, and
the best on the validation pairs is judged on the test pairs once. OUTPUT gets

\b
  widths.npy     (n,) int64, the entries of each row: users, then items
  table.npy      (n, d) float32, the trained table, zeros where a row has no entry
  search.json    every try (what was drawn, fitness, seconds), every retraining with its curve
  metrics.json   Recall@20 and NDCG@20 of the test pairs, settings, seconds
  full, search, retrain-*   checkpoints; --resume goes on from them

Protocol "bet": all pairs anew, 50 % training, 25 % validation, 25 % test per user. "lightgcn": a
share of the training pairs is held out for the search, then the chosen widths are trained once
more on all of them.

The decay is that of the full table; rows that are searched and retrained have it times √keep.
"""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from recommenders.bet import Settings, refit, search_and_retrain
from recommenders.files import write_json
from recommenders.interactions import bet_split, hold_out, read_split
from recommenders.models import MF, MODELS, Unit, recommender
from recommenders.options import recipe_options
from recommenders.ranking import evaluate
from recommenders.training import Run, recipe_for
from scipy.sparse import csr_array

from compressae.evaluation.protocol import machine
from compressae.retrieval.errors import InputError
from compressae.retrieval.storage import check_destination
from compressae.tables import FullTable
from compressae.tables.bet.searching import KIND

TOP = 20
#: Settings of the search that are options of the same name.
SEARCHING = ("iterations", "tune_epochs", "tune_rate", "retrain", "start", "axes")


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--keep", type=float, default=0.1, help="Share of the full table's entries.")
@click.option("--model", type=click.Choice(MODELS), default="lightgcn")
@click.option("--dim", type=click.IntRange(1), default=128, help="Entries of a full row.")
@click.option("--layers", type=click.IntRange(0), default=3, help="Of LightGCN.")
@click.option("--protocol", type=click.Choice(["lightgcn", "bet"]), default="bet")
@click.option("--full", type=click.Path(path_type=Path), help="Checkpoint of the full table.")
@click.option("--iterations", type=int, default=Settings.iterations, help="Widths tried.")
@click.option("--draws", type=int, default=Settings.candidates, help="For each try.")
@click.option("--tune-epochs", type=int, default=Settings.tune_epochs, help="Of each try.")
@click.option("--tune-rate", type=float, default=Settings.tune_rate, help="Learning rate of a try.")
@click.option("--axes", type=click.Choice(["given", "principal"]), default=Settings.axes)
@click.option("--retrain", type=int, default=Settings.retrain, help="The fittest retrained.")
@click.option("--start", type=click.Choice(["scratch", "dense"]), default=Settings.start)
@recipe_options
@click.option("--std", type=float, default=0.1, help="Of the tables' first entries.")
@click.option("--validation", type=float, default=0.1, help="Share held out (lightgcn).")
@click.option("--test/--no-test", default=True, help="Without: look at no test pair.")
@click.option("--seed", type=int, default=0, help="Of the split, the tables and the search.")
@click.option("--resume", is_flag=True)
def main(data: Path, output: Path, **options: Any) -> None:
    try:
        search(data, output, **options)
    except (InputError, OSError) as error:
        raise click.ClickException(str(error)) from error


def search(
    data: Path,
    output: Path,
    keep: float,
    model: str,
    dim: int,
    layers: int,
    protocol: str,
    full: Path | None,
    draws: int,
    std: float,
    validation: float,
    test: bool,
    seed: int,
    resume: bool,
    **options: Any,
) -> None:
    searching = {
        k: options.pop(k) for k in asdict(Settings()) if k in options and k != "candidates"
    }
    settings = Settings(**searching, candidates=draws, std=std)
    settings.check_fits(model == "ncf")
    recipe = recipe_for(model, seed=seed, **options)
    whole = read_split(data)
    split = bet_split(whole, seed) if protocol == "bet" else hold_out(whole, validation, seed)
    n = split.n_users + split.n_items
    entries = int(keep * n * dim) if 0 < keep <= 1 else 0
    if entries < n:
        raise InputError(
            f"keep {keep} of {n:,} rows of {dim}; expected {1 / dim:.4g} to 1, which is one entry "
            "a row or more"
        )
    if not split.valid.nnz:
        raise InputError(f"validation share {validation}: expected one that gives some pairs")
    if full is not None and not full.exists():
        raise InputError(f"{full}: no such folder; expected a checkpoint of train_gowalla.py")
    output.mkdir(parents=True, exist_ok=True)
    check_destination(output / "search", KIND)
    unit: Unit = "users" if recipe.loss == "softmax" else "none"

    def make(table: torch.nn.Module, train: csr_array) -> MF:
        return recommender(model, table, train, unit, layers)

    torch.manual_seed(seed)
    run = Run(make(FullTable(n, dim, std=std), split.train), split, recipe)
    taken = full or output / "full"
    if taken.exists() and (full or resume):
        run.resume(taken)
    run.fit(output / "full", partial(_tell, "full"))
    dense, recipe = run.model, replace(recipe, decay=recipe.narrow_decay(keep))
    found = search_and_retrain(split, make, dense, entries, recipe, output, _tell, settings, resume)
    widths, fitted = found.chosen.widths, found.model
    np.save(output / "widths.npy", widths)
    write_json(output / "search.json", found.record())
    record: dict[str, Any] = {
        "keep": keep,
        "entries": int(widths.sum()),
        "full_entries": n * dim,
        "nbytes": fitted.table.nbytes,
        "validation_quality": found.chosen.quality,
        "full_validation_quality": found.full_quality,
        "epochs": found.chosen.outcome.best_epoch,
        "seconds": found.seconds,
        "settings": {
            **{"model": model, "dim": dim, "protocol": protocol, "unit": unit},
            **{"layers": layers, "validation": validation},
            "recipe": asdict(recipe),
            "search": asdict(settings),
        },
        "machine": machine(),
    }
    told = f"validation quality {found.chosen.quality:.4f} (full {found.full_quality:.4f})"
    if test:
        if protocol == "lightgcn":
            fitted, outcome = refit(split, make, dense, found, recipe, output, _tell, settings)
            split = split.whole()
            record["seconds"] += outcome.seconds
        judged = evaluate(fitted.scorer(), split.test, split.train, TOP)
        found_there = {f"recall{TOP}": judged.recall, f"ndcg{TOP}": judged.ndcg}
        record.update(found_there, users=judged.users)
        told = f"Recall@{TOP} {judged.recall:.4f} NDCG@{TOP} {judged.ndcg:.4f}, {told}"
    np.save(output / "table.npy", fitted.table.rows().detach().numpy())  # type: ignore[operator]
    write_json(output / "metrics.json", record)
    click.echo(
        f"{model} d = {dim}, {record['entries']:,} of {n * dim:,} entries, {protocol} split: "
        f"{told}; {record['seconds']:.0f} s of search and retraining"
    )


def _tell(stage: str, done: int, total: int, details: str) -> None:
    click.echo(f"{stage} {done}/{total} {details}".rstrip(), err=True)


if __name__ == "__main__":
    main()
