"""BET's search for good widths under a budget: draw, choose, evaluate, learn, repeat."""

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.tables.bet.actions import Action, ActionSampler
from compressae.tables.bet.predictor import FitnessPredictor, Sets
from compressae.training.checkpoint import adam_arrays, check_same, load_adam

KIND = "width search"
Choice = Literal["greedy", "random", "nearest"]
#: Choice of iteration t, by t mod 5: the paper's, and that of BET's public code.
CHOICES: tuple[Choice, ...] = ("greedy", "greedy", "greedy", "random", "nearest")
PUBLIC_CHOICES: tuple[Choice, ...] = ("greedy", "greedy", "greedy", "nearest", "random")
#: Of the predictor.
LEARNING_RATE = 3e-3


@dataclass(frozen=True, eq=False)
class Trial:
    """Evaluated widths (n,) int64; ``drawn`` as in ``Action``, ``seconds`` of the evaluation."""

    widths: np.ndarray
    drawn: list[dict[str, Any]]
    choice: str
    fitness: float
    seconds: float


class WidthSearch:
    """BET's search (arXiv 2310.14884, algorithm 1): a population of trials and a predictor.

    Iteration t draws ``candidates`` actions and evaluates one: the one of the highest predicted
    fitness (t mod 5 = 0, 1, 2), a random one (3), or the one nearest to the best so far (4). Then
    the predictor takes ``updates`` steps of Adam on the mean squared error over at most 64 trials.
    All random numbers of iteration t follow from (seed, t).

    BET's public code is ``choices=PUBLIC_CHOICES, nearest_by="embeddings"``, but for one: it keeps
    the embedding that the best had when it was tried, here the current predictor embeds both.

    Args:
        sampler: of actions.
        fitness: function of widths (n,); higher is better.
        seed: of all random numbers of the search.
        candidates: actions drawn an iteration.
        updates: steps of the predictor an iteration.
        context: other settings of the fitness, as JSON; ``resume`` refuses a checkpoint of others.
        choices: cycle of choices; ("random",) is BET's ablation without a predictor.
        nearest_by: distance of "nearest": Σ |w − w'| of the widths, or the Euclidean one of the
            predictor's embeddings.

    Attributes:
        trials: in order of evaluation.
        predictor: fitted to the trials.

    Raises:
        InputError: candidates below 1, a negative number of updates or seed, or choices that are
            unknown, none, or "nearest" before any trial.

    >>> frequencies = np.arange(1, 31)
    >>> sampler = ActionSampler(frequencies, groups=(10, 20), d_max=8, entries=90)
    >>> search = WidthSearch(sampler, lambda widths: float(frequencies @ np.sqrt(widths)))
    >>> [trial.choice for trial in search.run(iterations=5)]
    ['greedy', 'greedy', 'greedy', 'random', 'nearest']
    >>> int(search.best(1)[0].widths.sum())
    90
    """

    def __init__(
        self,
        sampler: ActionSampler,
        fitness: Callable[[np.ndarray], float],
        seed: int = 0,
        candidates: int = 100,
        updates: int = 60,
        context: dict[str, Any] | None = None,
        choices: Sequence[Choice] = CHOICES,
        nearest_by: Literal["widths", "embeddings"] = "widths",
    ) -> None:
        if candidates < 1 or updates < 0 or seed < 0:
            raise InputError(
                f"{candidates} candidates, {updates} updates, seed {seed}: expected 1 candidate "
                "or more, and no negative number"
            )
        if not choices or choices[0] == "nearest" or {*choices} - {*CHOICES}:
            raise InputError(
                f"choices {', '.join(choices) or 'none'}: expected some of greedy, random and "
                "nearest, the first not nearest"
            )
        if nearest_by not in ("widths", "embeddings"):
            raise InputError(f"nearest_by {nearest_by!r}: expected 'widths' or 'embeddings'")
        self.sampler, self.fitness = sampler, fitness
        self.choices, self.nearest_by = tuple(choices), nearest_by
        self.seed, self.candidates, self.updates = seed, candidates, updates
        self.context = json.loads(json.dumps(context or {}))  # As a checkpoint returns it.
        self.trials: list[Trial] = []
        self._inputs: list[Sets] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.predictor = FitnessPredictor(sampler.frequencies, sampler.d_max)
        self._adam = torch.optim.Adam(self.predictor.parameters(), LEARNING_RATE)

    def run(
        self,
        iterations: int,
        checkpoint: str | Path | None = None,
        report: Callable[[int, int, str], None] | None = None,
    ) -> list[Trial]:
        """Search until there are ``iterations`` trials; return all of them.

        Args:
            iterations: trials in all, those of a resumed checkpoint included.
            checkpoint: a folder to write after every trial.
            report: called after every trial with (trials, iterations, a line of text).

        Raises:
            InputError: a fitness that is not finite, or a checkpoint that cannot be written.
        """
        while len(self.trials) < iterations:
            trial = self._iterate(len(self.trials))
            if checkpoint is not None:
                self.save(checkpoint)
            if report is not None:
                best = self.best(1)[0].fitness
                line = f"{trial.choice} fitness {trial.fitness:.4f} best {best:.4f}"
                report(len(self.trials), iterations, f"{line} {trial.seconds:.1f} s")
        return self.trials

    def best(self, count: int) -> list[Trial]:
        """Return the fittest trials, best first, ties by age, no widths twice."""
        unique: list[Trial] = []
        for trial in sorted(self.trials, key=lambda trial: -trial.fitness):
            if not any(np.array_equal(trial.widths, other.widths) for other in unique[:count]):
                unique.append(trial)
        return unique[:count]

    def _iterate(self, t: int) -> Trial:
        started = time.perf_counter()
        rng = np.random.default_rng([self.seed, t])
        choice = self.choices[t % len(self.choices)]
        action = self._choose(choice, rng)
        fitness = float(self.fitness(action.widths))
        if not np.isfinite(fitness):
            raise InputError(f"fitness {fitness} in iteration {t}: expected a finite number")
        self._inputs.append(self.predictor.sets(action.widths))
        seconds = time.perf_counter() - started
        self.trials.append(Trial(action.widths, action.drawn, choice, fitness, seconds))
        self._update(rng)
        return self.trials[-1]

    def _choose(self, choice: str, rng: np.random.Generator) -> Action:
        if choice == "random":
            return self.sampler.draw(rng)
        actions = [self.sampler.draw(rng) for _ in range(self.candidates)]
        if choice == "greedy":
            scores = self.predictor.predict([self.predictor.sets(a.widths) for a in actions])
            return actions[int(scores.argmax())]
        best = self.best(1)[0].widths
        if self.nearest_by == "embeddings":
            tables = [
                self.predictor.sets(widths) for widths in (best, *(a.widths for a in actions))
            ]
            with torch.no_grad():
                embedded = self.predictor.embed(tables)
            return actions[int((embedded[1:] - embedded[0]).norm(dim=1).argmin())]
        return min(actions, key=lambda action: int(abs(action.widths - best).sum()))

    def _update(self, rng: np.random.Generator) -> None:
        """Update the predictor on random batches of trials."""
        fitness = torch.tensor([trial.fitness for trial in self.trials], dtype=torch.float32)
        for _ in range(self.updates):
            batch = rng.permutation(len(fitness))[:64]
            predicted = self.predictor([self._inputs[number] for number in batch])
            loss = functional.mse_loss(predicted, fitness[torch.from_numpy(batch)])
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()

    def save(self, path: str | Path) -> None:
        """Write a checkpoint for ``resume``, replacing an older one."""
        fields = ("drawn", "choice", "fitness", "seconds")
        trials = [{name: getattr(trial, name) for name in fields} for trial in self.trials]
        smallest = np.min_scalar_type(self.sampler.d_max)
        widths = np.array([trial.widths for trial in self.trials], smallest)
        predictor = {name: value.numpy() for name, value in self.predictor.state_dict().items()}
        save_artifact(
            path,
            KIND,
            {"trials": trials, "made_with": self._made_with(), "context": self.context},
            {
                "population": {"widths": widths},
                "predictor": predictor,
                "adam": adam_arrays(self._adam),
            },
        )

    def resume(self, path: str | Path) -> None:
        """Load a checkpoint, from which ``run`` continues bit for bit.

        Raises:
            InputError: no complete checkpoint, or one of other settings.
        """
        artifact = load_artifact(path, KIND)
        cure = "resume with the settings and data it was made with, or start again"
        for group, ours in (("made_with", self._made_with()), ("context", self.context)):
            theirs = artifact.settings[group]
            every = {name: ours.get(name) for name in theirs | ours}
            check_same(f"{path}: checkpoint of", theirs, every, cure)
        widths = artifact.tensors["population"]["widths"].astype(np.int64)
        records = artifact.settings["trials"]
        self.trials = [Trial(row, **record) for row, record in zip(widths, records, strict=True)]
        self._inputs = [self.predictor.sets(row) for row in widths]
        predictor = artifact.tensors["predictor"]
        self.predictor.load_state_dict(
            {name: torch.from_numpy(np.array(array)) for name, array in predictor.items()}
        )
        load_adam(self._adam, artifact.tensors.get("adam", {}))

    def _made_with(self) -> dict[str, Any]:
        """Settings that a checkpoint shares with the search that resumes it."""
        sampler = self.sampler
        return {
            "rows": len(sampler.frequencies),
            "groups": list(sampler.groups),
            "d_max": sampler.d_max,
            "entries": sampler.entries,
            "frequencies": zlib.crc32(sampler.frequencies.tobytes()),
            "seed": self.seed,
            "candidates": self.candidates,
            "updates": self.updates,
            "learning_rate": LEARNING_RATE,
            "by_frequency": sampler.by_frequency,
            "choices": list(self.choices),
            "nearest_by": self.nearest_by,
        }
