#!/usr/bin/env python3
"""Train a recommender on pairs of users and items, and judge it on the test pairs once.

DATA is an .npz of pairs (see recommenders/interactions.py for its arrays), or a folder with
LightGCN's train.txt and test.txt. OUTPUT gets

\b
  table.npy      (n, d) float32, the trained table: users, then items
  final.npy      (n, d) float32, the rows that pairs are scored by (LightGCN: after propagation)
  curve.json     validations: epoch, seconds of training, loss, recall, NDCG
  metrics.json   Recall@20 and NDCG@20 of the test pairs, settings, seconds
  choose, refit  checkpoints; --resume goes on from them

Protocol "lightgcn": a share of the training pairs is held out and chooses the number of epochs;
then the model is trained anew on all training pairs for so many. Protocol "bet": all pairs, 50 %
training, 25 % validation, 25 % test per user; the best epoch on the validation pairs is kept. Only
training pairs are left out of the rankings.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from recommenders.files import write_json
from recommenders.interactions import Split, bet_split, hold_out, read_split
from recommenders.models import MF, MODELS, Unit, recommender
from recommenders.options import recipe_options
from recommenders.ranking import evaluate
from recommenders.training import Outcome, Run, recipe_for

from compressae.evaluation.protocol import machine
from compressae.progress import progress
from compressae.retrieval.errors import InputError
from compressae.tables import FullTable

TOP = 20


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Choice(MODELS), default="lightgcn")
@click.option("--dim", type=click.IntRange(1), default=64, help="Entries of a row.")
@click.option("--layers", type=click.IntRange(0), default=3, help="Of LightGCN.")
@click.option("--protocol", type=click.Choice(["lightgcn", "bet"]), default="lightgcn")
@click.option(
    "--unit",
    type=click.Choice(["none", "users", "both"]),
    help="Rows scaled to length 1; default: users with softmax, none with bpr.",
)
@recipe_options
@click.option("--std", type=float, default=0.1, help="Of the table's first entries.")
@click.option("--validation", type=float, default=0.1, help="Share held out (lightgcn).")
@click.option("--test/--no-test", default=True, help="Without: choose only, look at no test pair.")
@click.option("--seed", type=int, default=0, help="Of the split, the table and the training.")
@click.option("--resume", is_flag=True)
def main(data: Path, output: Path, resume: bool, **options: Any) -> None:
    try:
        train(data, output, resume, **options)
    except (InputError, OSError) as error:
        raise click.ClickException(str(error)) from error


def train(
    data: Path,
    output: Path,
    resume: bool,
    model: str,
    dim: int,
    layers: int,
    protocol: str,
    unit: Unit | None,
    std: float,
    validation: float,
    test: bool,
    seed: int,
    **settings: Any,
) -> None:
    recipe = recipe_for(model, seed=seed, **settings)
    unit = unit or ("users" if recipe.loss == "softmax" else "none")
    whole = read_split(data)
    split = bet_split(whole, seed) if protocol == "bet" else hold_out(whole, validation, seed)
    output.mkdir(parents=True, exist_ok=True)

    def stage(name: str, split: Split, stop_after: int | None = None) -> tuple[MF, Outcome]:
        torch.manual_seed(seed)
        table = FullTable(split.n_users + split.n_items, dim, std=std)
        run = Run(recommender(model, table, split.train, unit, layers), split, recipe)
        if resume and (output / name).exists():
            run.resume(output / name)
        with progress(name) as report:
            return run.model, run.fit(output / name, report, stop_after)

    fitted, outcome = stage("choose", split)
    curve = [asdict(point) for point in outcome.curve]
    write_json(output / "curve.json", curve)
    if not test:
        return
    chosen, seconds = outcome.best_epoch, outcome.seconds
    if protocol == "lightgcn" and split.valid.nnz:
        split = split.whole()
        fitted, outcome = stage("refit", split, chosen)
        seconds += outcome.seconds
    found = evaluate(fitted.scorer(), split.test, split.train, TOP)
    np.save(output / "table.npy", fitted.table.rows().detach().numpy())  # type: ignore[operator]
    np.save(output / "final.npy", fitted.final().numpy())
    record = {
        f"recall{TOP}": found.recall,
        f"ndcg{TOP}": found.ndcg,
        "users": found.users,
        "epochs": chosen,
        "seconds_of_last_training": outcome.seconds,
        "seconds": seconds,
        "settings": {
            **asdict(recipe),
            **{"model": model, "dim": dim, "protocol": protocol, "unit": unit, "std": std},
            **{"layers": layers, "validation": validation},
        },
        "machine": machine(),
    }
    write_json(output / "metrics.json", record)
    click.echo(
        f"{model} d = {dim}, {protocol} split: Recall@{TOP} {found.recall:.4f} NDCG@{TOP} "
        f"{found.ndcg:.4f} over {found.users:,} users; {chosen} epochs, "
        f"{outcome.seconds:.0f} s of training after {seconds - outcome.seconds:.0f} s to choose"
    )


if __name__ == "__main__":
    main()
