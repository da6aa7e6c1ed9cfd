"""One recommender on one split: options, stages and records that ``train`` and ``widths`` share.

Protocol "lightgcn" holds out a share of the training pairs for choices, then trains once more on
all of them; "bet" splits all pairs again, 50 % training, 25 % validation, 25 % test per user.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from benchmarks.gowalla.files import origin
from recommenders.interactions import Split, bet_split, hold_out, read_split
from recommenders.models import MF, MODELS, Unit, recommender
from recommenders.ranking import evaluate
from recommenders.training import Recipe, Run, recipe_for
from scipy.sparse import csr_array
from torch import nn

from compressae.tables import FullTable

TOP = 20

_OPTIONS = [
    ("model", click.Choice(MODELS), "lightgcn", None),
    ("dim", click.IntRange(1), 64, "Entries of a row."),
    ("layers", click.IntRange(0), 3, "Layers of LightGCN and NGCF."),
    ("dropout", (float, float), (0.0, 0.0), "Shares of messages and nodes dropped in NGCF."),
    ("protocol", click.Choice(["lightgcn", "bet"]), "lightgcn", None),
    ("loss", click.Choice(["softmax", "bpr"]), None, "Default: bpr for ncf alone."),
    ("epochs", int, Recipe.epochs, "Epochs of a whole training."),
    ("batch", int, Recipe.batch, "Training pairs a step."),
    ("learning-rate", float, Recipe.learning_rate, "Learning rate of AdamW."),
    ("candidates", int, Recipe.candidates, "Items that a step of softmax draws."),
    ("temperature", float, Recipe.temperature, "Temperature of softmax."),
    ("user-power", float, Recipe.user_power, "p pairs of a user weigh p^-POWER each (softmax)."),
    ("decay", float, None, f"Decay of AdamW; default: {Recipe.decay} with softmax, 0 with bpr."),
    ("check-every", int, Recipe.check_every, "Epochs between validations."),
    ("patience", int, Recipe.patience, "Validations without a gain before training stops."),
    ("std", float, 0.1, "Standard deviation of a table's initial entries."),
    ("validation", float, 0.1, "Share held out (lightgcn)."),
    ("l2", float, Recipe.l2, "L2 of the rows of a batch (bpr); BET's code has 1e-4."),
    ("test/--no-test", bool, True, "Without: no test pair is read."),
    ("seed", int, 0, "Seed of the split, the tables, training and search."),
]


def job_options(**defaults: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add DATA, -o and the options of a ``Job``, with some other defaults."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option("--resume", is_flag=True, help="Go on from checkpoints.")(command)
        for name, kind, default, text in reversed(_OPTIONS):
            default = defaults.get(name, default)
            command = click.option(f"--{name}", type=kind, default=default, help=text)(command)
        folder = click.Path(path_type=Path)
        command = click.option("-o", "--output", required=True, type=folder)(command)
        return click.argument("data", type=click.Path(path_type=Path))(command)

    return add


@dataclass
class Job:
    """A recommender to train on the pairs of a file.

    Attributes:
        output: folder of results and checkpoints.
        unit: rows scaled to length 1; see ``models.Unit``.
        split: with validation pairs, where some are held out.
    """

    output: Path
    model: str
    dim: int
    layers: int
    dropout: tuple[float, float]
    protocol: str
    unit: Unit
    std: float
    validation: float
    resume: bool
    recipe: Recipe
    split: Split

    @classmethod
    def of(
        cls,
        data: Path,
        output: Path,
        model: str,
        dim: int,
        layers: int,
        dropout: tuple[float, float],
        protocol: str,
        std: float,
        validation: float,
        seed: int,
        resume: bool,
        unit: Unit | None = None,
        **recipe: Any,
    ) -> "Job":
        """Read the pairs and split them; other options are those of ``recipe_for``."""
        settings = recipe_for(model, seed=seed, **recipe)
        unit = unit or ("users" if settings.loss == "softmax" else "none")
        whole = read_split(data)
        split = bet_split(whole, seed) if protocol == "bet" else hold_out(whole, validation, seed)
        shape = (model, dim, layers, dropout, protocol, unit, std, validation)
        return cls(output, *shape, resume, settings, split)

    @property
    def n(self) -> int:
        """Rows of a table: users, then items."""
        return self.split.n_users + self.split.n_items

    def make(self, table: nn.Module, train: csr_array) -> MF:
        """The recommender of a table over training pairs."""
        return recommender(self.model, table, train, self.unit, self.layers, self.dropout)

    def fit(
        self, name: str, split: Split, stop_after: int | None = None, start: Path | None = None
    ) -> Run:
        """Train a full table; its checkpoint is OUTPUT/NAME.

        Args:
            stop_after: epochs to stop after.
            start: a checkpoint to go on from; with ``resume`` that of the stage itself.
        """
        torch.manual_seed(self.recipe.seed)
        table = FullTable(self.n, self.dim, std=self.std)
        run = Run(self.make(table, split.train), split, self.recipe)
        checkpoint = self.output / name
        if start is None and self.resume and checkpoint.exists():
            start = checkpoint
        if start is not None:
            run.resume(start)
        run.fit(checkpoint, lambda *progress: tell(name, *progress), stop_after)
        return run

    def judge(self, model: MF, split: Split) -> dict[str, Any]:
        """Recall and NDCG of the test pairs, training pairs left out of the rankings."""
        quality = evaluate(model.scorer(), split.test, split.train, TOP)
        return {
            f"recall{TOP}": quality.recall,
            f"ndcg{TOP}": quality.ndcg,
            "users": quality.users,
        }

    def record(self, **settings: Any) -> dict[str, Any]:
        """Settings, machine, commit and command, for ``metrics.json``."""
        names = ("model", "dim", "layers", "dropout", "protocol", "unit", "std", "validation")
        own = {name: getattr(self, name) for name in names}
        return {"settings": {**own, **settings}, **origin()}


def tell(stage: str, done: int, total: int, details: str) -> None:
    """Show progress as a line on stderr."""
    click.echo(f"{stage} {done}/{total} {details}".rstrip(), err=True)


def quality_line(record: dict[str, Any]) -> str:
    """The figures of ``Job.judge`` in words."""
    return f"Recall@{TOP} {record[f'recall{TOP}']:.4f} NDCG@{TOP} {record[f'ndcg{TOP}']:.4f}"
