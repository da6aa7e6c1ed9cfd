"""Configuration of a training run."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from compressae.retrieval.io.embeddings import SIMILARITIES, Similarity

Recipe = Literal["pursuit", "autoencoder", "paper"]

#: Defaults of each recipe.
_OPTIMISER = dict(
    steps=3000, batch=1024, learning_rate=1e-3, decoder_bits=32, nonzeros=32, whitening=0.0
)
_RECIPES: dict[str, dict[str, Any]] = {
    "pursuit": dict(steps=80, batch=16384, decoder_bits=4, nonzeros=8),
    "autoencoder": dict(**_OPTIMISER, warmup=50, decay=0.4, wide_weight=0.0),
    "paper": dict(**_OPTIMISER, warmup=0, decay=0.0, wide_weight=0.125),
}
#: Settings of the optimiser; recipe "pursuit" has none.
_OF_OPTIMISER = ("learning_rate", "warmup", "decay", "wide_weight")


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a training run; settings left at None take the recipe's default.

    Attributes:
        latents: h, the number of latents.
        nonzeros: k, the nonzeros of a code; 1 ≤ k ≤ h. With recipe "pursuit" 8 (or h), whose
            dictionary is among the best for 4 to 17, too (docs/log.md); else 32.
        recipe: "pursuit" learns one dictionary, encoder and decoder in one, by alternating pursuit
            codes and least squares: the best reconstruction in the least time. "autoencoder" trains
            an encoder and a decoder by gradients; both are initialised from data rows, and dead
            latents are resampled from residuals. "paper" is arXiv 2505.11388: Kaiming-uniform
            initialisation, loss at k and 4k, nothing for dead latents; neither the learning rate
            (constant here) nor Adam's betas are published.
        steps: optimiser steps; for "pursuit", batches encoded and dictionary updates.
        batch: rows a step; at most the whole table ("pursuit": a quarter of it).
        learning_rate: Adam's (not of "pursuit", nor the next three); betas are (0.9, 0.99).
        warmup: steps over which the learning rate rises linearly to its value.
        decay: last share of the steps, over which it falls linearly to zero.
        wide_weight: weight of the loss at 4k nonzeros relative to the loss at k.
        resample_every: steps between two resamplings of dead latents ("autoencoder").
        hold_out: rows never trained on, so that they can serve as queries: the first ``hold_out``
            of ``numpy.random.default_rng(0).permutation(n)``.
        similarity: "cosine", or "dot" where queries are compared with rows by dot product, as in a
            recommender: rows then keep their lengths, and rows of zeros are left out of training.
        decoder_bits: 4 rounds the decoder's entries when training ends, for recipe "pursuit", whose
            default it is: files and searches hold an eighth of the float32 bytes, for .001 to .002
            of recall@100 (docs/results/quantisers.md). 32 leaves them as they are.
        latent_dropout: share of the latents, drawn anew, that each step leaves out (of "pursuit");
            0 ≤ share < 1. With fewer than ten training rows a latent, 0.15 codes rows better that
            were not trained on, and those that were a little worse (docs/log.md).
        whitening: p, 0 to 0.5 (of "pursuit"): the dictionary is learned from rows times the power
            −p of their second moment, so that latents do not crowd in the directions of most
            variance. 0 learns from rows as they are. By default 0.4, or 0 where a trial of a few
            steps with either says so, as for rows in tight clusters (docs/log.md).
        seed: of the initialisation, the order of rows and the choice of residuals.

    Raises:
        ValueError: a setting is out of its range.

    >>> config = TrainConfig(latents=1024, nonzeros=16)
    >>> config.steps, config.batch
    (80, 16384)
    """

    latents: int = 4096
    nonzeros: int = None  # type: ignore[assignment]
    recipe: Recipe = "pursuit"
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    warmup: int | None = None
    decay: float | None = None
    wide_weight: float | None = None
    resample_every: int = 50
    hold_out: int = 0
    seed: int = 0
    similarity: Similarity = "cosine"
    decoder_bits: Literal[4, 32] | None = None
    latent_dropout: float = 0.0
    whitening: float | None = None

    def __post_init__(self) -> None:
        if self.recipe not in _RECIPES:
            raise ValueError(f"recipe = {self.recipe!r}: expected {' or '.join(_RECIPES)}")
        if self.similarity not in SIMILARITIES:
            raise ValueError(
                f"similarity = {self.similarity!r}: expected {' or '.join(SIMILARITIES)}"
            )
        if self.recipe == "pursuit":
            for name in _OF_OPTIMISER:
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} with recipe 'pursuit', which has none; expected 'autoencoder' or "
                        "'paper'"
                    )
        for name, value in _RECIPES[self.recipe].items():
            if getattr(self, name) is None:
                value = min(value, self.latents) if name == "nonzeros" else value
                object.__setattr__(self, name, value)
        widths = (4, 32) if self.recipe == "pursuit" else (32,)
        if self.decoder_bits not in widths:
            raise ValueError(
                f"decoder_bits = {self.decoder_bits} with recipe {self.recipe!r}: expected 32, or "
                "4 with recipe 'pursuit'"
            )
        if not 0 <= self.latent_dropout < 1 or (self.latent_dropout and self.recipe != "pursuit"):
            raise ValueError(
                f"latent_dropout = {self.latent_dropout} with recipe {self.recipe!r}: expected 0, "
                "or a share below 1 with recipe 'pursuit'"
            )
        power = self.whitening or 0.0
        if not 0 <= power <= 0.5 or (power and self.recipe != "pursuit"):
            raise ValueError(
                f"whitening = {self.whitening} with recipe {self.recipe!r}: expected 0, or up to "
                "0.5 with recipe 'pursuit'"
            )
        if not 1 <= self.nonzeros <= self.latents:
            raise ValueError(
                f"nonzeros = {self.nonzeros}: expected 1 ≤ nonzeros ≤ latents = {self.latents}"
            )
        least = dict(steps=1, batch=1, resample_every=1, hold_out=0, seed=0)
        if self.recipe != "pursuit":
            least |= dict(warmup=0, wide_weight=0)
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least {bound}")
        if self.decay is not None and not 0 <= self.decay <= 1:
            raise ValueError(f"decay = {self.decay}: expected a share of the steps, 0 to 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate = {self.learning_rate}: expected more than 0")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, 0 ≤ step < steps."""
        assert self.learning_rate is not None and self.warmup is not None
        assert self.decay is not None and self.steps is not None
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        falling = self.decay * self.steps
        fall = min(1.0, (self.steps - step) / falling) if falling else 1.0
        return self.learning_rate * rise * fall


def held_out_rows(n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Split n rows at random: (held-out rows (count,), the other rows (n − count,)), int64.

    >>> held_out_rows(5, 2)
    (array([2, 4]), array([3, 0, 1]))
    """
    order = np.random.default_rng(0).permutation(n)
    return order[:count], order[count:]
