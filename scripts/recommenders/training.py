"""Train a recommender: early stopping, a validation curve, checkpoints."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.training.checkpoint import adam_arrays, check_same, load_adam
from recommenders.interactions import Split, fingerprint
from recommenders.losses import bpr, sampled_softmax
from recommenders.models import MF
from recommenders.ranking import evaluate
from recommenders.sampling import NegativeSampler, pair_batches, steps_per_epoch, user_batches

KIND = "recommender checkpoint"
#: Called with (epochs done, epochs in all, details).
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        loss: "softmax", sampled softmax over candidates shared by a batch of users, or "bpr", with
            one negative a pair.
        epochs: at most; the learning rate falls linearly to 2 %.
        batch: training pairs a step; with "softmax" on average, since whole users are drawn.
        learning_rate: peak of AdamW, after 20 steps of warm-up.
        candidates: items that "softmax" draws a step; all when there are fewer.
        temperature: "softmax" divides scores by it.
        user_power: p pairs of a user weigh p^−user_power each ("softmax").
        decay: weight decay of AdamW; the default is for "softmax" with unit users, use 0 for "bpr".
        l2: weight of the squared rows of a batch in "bpr".
        check_every: epochs between validations.
        patience: validations without a better NDCG before training stops.
        check_users: users to validate on at most, drawn by the seed; 0 for all.
        seed: of batches, negatives and the users above, not of the table.
    """

    loss: Literal["softmax", "bpr"] = "softmax"
    epochs: int = 28
    batch: int = 1 << 16
    learning_rate: float = 0.03
    candidates: int = 8192
    temperature: float = 0.07
    user_power: float = 0.5
    decay: float = 1.5
    l2: float = 0.0
    check_every: int = 4
    patience: int = 3
    check_users: int = 6000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in ("softmax", "bpr"):
            raise InputError(f"loss {self.loss!r}; expected 'softmax' or 'bpr'")
        for name in ("epochs", "batch", "candidates", "check_every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}; expected 1 or more")
        for name in ("learning_rate", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} {getattr(self, name)}; expected a positive number")
        for name in ("user_power", "decay", "l2", "check_users", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} {getattr(self, name)}; expected 0 or more")

    def narrow_decay(self, share: float) -> float:
        """Decay for rows with this share of the dense rows' entries.

        Decay bounds entries, so a row's length grows with the root of their number: with the dense
        rows' decay, narrow rows would be too short for the temperature.
        """
        return float(self.decay * share**0.5)


def recipe_for(
    model: str,
    loss: Literal["softmax", "bpr"] | None = None,
    decay: float | None = None,
    **settings: Any,
) -> Recipe:
    """The recipe for one of ``models.MODELS``, with its default loss and decay.

    NCF's scores are no dot products: a block costs two layers a pair, so its loss is "bpr".
    """
    loss = loss or ("bpr" if model == "ncf" else "softmax")
    if decay is None:
        decay = Recipe.decay if loss == "softmax" else 0.0
    return Recipe(loss, decay=decay, **settings)


def learning_rates(steps: int) -> np.ndarray:
    """Learning rate schedule (steps,) as a share of the peak: 20 steps up, then down to 2 %."""
    step = np.arange(steps)
    return np.minimum((step + 1) / 20, np.maximum(0.02, 1 - step / steps))


def validation_users(split: Split, recipe: Recipe) -> np.ndarray:
    """Users (u,) int64 with validation pairs, ascending, at most ``recipe.check_users``."""
    users = np.flatnonzero(np.diff(split.valid.indptr))
    if 0 < recipe.check_users < len(users):
        rng = np.random.default_rng([recipe.seed, 0])
        users = np.sort(rng.choice(users, recipe.check_users, replace=False))
    return users


@dataclass(frozen=True)
class Point:
    """One validation; ``seconds`` of training so far, without validations and checkpoints."""

    epoch: int
    seconds: float
    loss: float
    recall: float
    ndcg: float


@dataclass
class Outcome:
    """Result of ``fit`` so far; without validation the best epoch is the last."""

    curve: list[Point] = field(default_factory=list)
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0


class Run:
    """One training: a model, the pairs, a recipe, and the state between epochs.

    Args:
        model: trained in place. A method ``after_step(step, steps, rate)`` of its table is called
            after each update: updates so far and in all, and the learning rate.
        split: ``valid``, if it has pairs, decides when to stop and which epoch is kept. ``test`` is
            not read.
        recipe: settings.

    Attributes:
        outcome: the result so far.
        checked_users: ids (u,) of the users to validate on.
    """

    def __init__(self, model: MF, split: Split, recipe: Recipe) -> None:
        self.model, self.split, self.recipe = model, split, recipe
        self.outcome = Outcome()
        self._best = copy.deepcopy(model.state_dict())
        self._adam = torch.optim.AdamW(
            model.parameters(), recipe.learning_rate, weight_decay=recipe.decay, fused=True
        )
        self._losses: Callable[[np.random.Generator], Iterator[Tensor]] = self._softmax
        if recipe.loss == "bpr":
            self._losses = partial(self._bpr, NegativeSampler(split.train))
        self._steps = steps_per_epoch(split.train, recipe.batch, recipe.loss == "softmax")
        self.checked_users = validation_users(split, recipe)

    def fit(
        self,
        checkpoint: str | Path | None = None,
        report: Report | None = None,
        stop_after: int | None = None,
    ) -> Outcome:
        """Train to the recipe's end, or stop early by validation.

        The model is then that of the best epoch; to go on, ``resume`` a checkpoint.

        Args:
            checkpoint: folder, written after every epoch.
            report: called after every epoch.
            stop_after: epochs to stop after, with the learning rates of the whole recipe.

        Raises:
            InputError: the loss is no longer finite, or the checkpoint cannot be written.
        """
        outcome, recipe, details = self.outcome, self.recipe, ""
        end = min(recipe.epochs, stop_after or recipe.epochs)
        while outcome.epochs < end and not self._is_over():
            started = time.perf_counter()
            loss = self._epoch()
            outcome.epochs += 1
            outcome.seconds += time.perf_counter() - started
            last = outcome.epochs == recipe.epochs
            if len(self.checked_users) and (last or outcome.epochs % recipe.check_every == 0):
                details = self._validate(loss)
            if checkpoint is not None:
                self.save(checkpoint)
            if report is not None:
                report(outcome.epochs, end, f"loss {loss:.4f} {details}")
        if outcome.curve:
            self.model.load_state_dict(self._best)
        else:
            outcome.best_epoch = outcome.epochs
        return outcome

    def _epoch(self) -> float:
        """Train for one epoch; returns the mean loss."""
        recipe = self.recipe
        # One generator an epoch: a checkpoint needs no generator state.
        rng = np.random.default_rng([recipe.seed, 1 + self.outcome.epochs])
        step, losses = self.outcome.epochs * self._steps, []
        rates = recipe.learning_rate * learning_rates(self._steps * recipe.epochs)
        after_step = getattr(self.model.table, "after_step", None)
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed << 20 | self.outcome.epochs)  # Of dropout.
            for loss in self._losses(rng):
                self._adam.param_groups[0]["lr"] = float(rates[step])
                self._adam.zero_grad()
                loss.backward()
                self._adam.step()
                losses.append(float(loss.detach()))
                if not np.isfinite(losses[-1]):
                    raise InputError(
                        f"loss {losses[-1]} in step {step + 1}: training diverged at learning "
                        f"rate {recipe.learning_rate}; choose a lower one"
                    )
                step += 1
                if after_step is not None:
                    after_step(step, len(rates), float(rates[step - 1]))
        self.model.eval()
        return float(np.mean(losses))

    def _softmax(self, rng: np.random.Generator) -> Iterator[Tensor]:
        recipe, model, train = self.recipe, self.model, self.split.train
        count = min(recipe.candidates, model.n_items)
        for users, rows, items in user_batches(train, recipe.batch, rng):
            drawn = np.sort(rng.choice(model.n_items, count, replace=False))
            yield sampled_softmax(
                model, users, rows, items, drawn, recipe.temperature, recipe.user_power
            )

    def _bpr(self, negatives: NegativeSampler, rng: np.random.Generator) -> Iterator[Tensor]:
        for users, items in pair_batches(self.split.train, self.recipe.batch, rng):
            yield bpr(self.model, users, items, negatives.draw(users, rng), self.recipe.l2)

    def _validate(self, loss: float) -> str:
        outcome, split = self.outcome, self.split
        found = evaluate(self.model.scorer(), split.valid, split.train, users=self.checked_users)
        best = max((point.ndcg for point in outcome.curve), default=-1.0)
        outcome.curve.append(Point(outcome.epochs, outcome.seconds, loss, found.recall, found.ndcg))
        if found.ndcg > best:
            outcome.best_epoch = outcome.epochs
            self._best = copy.deepcopy(self.model.state_dict())
        return f"recall {found.recall:.4f} NDCG {found.ndcg:.4f}"

    def _is_over(self) -> bool:
        """Whether ``patience`` validations brought no gain."""
        curve = self.outcome.curve
        since = sum(point.epoch > self.outcome.best_epoch for point in curve)
        return bool(curve) and since >= self.recipe.patience

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, replacing an older one."""
        outcome = asdict(self.outcome)
        settings = {"recipe": asdict(self.recipe), "outcome": outcome, **self._shape()}
        arrays = {
            group: {name: np.atleast_1d(x.detach().numpy()) for name, x in tensors.items()}
            for group, tensors in (("model", self.model.state_dict()), ("best", self._best))
        }
        save_artifact(path, KIND, settings, {**arrays, "adam": adam_arrays(self._adam)})

    def resume(self, path: str | Path) -> None:
        """Load a checkpoint, so that ``fit`` continues bit for bit.

        Raises:
            InputError: no whole checkpoint there, or one of another model, recipe or data.
        """
        artifact = load_artifact(path, KIND)
        saved = {**artifact.settings["recipe"], **artifact.settings}
        current = {**asdict(self.recipe), **self._shape()}
        cure = "resume with the settings and data it was made with, or start again"
        check_same(f"{path}: checkpoint of", saved, current, cure)
        # Scalars were written as arrays of one entry.
        now = self.model.state_dict()
        model, self._best = (
            {
                name: torch.from_numpy(np.array(array)).reshape(now[name].shape)
                for name, array in artifact.tensors[group].items()
            }
            for group in ("model", "best")
        )
        self.model.load_state_dict(model)
        load_adam(self._adam, artifact.tensors["adam"])
        outcome = dict(artifact.settings["outcome"])
        self.outcome = Outcome(**{**outcome, "curve": [Point(**p) for p in outcome["curve"]]})

    def _shape(self) -> dict[str, Any]:
        """Settings and data that a checkpoint must share with the run that resumes it."""
        train, valid = self.split.train, self.split.valid
        return {
            "model": type(self.model).__name__,
            "unit": self.model.unit,
            "layers": getattr(self.model, "layers", 0),
            "dropout": list(getattr(self.model, "dropout", (0.0, 0.0))),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "train_pairs": fingerprint(train),
            "valid_pairs": fingerprint(valid),
        }
