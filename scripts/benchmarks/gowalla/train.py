"""Train a recommender over a full table, and judge it on the test pairs once."""

from dataclasses import asdict
from typing import Any

import click
import numpy as np
from benchmarks.gowalla.files import write_json
from benchmarks.gowalla.job import Job, job_options, quality_line


@click.command()
@job_options()
@click.option(
    "--unit",
    type=click.Choice(["none", "users", "both"]),
    help="Rows scaled to length 1; default: users with softmax, none with bpr.",
)
def train(test: bool, **options: Any) -> None:
    """Train a recommender on pairs of users and items, and judge it on the test pairs once.

    OUTPUT gets

    \b
      table.npy      (n, d) float32, the trained table: users, then items
      final.npy      (n, d) float32, the rows that pairs are scored by (LightGCN: propagated)
      curve.json     validations: epoch, seconds of training, loss, recall, NDCG
      metrics.json   Recall@20 and NDCG@20 of the test pairs, settings, seconds
      choose, refit  checkpoints; --resume goes on from them

    Protocol "lightgcn": a share of the training pairs is held out to choose the number of epochs,
    then a second model is trained on all training pairs for so many. Protocol "bet": all pairs,
    50 % training, 25 % validation, 25 % test per user; the best epoch on the validation pairs is
    kept. Only training pairs are left out of the rankings.
    """
    job = Job.of(**options)
    split, output = job.split, job.output
    output.mkdir(parents=True, exist_ok=True)
    run = job.fit("choose", split)
    write_json(output / "curve.json", [asdict(point) for point in run.outcome.curve])
    if not test:
        return
    epochs, seconds = run.outcome.best_epoch, run.outcome.seconds
    if job.protocol == "lightgcn" and split.valid.nnz:
        split = split.whole()
        run = job.fit("refit", split, epochs)
        seconds += run.outcome.seconds
    last = run.outcome.seconds
    np.save(output / "table.npy", run.model.table.rows().detach().numpy())  # type: ignore[operator]
    np.save(output / "final.npy", run.model.final().numpy())
    record = {
        **job.judge(run.model, split),
        "epochs": epochs,
        "seconds_of_last_training": last,
        "seconds": seconds,
        **job.record(**asdict(job.recipe)),
    }
    write_json(output / "metrics.json", record)
    click.echo(
        f"{job.model} d = {job.dim}, {job.protocol} split: {quality_line(record)} over "
        f"{record['users']:,} users; {epochs} epochs, {last:.0f} s of training after "
        f"{seconds - last:.0f} s to choose"
    )
