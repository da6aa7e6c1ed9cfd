"""Budgeted embedding tables (BET, arXiv 2310.14884) for one recommender."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from benchmarks.gowalla.files import write_json
from benchmarks.gowalla.job import Job, job_options, quality_line, tell
from recommenders.bet import VARIANTS, Settings, refit, search_and_retrain
from recommenders.models import survives_rotation

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import check_destination
from compressae.tables.bet.searching import KIND


@click.command()
@job_options(dim=128, protocol="bet")
@click.option("--keep", type=float, default=0.1, help="Share of the full table's entries.")
@click.option("--full", type=click.Path(path_type=Path), help="Checkpoint of the full table.")
@click.option("--iterations", type=int, default=Settings.iterations, help="Widths tried.")
@click.option("--draws", type=int, default=Settings.candidates, help="Widths drawn for each try.")
@click.option("--tune-epochs", type=int, default=Settings.tune_epochs, help="Epochs of each try.")
@click.option("--tune-rate", type=float, default=Settings.tune_rate, help="Learning rate of a try.")
@click.option("--axes", type=click.Choice(["given", "principal"]), default=Settings.axes)
@click.option("--retrain", type=int, default=Settings.retrain, help="The fittest retrained.")
@click.option("--start", type=click.Choice(["scratch", "dense"]), default=Settings.start)
@click.option("--variant", type=click.Choice([*VARIANTS]), default=Settings.variant)
def widths(keep: float, full: Path | None, draws: int, test: bool, **options: Any) -> None:
    """Search widths of rows that sum to keep · dim · rows, and retrain the fittest.

    A full table is trained (or read, --full); widths are searched on the validation pairs; the
    fittest are retrained, and the best on the validation pairs is judged on the test pairs once.
    OUTPUT gets

    \b
      widths.npy     (n,) int64, the entries of each row: users, then items
      table.npy      (n, d) float32, the trained table, zeros where a row has no entry
      search.json    every try (draws, fitness, seconds), every retraining with its curve
      metrics.json   Recall@20 and NDCG@20 of the test pairs, settings, seconds
      full, search, retrain-*   checkpoints; --resume goes on from them

    Protocol "bet": all pairs, 50 % training, 25 % validation, 25 % test per user. "lightgcn": a
    share of the training pairs is held out for the search, then the chosen widths are trained once
    more on all of them. Variants: the search of BET's paper, that of its public code, and the
    paper's ablations. The decay is that of the full table; rows that are searched and retrained
    have it times √keep.
    """
    names = {field.name for field in fields(Settings)} - {"candidates", "std"}
    searching = {name: options.pop(name) for name in names}
    settings = Settings(**searching, candidates=draws, std=options["std"])
    settings.check_fits(survives_rotation(options["model"]))
    job = Job.of(**options)
    split, output, n, dim = job.split, job.output, job.n, job.dim
    entries = int(keep * n * dim) if 0 < keep <= 1 else 0
    if entries < n:
        raise InputError(
            f"keep {keep} of {n:,} rows of {dim}; expected {1 / dim:.4g} to 1, which is one entry "
            "a row or more"
        )
    if not split.valid.nnz:
        raise InputError(f"validation share {job.validation}: expected one that gives some pairs")
    if full is not None and not full.exists():
        raise InputError(f"{full}: no such folder; expected a checkpoint of this command")
    output.mkdir(parents=True, exist_ok=True)
    check_destination(output / "search", KIND)

    dense = job.fit("full", split, start=full).model
    recipe = replace(job.recipe, decay=job.recipe.narrow_decay(keep))
    found = search_and_retrain(
        split, job.make, dense, entries, recipe, output, tell, settings, job.resume
    )
    chosen, model, seconds = found.chosen, found.model, found.seconds
    np.save(output / "widths.npy", chosen.widths)
    write_json(output / "search.json", found.record())
    line, judged = "", {}
    if test:
        if job.protocol == "lightgcn":
            model, outcome = refit(split, job.make, dense, found, recipe, output, tell, settings)
            split, seconds = split.whole(), seconds + outcome.seconds
        judged = job.judge(model, split)
        line = f"{quality_line(judged)}, "
    np.save(output / "table.npy", model.table.rows().detach().numpy())  # type: ignore[operator]
    record = {
        "keep": keep,
        "entries": int(chosen.widths.sum()),
        "full_entries": n * dim,
        "nbytes": found.model.table.nbytes,
        "validation_quality": chosen.quality,
        "full_validation_quality": found.full_quality,
        "epochs": chosen.outcome.best_epoch,
        "seconds": seconds,
        **judged,
        **job.record(recipe=asdict(recipe), search=asdict(settings)),
    }
    write_json(output / "metrics.json", record)
    click.echo(
        f"{job.model} d = {dim}, {record['entries']:,} of {n * dim:,} entries, {job.protocol} "
        f"split: {line}validation quality {chosen.quality:.4f} (full {found.full_quality:.4f}); "
        f"{seconds:.0f} s of search and retraining"
    )
