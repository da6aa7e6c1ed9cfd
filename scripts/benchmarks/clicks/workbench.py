"""The workbench of a cell: examples, settings, and the full model that some methods start from."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clicks.examples import Examples
from clicks.models import ClickModel, click_model
from clicks.training import Outcome, Recipe, fit
from safetensors.torch import load_file, save_file

from compressae.cli.progress import progress
from compressae.tables import TableCollection

#: Above this many rows a dense gradient of a feature costs more than a sparse one.
_SPARSE_ROWS = 200_000


@dataclass(frozen=True)
class Setting:
    """Settings that all cells of a data set, model and optimiser share.

    Attributes:
        model: one of ``clicks.models.MODELS``.
        dim: d of all tables.
        std: standard deviation of a row's initial entries.
        small: small hidden layers.
        recipe: its seed is ignored.
    """

    model: str
    dim: int
    std: float
    small: bool
    recipe: Recipe


@dataclass
class Workbench:
    """The argument of a method.

    Attributes:
        examples: the data set.
        setting: see ``Setting``.
        seed: of tables, layers and order of examples.
        folder: of the trained full models.
        full_seconds: seconds of training the full model, if it was used.
    """

    examples: Examples
    setting: Setting
    seed: int
    folder: Path
    full_seconds: float = 0.0

    @property
    def recipe(self) -> Recipe:
        """The recipe with this seed."""
        return replace(self.setting.recipe, seed=self.seed)

    @cached_property
    def frequencies(self) -> dict[str, np.ndarray]:
        """Uses of each id in training; 1 more, so that none is 0."""
        return {name: counts + 1.0 for name, counts in self.examples.frequencies().items()}

    def budget(self, collisions: int) -> int:
        """Bytes of products of quotients and remainders of so many collisions."""
        rule: dict[str, Any] = dict(collisions=collisions, device="meta")
        return TableCollection(self.examples.rows, self.setting.dim, **rule).nbytes

    def collection(self, kind: Any, **rule: Any) -> TableCollection:
        """Tables of all features by one rule."""
        rows = self.examples.rows
        large = max(rows.values()) > _SPARSE_ROWS
        sparse = large and kind != "path" and self.recipe.optimizer == "adagrad"
        settings: dict[str, Any] = dict(std=self.setting.std, sparse=sparse, mode="mean")
        return TableCollection(rows, self.setting.dim, kind, **rule, **settings)

    def model(self, tables: TableCollection) -> ClickModel:
        """An initial model over tables."""
        dense = self.examples.dense.shape[1]
        return click_model(self.setting.model, tables, dense, self.setting.small)

    def model_of_trained(self, tables: TableCollection) -> ClickModel:
        """The full model with other tables."""
        model = self.model(tables)
        state = self.full_model().state_dict().items()
        layers = {name: x for name, x in state if not name.startswith("tables.")}
        model.load_state_dict(layers, strict=False)
        return model

    def train(self, model: ClickModel, what: str, **settings: bool) -> Outcome:
        """Train in place; settings are those of ``fit``."""
        with progress(what) as report:
            return fit(model, self.examples, self.recipe, report, **settings)

    @property
    def _full_path(self) -> Path:
        names = self.examples.name, self.setting.model, self.recipe.optimizer, str(self.seed)
        return self.folder / f"{'-'.join(names)}.safetensors"

    def keep_full(self, model: ClickModel, seconds: float) -> None:
        """Store the trained full model for the methods that start from it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {name: x.contiguous() for name, x in model.state_dict().items()}
        state["seconds"] = torch.tensor(seconds)
        temporary = self._full_path.with_suffix(".part")
        save_file(state, temporary)
        temporary.replace(self._full_path)

    def full_model(self) -> ClickModel:
        """The trained full model; trained and stored at the first call."""
        torch.manual_seed(self.seed)
        model = self.model(self.collection("full"))
        if not self._full_path.exists():
            outcome = self.train(model, "full model")
            self.keep_full(model, outcome.seconds)
        state = load_file(self._full_path)
        self.full_seconds = float(state.pop("seconds"))
        model.load_state_dict(state)
        return model
