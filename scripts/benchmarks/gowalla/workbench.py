"""The workbench of a method: pairs, a recipe, trained dense rows, and training."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recommenders.interactions import Split, bet_split, fingerprint, hold_out
from recommenders.models import MF, Unit, recommender
from recommenders.training import Outcome, Recipe, Run
from scipy.sparse import csr_array
from torch import Tensor, nn

from compressae.cli.progress import progress
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.tables import FullTable, Table
from compressae.training.checkpoint import check_same

DENSE = "dense recommender"
#: Share of the training pairs held out where protocol "lightgcn" is not tested.
HELD_OUT = 0.1


class DoesNotFit(InputError):
    """The budget is too small for the smallest table of a method."""


@dataclass(frozen=True)
class Setting:
    """Settings that all cells of one protocol and model share.

    Attributes:
        protocol: "lightgcn", the split of the file, or "bet", 50/25/25 of each user's pairs.
        model: see ``models.MODELS``.
        dim: d of the dense table, which budgets refer to.
        recipe: its seed is ignored.
        test: judge on the test pairs; False: on validation pairs only.
        layers: layers of LightGCN.
        std: standard deviation of a table's initial entries.
    """

    protocol: str
    model: str
    dim: int
    recipe: Recipe
    test: bool = True
    layers: int = 3
    std: float = 0.1

    @property
    def unit(self) -> Unit:
        """Rows that are scaled to length 1."""
        return "users" if self.recipe.loss == "softmax" else "none"

    def splits(self, whole: Split, seed: int) -> tuple[Split, Split]:
        """(split to train on, split to judge by).

        "lightgcn" trains on all training pairs for all epochs of the recipe; without ``test`` a
        share of them is held out and judges. "bet" keeps the epoch best on its validation pairs.
        """
        if self.protocol == "bet":
            split = bet_split(whole, seed)
            return split, split
        if self.test:
            return whole, whole
        held = hold_out(whole, HELD_OUT, seed)
        none = csr_array(held.train.shape, dtype=np.float32)
        return Split(held.train, none, held.test), held

    def record(self) -> dict[str, Any]:
        """The settings as JSON."""
        settings = asdict(self)
        del settings["recipe"]["seed"]
        return settings


@dataclass
class Workbench:
    """The argument of a method for one cell; the table it returns is judged by ``recommender``.

    Attributes:
        setting: settings that all cells share.
        split: the pairs to train on.
        seed: seed of the cell.
        folder: checkpoints of this cell, so that interrupted training goes on.
        dense_folder: the trained dense table of this setting and seed.
        what: name of the cell.
        facts: facts about the table, for the record (``note``).
        trainings: trainings of this cell, in order.
        seconds: seconds of training and quantising for this cell, without the dense table.
        dense_seconds: seconds of training the dense rows, if they were used.
        dense_training: that training, as in ``trainings``.
    """

    setting: Setting
    split: Split
    seed: int
    folder: Path
    dense_folder: Path
    what: str = "table"
    facts: dict[str, Any] = field(default_factory=dict)
    trainings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    dense_seconds: float = 0.0
    dense_training: dict[str, Any] = field(default_factory=dict)
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recipe = replace(self.setting.recipe, seed=self.seed)

    @property
    def n_users(self) -> int:
        return self.split.n_users

    @property
    def n(self) -> int:
        """Rows of a table: users, then items."""
        return self.split.n_users + self.split.n_items

    @property
    def dim(self) -> int:
        return self.setting.dim

    def widest(self, d: int) -> int:
        """The largest width ≤ d that the model takes (NCF: a multiple of 4).

        Raises:
            DoesNotFit: there is none.
        """
        step = 4 if self.setting.model == "ncf" else 1
        if d < step:
            raise DoesNotFit(f"{max(d, 0)} dimensions; {self.setting.model} has {step} or more")
        return d - d % step

    def full(self, d: int) -> FullTable:
        """An initial dense table (n, d)."""
        return FullTable(self.n, d, std=self.setting.std)

    def decay(self, entries: float) -> float:
        """Decay for rows of so many entries."""
        return self.recipe.narrow_decay(entries / self.dim)

    def note(self, **facts: Any) -> None:
        """Add facts about the table to the record, as JSON."""
        self.facts.update(facts)

    def recommender(self, table: Table) -> MF:
        """The model over a table, with the last trained other weights (NCF's layers)."""
        model = self.make(table, self.split.train)
        model.load_state_dict(self._weights, strict=False)
        return model

    def make(self, table: nn.Module, train: csr_array) -> MF:
        """An initial model over a table and other training pairs."""
        setting = self.setting
        return recommender(setting.model, table, train, setting.unit, setting.layers)

    def keep(self, model: MF) -> Table:
        """Take the table and the other weights of a model trained elsewhere."""
        self._weights = _others(model)
        return model.table  # type: ignore[return-value]

    def served_rows(self) -> tuple[FullTable, np.ndarray]:
        """Rows as the dense model scores them: a table of users, and items (n_items, d).

        Raises:
            DoesNotFit: scores are no dot products (NCF).
        """
        if self.setting.model == "ncf":
            raise DoesNotFit("scores of NCF are no dot products of rows")
        dense = FullTable.from_dense(self.dense_rows())
        rows = self.recommender(dense).final()
        users, items = rows[: self.n_users], rows[self.n_users :]
        return FullTable.from_dense(users), items.numpy()

    def served(self, table: Table) -> MF:
        """A model of rows as they are scored: plain dot products."""
        return recommender("mf", table, self.split.train)

    def searched(self) -> tuple[Split, MF]:
        """A split with validation pairs to search by, and the dense model of its training pairs.

        Without validation pairs a share of the training pairs is held out, and a dense model of the
        others is trained and stored beside the dense table.
        """
        if self.split.valid.nnz:
            dense = FullTable.from_dense(self.dense_rows())
            return self.split, self.recommender(dense)
        split = hold_out(self.split, HELD_OUT, self.seed)
        folder = self.dense_folder.with_name(self.dense_folder.name + "-held-out")
        torch.manual_seed(self.seed)
        model = self.make(self.full(self.dim), split.train)
        outcome = self._fit(model, split, self.recipe, folder, "dense")
        self.dense_seconds = outcome.seconds
        return split, model

    def train(
        self, table: Table, name: str = "train", cold: bool = True, **changes: Any
    ) -> Outcome:
        """Train a table in place, by the recipe with ``changes``; resumes its checkpoint.

        Args:
            name: name of the checkpoint, unique within a cell.
            cold: reset the model's other weights; otherwise they go on from the last training.
        """
        recipe = replace(self.recipe, **changes)
        if cold:
            self._weights = {}
        model = self.recommender(table)
        self.folder.mkdir(parents=True, exist_ok=True)
        outcome = self._fit(model, self.split, recipe, self.folder / name, name)
        self._weights = _others(model)
        self.seconds += outcome.seconds
        self.trained(name, outcome, recipe, table.embedding_dim)
        return outcome

    def _fit(self, model: MF, split: Split, recipe: Recipe, checkpoint: Path, name: str) -> Outcome:
        """Train a model in place, from its checkpoint if there is one."""
        run = Run(model, split, recipe)
        if checkpoint.exists():
            run.resume(checkpoint)
        with progress(f"{self.what}, {name}") as report:
            return run.fit(checkpoint, report)

    def trained(self, name: str, outcome: Outcome, recipe: Recipe, dim: int) -> None:
        """Add a training to the record."""
        self.trainings.append(
            {
                "name": name,
                "epochs": outcome.epochs,
                "best_epoch": outcome.best_epoch,
                "seconds": outcome.seconds,
                "dim": dim,
                "learning_rate": recipe.learning_rate,
                "decay": recipe.decay,
            }
        )

    def dense_rows(self) -> np.ndarray:
        """Trained dense rows (n, d) float32; sets the model's other weights too.

        They are trained by the recipe on first use, and stored for all cells of this setting and
        seed.

        Raises:
            InputError: the stored ones were trained with other settings or data.
        """
        train = self.split.train
        current = {
            "setting": self.setting.record(),
            "seed": self.seed,
            "train_pairs": [*train.shape, *fingerprint(train)],
        }
        if not self.dense_folder.exists():
            bench = replace(
                self,
                folder=self.dense_folder.with_name(self.dense_folder.name + "-work"),
                what=f"dense {self.setting.protocol} {self.setting.model} seed {self.seed}",
                trainings=[],
                seconds=0.0,
            )
            torch.manual_seed(self.seed)
            table = bench.full(self.dim)
            bench.train(table)
            settings = {**current, "training": bench.trainings[0]}
            arrays = {"table": {"rows": table.weight.detach().numpy()}}
            if bench._weights:
                arrays["others"] = {k: v.numpy() for k, v in bench._weights.items()}
            save_artifact(self.dense_folder, DENSE, settings, arrays)
            shutil.rmtree(bench.folder)
            torch.manual_seed(self.seed)
        stored = load_artifact(self.dense_folder, DENSE)
        cure = "give the same settings, or another output folder"
        check_same(f"{self.dense_folder}: trained with", stored.settings, current, cure)
        others = stored.tensors.get("others", {})
        self._weights = {name: torch.from_numpy(np.array(x)) for name, x in others.items()}
        self.dense_training = stored.settings["training"]
        self.dense_seconds = self.dense_training["seconds"]
        return np.array(stored.tensors["table"]["rows"])

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of a block as training."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def _others(model: MF) -> dict[str, Tensor]:
    """Copy the weights of a model other than its table's."""
    state = model.state_dict().items()
    return {name: x.detach().clone() for name, x in state if not name.startswith("table.")}
