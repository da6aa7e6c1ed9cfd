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
from compressae.tables.bet.searching import CHOICES, KIND, PUBLIC_CHOICES
from recommenders.interactions import Split, fingerprint
from recommenders.models import MF
from recommenders.ranking import judge, rank
from recommenders.sampling import steps_per_epoch
from recommenders.training import Outcome, Recipe, Run, learning_rates, validation_users

#: A table of users and items, and training pairs → a recommender over it.
Make = Callable[[nn.Module, csr_array], MF]
#: Called with (stage, done, in all, details).
Report = Callable[[str, int, int, str], None]
#: The search of the paper, that of BET's public code, and the paper's ablations: choices among
#: actions by chance, and widths that do not follow frequency.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"choices": CHOICES},
    "public": {"choices": PUBLIC_CHOICES, "nearest_by": "embeddings"},
    "random-choice": {"choices": ("random",)},
    "unsorted": {"choices": CHOICES},
}
#: Fitness is the mean of Recall and NDCG at these.
DEPTHS = (5, 10, 20)


@dataclass(frozen=True)
class Settings:
    """Settings of the search.

    Attributes:
        iterations: widths to try.
        candidates: widths to draw for each try.
        tune_epochs: epochs of a masked table before it is judged; 0 judges the mask alone.
        tune_rate: peak learning rate of these epochs.
        retrain: number of the fittest widths to train by the whole recipe.
        start: retraining starts from small random entries, "scratch" (BET), or from the masked full
            table, "dense".
        axes: columns of the full table: "given", unchanged (BET), or "principal", rotated to the
            principal axes of its rows, which changes no dot product.
        std: standard deviation of random entries.
        variant: one of ``VARIANTS``.
    """

    iterations: int = 20
    candidates: int = 100
    tune_epochs: int = 1
    tune_rate: float = 0.03
    retrain: int = 5
    start: Literal["scratch", "dense"] = "scratch"
    axes: Literal["given", "principal"] = "given"
    std: float = 0.1
    variant: str = "paper"

    def __post_init__(self) -> None:
        for name in ("iterations", "candidates", "retrain"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}; expected 1 or more")
        if self.tune_epochs < 0:
            raise InputError(f"tune_epochs {self.tune_epochs}; expected 0 or more")
        for name in ("tune_rate", "std"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} {getattr(self, name)}; expected a positive number")
        for name, known in (
            ("start", ("scratch", "dense")),
            ("axes", ("given", "principal")),
            ("variant", tuple(VARIANTS)),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r}; expected {' or '.join(known)}")

    def check_fits(self, survives_rotation: bool) -> None:
        """Refuse principal axes for a model, such as NCF, whose scores rotated rows change."""
        if not survives_rotation and self.axes == "principal":
            raise InputError(
                "axes 'principal' change the scores of NCF and NGCF; expected 'given' for them"
            )


@dataclass(frozen=True, eq=False)
class Retrained:
    """Widths (n,) after training by the whole recipe; ``quality`` on all validation users."""

    widths: np.ndarray
    outcome: Outcome
    quality: float


@dataclass(frozen=True, eq=False)
class Found:
    """Result of a search.

    Attributes:
        model: of the best retrained widths, its table a ``BudgetedTable``.
        chosen: its widths and retraining.
        retrained: all retrained widths, the fittest first.
        trials: the search's population.
        full_quality: quality of the full table on all validation users.
        seconds: of the search and all retraining.
    """

    model: MF
    chosen: Retrained
    retrained: list[Retrained]
    trials: list[Trial]
    full_quality: float
    seconds: float

    def record(self) -> dict[str, Any]:
        """All but model and widths, as JSON."""
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
    """Rotate rows (n, d) to the axes of their second moments, largest first."""
    exact = rows.double()
    _, axes = torch.linalg.eigh(exact.T @ exact)
    return (exact @ axes.flip(1)).to(rows.dtype)


def full_rows(full: MF, settings: Settings) -> Tensor:
    """Trained rows (n, d) in the axes of the settings."""
    with torch.no_grad():
        rows = full.table.rows().detach()  # type: ignore[operator]
    return principal_axes(rows) if settings.axes == "principal" else rows


def masked(make: Make, full: MF, rows: Tensor, widths: np.ndarray, train: csr_array) -> MF:
    """The full model over rows (n, d) cut to widths (n,), its other parameters copied."""
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
    """The model that retraining starts from: random entries by the recipe's seed, or ``masked``."""
    if settings.start == "dense":
        return masked(make, full, full_rows(full, settings), widths, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return make(BudgetedTable(widths, full.dim, std=settings.std), train)


def tuning_recipe(split: Split, recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe of a try: ``tune_epochs`` with the peak rate ``tune_rate``."""
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
    """Search the best widths within a budget, and train a model over them.

    A try masks the full table, trains it for a few epochs, and takes as fitness the ratio of its
    quality to the full model's. The fittest are retrained; the best of them on all validation users
    wins. Test pairs are not read.

    Args:
        split: with validation pairs.
        make: makes the recommender of a table; its other parameters start as in ``full``, except
            when retraining starts from scratch.
        full: trained, over a table of n = n_users + n_items rows of d entries.
        entries: the budget; n at least.
        recipe: of retraining and, apart from epochs and learning rate, of each try; its seed is
            also that of the search, its ``check_users`` judge a try.
        folder: an existing folder for checkpoints ``search`` and ``retrain-*``; older ones are
            removed unless resumed.
        report: called after every try and every epoch of retraining.
        settings: see ``Settings``.
        resume: go on from the checkpoints.

    Raises:
        InputError: no validation pair, a budget below one entry a row, principal axes for NCF,
            checkpoints of other settings or data, or a folder that cannot be written.
    """
    settings = settings or Settings()
    if not split.valid.nnz:
        raise InputError("no validation pair; expected some to search by: hold out a share")
    settings.check_fits(full.survives_rotation)
    check_destination(folder / "search", KIND)
    rows = full_rows(full, settings)
    frequencies = np.concatenate([split.train.sum(axis=axis) for axis in (1, 0)])
    by_frequency = settings.variant != "unsorted"
    sampler = ActionSampler(frequencies, split.train.shape, full.dim, entries, by_frequency)
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
    # A checkpoint also serves searches of more iterations or more retrained widths.
    varying = ("iterations", "retrain")
    context = {
        "model": type(full).__name__,
        "full_rows": zlib.crc32(np.ascontiguousarray(rows.numpy()).tobytes()),
        **{f"recipe_{name}": value for name, value in asdict(recipe).items()},
        **{k: v for k, v in asdict(settings).items() if k not in varying},
        **pairs,
    }
    variant = VARIANTS[settings.variant]
    search = WidthSearch(
        sampler, fitness, recipe.seed, settings.candidates, context=context, **variant
    )
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
    validated = np.flatnonzero(np.diff(split.valid.indptr))
    for place, trial in enumerate(search.best(settings.retrain)):
        model = begun(make, full, trial.widths, split.train, recipe, settings)
        run = Run(model, split, recipe)
        checkpoint = _checkpoint(folder, "retrain", trial.widths)
        if checkpoint.exists():
            run.resume(checkpoint)
        stage = f"retrain {place + 1} of {settings.retrain}"
        outcome = run.fit(checkpoint, lambda *now: tell(stage, *now))
        done = Retrained(trial.widths, outcome, quality(run.model, split, validated))
        retrained.append(done)
        seconds += outcome.seconds
        if best is None or done.quality > best[1].quality:
            best = run.model, done
    assert best is not None
    return Found(*best, retrained, trials, quality(full, split, validated), seconds)


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
    """Train the chosen widths once more, on training and validation pairs together.

    It trains for the best number of epochs found before; arguments and checkpoints are those of
    ``search_and_retrain``.
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
    """A checkpoint named by its widths: a longer search may retrain others."""
    return folder / f"{stage}-{zlib.crc32(widths.tobytes()):08x}"
