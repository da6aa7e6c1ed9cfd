"""Training by dictionary learning: pursuit codes and least squares in turn."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressae import checkpoint as saved
from compressae.coding import pursuit_counts
from compressae.config import TrainConfig
from compressae.devices import fetch, put, tensors_on
from compressae.kernels.backend import namespace
from compressae.kernels.decode import decode, outer_sum
from compressae.kernels.pursuit import pursue
from compressae.model import CompresSAE
from compressae.retrieval.embeddings import Embeddings, unit_rows

_CPU = torch.device("cpu")
#: Rows that a dictionary is learned from, at most; drawn once, held in memory.
SAMPLE_ROWS = 1 << 18
#: Pursuit steps while learning; coding takes more.
_PURSUIT_STEPS = 4
#: Conjugate-gradient steps of a dictionary's update, and its ridge towards the old dictionary.
_SOLVER_STEPS = 3
_RIDGE = 0.05
_START_NOISE = 0.3
#: Part of the training during which unused latents are replaced.
_REVIVE_UNTIL = 0.8


class DictionaryRun:
    """The state of a run between two steps; the same methods as the optimiser's run.

    A step codes one batch of rows anew by pursuit, then moves the dictionary towards the least
    squares over the latest codes of every row met so far (the method of optimal directions, Engan
    et al. 1999, in the online manner of Mairal et al. 2010). Latents that no row uses become what
    badly coded rows lack. Every random choice comes from a generator made of the seed and the
    step, so that a resumed run repeats an uninterrupted one. Rows, codes and the dictionary are
    arrays on the CPU and tensors on a GPU; a checkpoint of one is taken up on the other.
    """

    def __init__(self, items: Embeddings, config: TrainConfig, device: torch.device = _CPU) -> None:
        self.items, self.config, self.device = items, config, device
        self._tensors = tensors_on(device)
        n, h = len(items), config.latents
        rng = np.random.default_rng([config.seed, 0, 0])
        rows = rng.choice(n, SAMPLE_ROWS, replace=False) if n > SAMPLE_ROWS else np.arange(n)
        x = unit_rows(items.take(np.sort(rows)))
        n, d = x.shape
        assert config.batch is not None and config.steps is not None
        self.steps = config.steps
        self.batch = min(config.batch, -(-n // 4))
        starts = np.resize(rng.permutation(n), h) if n < h else rng.choice(n, h, replace=False)
        noise = unit_rows(rng.standard_normal((h, d), dtype=np.float32))
        self.x = self._put(x)
        self.weights = self._put(unit_rows(x[starts] + _START_NOISE * noise))
        self.ids = self._put(np.zeros((n, config.nonzeros), np.int32))
        self.values = self._put(np.zeros((n, config.nonzeros), np.float32))
        self.met = np.zeros(n, bool)
        self.step = 0

    def _put(self, array: np.ndarray) -> Any:
        return put(array, self._tensors)

    @property
    def model(self) -> CompresSAE:
        """A model whose encoder is its decoder, without bias."""
        model = CompresSAE(self.x.shape[1], self.config.latents, self.config.nonzeros)
        with torch.no_grad():
            model.decoder.copy_(torch.from_numpy(fetch(self.weights)))
            model.encoder.copy_(model.decoder)
        return model

    def advance(self) -> tuple[float, float]:
        """One step: (mean squared error, mean cosine) of its batch before the update."""
        config, step = self.config, self.step
        steps_an_epoch = len(self.x) // self.batch
        epoch, place = divmod(step, steps_an_epoch)
        order = np.random.default_rng([config.seed, 1, epoch]).permutation(len(self.x))
        drawn = np.sort(order[place * self.batch : (place + 1) * self.batch])
        self.met[drawn] = True
        rows = self._put(drawn)
        x, xp = self.x[rows], namespace(self.x)
        ids, values = pursue(x, self.weights, pursuit_counts(config.nonzeros, _PURSUIT_STEPS))
        residual = x - decode(ids, values, self.weights)
        errors = fetch(xp.einsum("nd,nd->n", residual, residual))
        self.ids[rows], self.values[rows] = ids, values
        self._solve()
        if step < _REVIVE_UNTIL * self.steps:
            self._revive(residual, errors)
        lengths = xp.linalg.norm(self.weights, axis=1)
        self.weights /= lengths.clip(min=1e-12)[:, None]
        self.values *= lengths[self.ids]
        self.step += 1
        cosines = np.sqrt(np.clip(1 - errors, 0, 1))  # x̂ is the row's projection.
        return float(errors.mean()), float(cosines.mean())

    def _solve(self) -> None:
        """Conjugate gradients for (SᵀS + ridge) W = SᵀX + ridge·W_old, preconditioned by SᵀS's
        diagonal; S is only ever multiplied, never squared."""
        met = self._put(np.flatnonzero(self.met))
        ids, values, x = self.ids[met], self.values[met], self.x[met]
        h, xp = len(self.weights), namespace(x)
        dots = partial(xp.einsum, "hd,hd->d")
        inverse = xp.asarray(1 / (_squares(ids, values, h) + _RIDGE), dtype=xp.float32)
        left = outer_sum(ids, values, x - decode(ids, values, self.weights), h)
        ahead = inverse * left
        direction, size = ahead, dots(left, ahead)
        for _ in range(_SOLVER_STEPS):
            image = outer_sum(ids, values, decode(ids, values, direction), h) + _RIDGE * direction
            along = dots(direction, image).clip(min=1e-20)
            self.weights += (size / along) * direction
            left -= (size / along) * image
            ahead = inverse * left
            before, size = size.clip(min=1e-20), dots(left, ahead)
            direction = ahead + (size / before) * direction

    def _revive(self, residual: Any, errors: np.ndarray) -> None:
        """Give latents that no row uses the residuals of rows drawn with weight ‖r‖²."""
        dead = np.flatnonzero(self._uses() == 0)
        dead = dead[: int((errors > 0).sum())]
        if len(dead) == 0:
            return
        rng = np.random.default_rng([self.config.seed, 2, self.step])
        share = errors.astype(np.float64) / errors.sum(dtype=np.float64)
        drawn = rng.choice(len(residual), len(dead), replace=False, p=share)
        self.weights[self._put(dead)] = residual[self._put(drawn)]

    def _uses(self) -> np.ndarray:
        ids = self.ids[self._put(self.met)]
        return fetch(namespace(ids).bincount(ids.ravel(), minlength=self.config.latents))

    def live_latents(self) -> int:
        """Latents that a row met so far uses."""
        return int((self._uses() > 0).sum())

    def save(self, path: str | Path) -> None:
        """Write the whole state as a checkpoint folder."""
        arrays = {"weights": self.weights, "ids": self.ids, "values": self.values, "met": self.met}
        tensors = {name: torch.from_numpy(fetch(array)) for name, array in arrays.items()}
        saved.save_checkpoint(path, self.step, self.config, self.items.shape, tensors)

    def restore(self, path: str | Path) -> None:
        """Take over the state of a checkpoint of the same settings and table shape."""
        self.step, tensors = saved.load_checkpoint(path, self.config, self.items.shape)
        for name, tensor in tensors.items():
            setattr(self, name, tensor.numpy() if name == "met" else self._put(tensor.numpy()))


def _squares(ids: Any, values: Any, h: int) -> Any:
    """The diagonal (h, 1) of SᵀS: sums of the squares of each latent's values."""
    if isinstance(ids, np.ndarray):
        sums = np.bincount(ids.ravel(), (values**2).ravel(), minlength=h)
        return sums[:, None]
    return outer_sum(ids, values**2, values.new_ones(len(values), 1), h)
