"""The search for good widths under a budget: draw, choose, try, learn, and again."""

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.tables.bet.actions import Action, ActionSampler
from compressae.tables.bet.predictor import FitnessPredictor, Sets
from compressae.training.checkpoint import adam_arrays, check_same, load_adam

KIND = "width search"
#: How iteration t chooses, by t mod 5.
CHOICES = ("greedy", "greedy", "greedy", "random", "nearest")


@dataclass(frozen=True, eq=False)
class Trial:
    """Widths (n,) int64 that were tried; ``drawn`` as in ``Action``, ``seconds`` of the trial."""

    widths: np.ndarray
    drawn: list[dict[str, Any]]
    choice: str
    fitness: float
    seconds: float


class WidthSearch:
    """BET's search (arXiv 2310.14884, algorithm 1): a population of tried widths and a predictor.

    Iteration t draws ``candidates`` actions and tries one: that of the highest predicted fitness
    (t mod 5 = 0, 1, 2), a random one (3), or the one nearest to the best so far (4): fewest
    entries that one row has and the other has not, Σ |w − w'|. Then the predictor takes
    ``updates`` steps of Adam on the mean squared error over at most 64 tries. All that is drawn
    in iteration t follows from (seed, t).

    Args:
        sampler: of actions.
        fitness: widths (n,) → how good they are; higher is better.
        seed: of everything that is drawn here.
        candidates: actions drawn an iteration.
        updates: of the predictor, an iteration.
        learning_rate: of the predictor.
        context: what else the fitness depends on, as JSON; ``resume`` refuses another.

    Attributes:
        trials: what was tried, in order.
        predictor: as it was learned from them.

    Raises:
        InputError: candidates below 1, or a negative number of updates or seed.
    """

    def __init__(
        self,
        sampler: ActionSampler,
        fitness: Callable[[np.ndarray], float],
        seed: int = 0,
        candidates: int = 100,
        updates: int = 60,
        learning_rate: float = 3e-3,
        context: dict[str, Any] | None = None,
    ) -> None:
        if candidates < 1 or updates < 0 or seed < 0:
            raise InputError(
                f"{candidates} candidates, {updates} updates, seed {seed}: expected 1 candidate "
                "or more, and no negative number"
            )
        self.sampler, self.fitness = sampler, fitness
        self.seed, self.candidates, self.updates = seed, candidates, updates
        self.learning_rate = learning_rate
        self.context = json.loads(json.dumps(context or {}))  # As it comes out of a checkpoint.
        self.trials: list[Trial] = []
        self._tried: list[Sets] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.predictor = FitnessPredictor(sampler.frequencies, sampler.d_max)
        self._adam = torch.optim.Adam(self.predictor.parameters(), learning_rate)

    def run(
        self,
        iterations: int,
        checkpoint: str | Path | None = None,
        report: Callable[[int, int, str], None] | None = None,
    ) -> list[Trial]:
        """Search until there are so many trials; gives all of them.

        Args:
            iterations: trials in all, those of a checkpoint that was taken up included.
            checkpoint: a folder that is written after every trial.
            report: called after every trial with (trials, iterations, what to tell).

        Raises:
            InputError: a fitness that is not finite, or a checkpoint that cannot be written.
        """
        while len(self.trials) < iterations:
            trial = self._iterate(len(self.trials))
            if checkpoint is not None:
                self.save(checkpoint)
            if report is not None:
                best = self.best(1)[0].fitness
                told = f"{trial.choice} fitness {trial.fitness:.4f} best {best:.4f}"
                report(len(self.trials), iterations, f"{told} {trial.seconds:.1f} s")
        return self.trials

    def best(self, count: int) -> list[Trial]:
        """The fittest trials, best first, the earlier of equals first, no widths twice."""
        found: list[Trial] = []
        for trial in sorted(self.trials, key=lambda trial: -trial.fitness):
            if not any(np.array_equal(trial.widths, other.widths) for other in found[:count]):
                found.append(trial)
        return found[:count]

    def _iterate(self, t: int) -> Trial:
        started = time.perf_counter()
        rng = np.random.default_rng([self.seed, t])
        choice = CHOICES[t % len(CHOICES)]
        action = self._choose(choice, rng)
        fitness = float(self.fitness(action.widths))
        if not np.isfinite(fitness):
            raise InputError(f"fitness {fitness} in iteration {t}: expected a finite number")
        self._tried.append(self.predictor.sets(action.widths))
        seconds = time.perf_counter() - started
        self.trials.append(Trial(action.widths, action.drawn, choice, fitness, seconds))
        self._learn(rng)
        return self.trials[-1]

    def _choose(self, choice: str, rng: np.random.Generator) -> Action:
        if choice == "random":
            return self.sampler.draw(rng)
        drawn = [self.sampler.draw(rng) for _ in range(self.candidates)]
        if choice == "greedy":
            scores = self.predictor.predict([self.predictor.sets(a.widths) for a in drawn])
            return drawn[int(scores.argmax())]
        best = self.best(1)[0].widths
        return min(drawn, key=lambda action: int(abs(action.widths - best).sum()))

    def _learn(self, rng: np.random.Generator) -> None:
        fitness = torch.tensor([trial.fitness for trial in self.trials], dtype=torch.float32)
        for _ in range(self.updates):
            chosen = rng.permutation(len(fitness))[:64]
            found = self.predictor([self._tried[place] for place in chosen])
            loss = functional.mse_loss(found, fitness[torch.from_numpy(chosen)])
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()

    def save(self, path: str | Path) -> None:
        """Write all that ``resume`` needs, in place of an older checkpoint."""
        trials = [
            {"drawn": t.drawn, "choice": t.choice, "fitness": t.fitness, "seconds": t.seconds}
            for t in self.trials
        ]
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
        """Take up the state of a checkpoint; ``run`` then does what it would have gone on to do.

        Raises:
            InputError: no whole checkpoint there, or one of other settings.
        """
        artifact = load_artifact(path, KIND)
        cure = "resume with the settings and data it was made with, or start anew"
        for group, asked in (("made_with", self._made_with()), ("context", self.context)):
            found = artifact.settings[group]
            wanted = {name: asked.get(name) for name in found | asked}
            check_same(f"{path}: checkpoint of", found, wanted, cure)
        widths = artifact.tensors["population"]["widths"].astype(np.int64)
        records = artifact.settings["trials"]
        self.trials = [Trial(row, **record) for row, record in zip(widths, records, strict=True)]
        self._tried = [self.predictor.sets(row) for row in widths]
        predictor = artifact.tensors["predictor"]
        self.predictor.load_state_dict(
            {name: torch.from_numpy(np.array(array)) for name, array in predictor.items()}
        )
        load_adam(self._adam, artifact.tensors.get("adam", {}))

    def _made_with(self) -> dict[str, Any]:
        """What a checkpoint has to share with the search that takes it up."""
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
            "learning_rate": self.learning_rate,
        }
