"""BET (arXiv 2310.14884) for a recommender: search widths on validation pairs, retrain the best."""

import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import check_destination
from compressae.tables import ActionSampler, BudgetedTable, Trial, WidthSearch
from compressae.tables.bet.searching import KIND
from recommenders.interactions import Split, fingerprint
from recommenders.models import MF, NCF
from recommenders.ranking import judge, rank
from recommenders.sampling import steps_per_epoch
from recommenders.training import Outcome, Recipe, Run, learning_rates, validation_users

#: A table of users and items, and training pairs → a recommender over it.
Make = Callable[[nn.Module, csr_array], MF]
#: Called with (stage, done, in all, what to tell).
Report = Callable[[str, int, int, str], None]
#: Fitness is the mean of Recall and NDCG at these.
DEPTHS = (5, 10, 20)


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        iterations: widths that are tried.
        candidates: widths that are drawn for each try.
        tune_epochs: of a masked table before it is judged; 0 judges the mask alone.
        tune_rate: the highest learning rate that a step of these takes, however few they are.
        retrain: the fittest of the tried widths that are trained by the whole recipe.
        start: "scratch", retraining begins with small random entries (BET); or "dense", with what
            the widths leave of the full table.
        axes: "given", the columns of the full table as they are (BET); or "principal", rotated
            to the principal axes of its rows, so that prefixes hold the most. Dot products do not
            change by it.
        std: of random entries.
    """

    iterations: int = 20
    candidates: int = 100
    tune_epochs: int = 1
    tune_rate: float = 0.03
    retrain: int = 5
    start: Literal["scratch", "dense"] = "scratch"
    axes: Literal["given", "principal"] = "given"
    std: float = 0.1

    def __post_init__(self) -> None:
        for name in ("iterations", "candidates", "retrain"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}; expected 1 or more")
        if self.tune_epochs < 0:
            raise InputError(f"tune_epochs {self.tune_epochs}; expected 0 or more")
        for name in ("tune_rate", "std"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} {getattr(self, name)}; expected a positive number")
        for name, known in (("start", ("scratch", "dense")), ("axes", ("given", "principal"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r}; expected {' or '.join(known)}")

    def check_fits(self, ncf: bool) -> None:
        """Refuse principal axes for NCF: its scores are no dot products of rows."""
        if ncf and self.axes == "principal":
            raise InputError("axes 'principal' change the scores of NCF; expected 'given' for it")


@dataclass(frozen=True, eq=False)
class Retrained:
    """Widths (n,) after training by the whole recipe; ``quality`` on all validation users."""

    widths: np.ndarray
    outcome: Outcome
    quality: float


@dataclass(frozen=True, eq=False)
class Found:
    """What was chosen, the trained model, and how it came about.

    Attributes:
        model: of the best retrained widths, its table a ``BudgetedTable``.
        chosen: the same as it was retrained.
        retrained: all that were, the fittest first.
        trials: the search's population.
        full_quality: of the full table, on all validation users.
        seconds: of the search and all retraining.
    """

    model: MF
    chosen: Retrained
    retrained: list[Retrained]
    trials: list[Trial]
    full_quality: float
    seconds: float

    def record(self) -> dict[str, Any]:
        """All but the model and the widths, for a JSON file."""
        trials = [
            {"drawn": t.drawn, "choice": t.choice, "fitness": t.fitness, "seconds": t.seconds}
            for t in self.trials
        ]
        places = [
            next(i for i, t in enumerate(self.trials) if np.array_equal(t.widths, r.widths))
            for r in self.retrained
        ]
        retrained = [
            {"trial": place, "quality": r.quality, **asdict(r.outcome)}
            for place, r in zip(places, self.retrained, strict=True)
        ]
        chosen = places[self.retrained.index(self.chosen)]
        return {
            "full_quality": self.full_quality,
            "trials": trials,
            "retrained": retrained,
            "chosen": chosen,
            "seconds": self.seconds,
        }


def quality(model: MF, split: Split, users: np.ndarray) -> float:
    """Mean of Recall@K and NDCG@K of users (u,) on the validation pairs, K = 5, 10 and 20."""
    top = rank(model.scorer(), users, split.train, max(DEPTHS))
    judged = [judge(top[:, :K], users, split.valid) for K in DEPTHS]
    return float(np.mean([[found.recall, found.ndcg] for found in judged]))


def principal_axes(rows: Tensor) -> Tensor:
    """Rows (n, d) in the axes of their second moments, the largest first; products are kept."""
    exact = rows.double()
    _, axes = torch.linalg.eigh(exact.T @ exact)
    return (exact @ axes.flip(1)).to(rows.dtype)


def full_rows(full: MF, settings: Settings) -> Tensor:
    """The trained rows (n, d) that are masked, in the axes of the settings."""
    with torch.no_grad():
        rows = full.table.rows().detach()  # type: ignore[operator]
    return principal_axes(rows) if settings.axes == "principal" else rows


def masked(make: Make, full: MF, rows: Tensor, widths: np.ndarray, train: csr_array) -> MF:
    """The full model over what widths (n,) leave of rows (n, d), its other parameters copied."""
    model = make(BudgetedTable.from_dense(rows, widths), train)
    others = {k: v for k, v in full.state_dict().items() if not k.startswith("table.")}
    model.load_state_dict({**model.state_dict(), **others})
    return model


def begun(
    make: Make,
    full: MF,
    widths: np.ndarray,
    train: csr_array,
    recipe: Recipe,
    settings: Settings,
) -> MF:
    """What retraining starts from: random entries by the recipe's seed, or ``masked``."""
    if settings.start == "dense":
        return masked(make, full, full_rows(full, settings), widths, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return make(BudgetedTable(widths, full.dim, std=settings.std), train)


def tuning_recipe(split: Split, recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe of a try: few epochs, whose largest step has the rate of the settings."""
    epochs = max(1, settings.tune_epochs)
    steps = epochs * steps_per_epoch(split.train, recipe.batch, recipe.loss == "softmax")
    rate = settings.tune_rate / learning_rates(steps).max()
    return replace(recipe, epochs=epochs, learning_rate=float(rate))


def search_and_retrain(
    split: Split,
    make: Make,
    full: MF,
    entries: int,
    recipe: Recipe,
    folder: Path,
    report: Report | None = None,
    settings: Settings | None = None,
    resume: bool = False,
) -> Found:
    """The best widths of a budget for a trained full model, and the model trained over them.

    Each try masks the full table, trains it for a few epochs and takes as fitness its quality over
    the full model's. The fittest are retrained; the best of them on all validation users wins.
    Test pairs are not looked at.

    Args:
        split: with validation pairs.
        make: the recommender of a table; what else it learns starts as in ``full``, except when
            retraining starts from scratch.
        full: trained, over a table of n = n_users + n_items rows of d entries.
        entries: the budget; n at least.
        recipe: of retraining, and but for epochs and learning rate of each try; its seed is that
            of the search, and ``check_users`` are judged in a try.
        folder: exists; gets checkpoints ``search`` and ``retrain-*``; older ones are removed
            unless they are resumed.
        report: called after every try and every epoch of retraining.
        settings: see ``Settings``.
        resume: go on from the checkpoints that are there.

    Raises:
        InputError: no validation pair, a budget below one entry a row, principal axes for NCF,
            checkpoints of other settings or data, or a folder that cannot be written.
    """
    settings = settings or Settings()
    if not split.valid.nnz:
        raise InputError("no validation pair; expected some to search by: hold out a share")
    settings.check_fits(isinstance(full, NCF))
    check_destination(folder / "search", KIND)
    rows = full_rows(full, settings)
    frequencies = np.concatenate([split.train.sum(axis=axis) for axis in (1, 0)])
    sampler = ActionSampler(frequencies, split.train.shape, full.dim, entries)
    users = validation_users(split, recipe)
    reference = quality(full, split, users)
    if reference == 0:
        raise InputError("the full model finds no validation pair; expected a trained one")
    tries = split.without_validation()
    tuning = tuning_recipe(split, recipe, settings)

    def fitness(widths: np.ndarray) -> float:
        model = masked(make, full, rows, widths, split.train)
        if settings.tune_epochs:
            Run(model, tries, tuning).fit()
        return quality(model, split, users) / reference

    pairs = {
        name: fingerprint(part)
        for name, part in (("train_pairs", split.train), ("valid_pairs", split.valid))
    }
    # More iterations, or more retrained, are no other search: a checkpoint serves those too.
    kept = {k: v for k, v in asdict(settings).items() if k not in ("iterations", "retrain")}
    context = {
        "model": type(full).__name__,
        "full_rows": zlib.crc32(np.ascontiguousarray(rows.numpy()).tobytes()),
        **{f"recipe_{name}": value for name, value in asdict(recipe).items()},
        **kept,
        **pairs,
    }
    search = WidthSearch(sampler, fitness, recipe.seed, settings.candidates, context=context)
    if resume and (folder / "search").exists():
        search.resume(folder / "search")
    else:
        for stale in folder.glob("retrain-*"):
            shutil.rmtree(stale)
    tell = report or (lambda stage, done, total, details: None)
    trials = search.run(settings.iterations, folder / "search", lambda *now: tell("search", *now))
    seconds = sum(trial.seconds for trial in trials)

    best: tuple[MF, Retrained] | None = None
    retrained = []
    everybody = np.flatnonzero(np.diff(split.valid.indptr))
    for place, trial in enumerate(search.best(settings.retrain)):
        model = begun(make, full, trial.widths, split.train, recipe, settings)
        run = Run(model, split, recipe)
        checkpoint = _checkpoint(folder, "retrain", trial.widths)
        if checkpoint.exists():
            run.resume(checkpoint)
        stage = f"retrain {place + 1} of {settings.retrain}"
        outcome = run.fit(checkpoint, lambda *now: tell(stage, *now))
        done = Retrained(trial.widths, outcome, quality(run.model, split, everybody))
        retrained.append(done)
        seconds += outcome.seconds
        if best is None or done.quality > best[1].quality:
            best = run.model, done
    assert best is not None
    return Found(*best, retrained, trials, quality(full, split, everybody), seconds)


def refit(
    split: Split,
    make: Make,
    full: MF,
    found: Found,
    recipe: Recipe,
    folder: Path,
    report: Report | None = None,
    settings: Settings | None = None,
) -> tuple[MF, Outcome]:
    """The chosen widths trained once more, with the validation pairs given back to training.

    For as many epochs as were best before; the arguments are those of ``search_and_retrain``, and
    so is what a checkpoint in the folder goes on from.
    """
    whole, widths = split.whole(), found.chosen.widths
    model = begun(make, full, widths, whole.train, recipe, settings or Settings())
    run = Run(model, whole, recipe)
    checkpoint = _checkpoint(folder, "retrain-whole", widths)
    if checkpoint.exists():
        run.resume(checkpoint)
    tell = report or (lambda stage, done, total, details: None)
    told = partial(tell, "retrain on all pairs")
    return model, run.fit(checkpoint, told, found.chosen.outcome.best_epoch)


def _checkpoint(folder: Path, stage: str, widths: np.ndarray) -> Path:
    """Named by the widths, so that none is taken up for others after a longer search."""
    return folder / f"{stage}-{zlib.crc32(widths.tobytes()):08x}"
