"""Train a click model: Adagrad or AMSGrad, early stopping on the validation log loss."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clicks.examples import Examples
from clicks.metrics import auc, log_loss
from clicks.models import ClickModel
from compressae.retrieval.errors import InputError

#: Called with (steps done, steps in all, details).
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        optimizer: "adagrad", or "amsgrad" (Adam with the maximum of second moments).
        learning_rate: None: 0.01 for Adagrad and 0.001 for AMSGrad, torch's own, as the paper.
        epochs: at most.
        batch: examples a step.
        checks: validations an epoch.
        patience: validations without a lower log loss before training stops.
        seed: of the order of examples.
    """

    optimizer: Literal["adagrad", "amsgrad"] = "adagrad"
    learning_rate: float | None = None
    epochs: int = 2
    batch: int = 128
    checks: int = 4
    patience: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in ("adagrad", "amsgrad"):
            raise InputError(f"optimizer {self.optimizer!r}; expected adagrad or amsgrad")
        for name in ("epochs", "batch", "checks", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}; expected 1 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning rate {self.learning_rate}; expected a positive number")

    @property
    def rate(self) -> float:
        """The learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.01 if self.optimizer == "adagrad" else 0.001


@dataclass
class Outcome:
    """What training came to.

    Attributes:
        curve: (steps, training log loss since the point before, validation log loss).
        steps: of the model that is kept.
        seconds: of training, without validations.
    """

    curve: list[tuple[int, float, float]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Quality:
    """Log loss in nats, and area under the ROC curve."""

    log_loss: float
    auc: float


def fit(
    model: ClickModel,
    examples: Examples,
    recipe: Recipe,
    report: Report | None = None,
    starts_trained: bool = False,
    autocast: bool = False,
) -> Outcome:
    """Train in place; the model is then that of the least validation log loss.

    Args:
        model: a method ``after_step(step, steps, rate)`` of its tables is called after each update.
        starts_trained: the model as it comes may be the best.
        autocast: train in mixed precision, products in bfloat16; parameters stay as they are.

    Raises:
        InputError: the loss is no longer finite.
    """
    optimizer = _optimizer(model, recipe)
    outcome, losses = Outcome(), []
    best, kept, worse = float("inf"), copy.deepcopy(model.state_dict()), 0
    if starts_trained:
        best = evaluate(model, examples, "valid").log_loss
    an_epoch = -(-len(examples.parts["train"]) // recipe.batch)
    every = -(-an_epoch // recipe.checks)
    last = recipe.epochs * an_epoch
    hooks = [table.after_step for table in model.tables.values() if hasattr(table, "after_step")]
    started = time.perf_counter()
    for step, indices in enumerate(_order(examples, recipe), 1):
        batch = examples.batch(indices)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(batch).float()
        loss = functional.binary_cross_entropy_with_logits(logits, batch.labels)
        loss.backward()
        optimizer.step()
        for after_step in hooks:
            after_step(step, last, recipe.rate)
        losses.append(loss.detach())
        if step % every and step < last:
            continue
        outcome.seconds += time.perf_counter() - started
        training = float(torch.stack(losses).mean())
        if not np.isfinite(training):
            raise InputError(
                f"loss {training} at step {step}: training diverged at learning rate "
                f"{recipe.rate}; choose a lower one"
            )
        losses = []
        valid = evaluate(model, examples, "valid").log_loss
        outcome.curve.append((step, training, valid))
        if valid < best:
            best, worse, outcome.steps = valid, 0, step
            kept = copy.deepcopy(model.state_dict())
        else:
            worse += 1
        if report is not None:
            report(step, last, f"loss {training:.4f}, validation {valid:.4f}")
        if worse >= recipe.patience:
            break
        started = time.perf_counter()
    model.load_state_dict(kept)
    return outcome


def evaluate(model: ClickModel, examples: Examples, part: str) -> Quality:
    """Judge a model on a part of the examples."""
    probabilities = predict(model, examples, examples.parts[part])
    labels = examples.labels[examples.parts[part]]
    return Quality(log_loss(probabilities, labels), auc(probabilities, labels))


@torch.no_grad()
def predict(model: ClickModel, examples: Examples, indices: np.ndarray) -> np.ndarray:
    """Probabilities (m,) of examples (m,)."""
    training = model.training
    model.eval()
    blocks: list[Tensor] = [
        model(examples.batch(indices[start : start + 8192])).double().sigmoid()
        for start in range(0, len(indices), 8192)
    ]
    model.train(training)
    return torch.cat(blocks).numpy()


def _order(examples: Examples, recipe: Recipe) -> Iterator[np.ndarray]:
    """Indices of each step's examples."""
    train = examples.parts["train"]
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([recipe.seed, epoch]).permutation(train)
        for start in range(0, len(order), recipe.batch):
            yield order[start : start + recipe.batch]


def _optimizer(model: ClickModel, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "amsgrad":
        return torch.optim.Adam(parameters, recipe.rate, amsgrad=True)
    return torch.optim.Adagrad(parameters, recipe.rate)
