"""Dictionary learning, recipe "pursuit": alternating pursuit codes and least squares."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressae.kernels.backend import current, fetch, namespace, put, tensors_on
from compressae.kernels.decode import decode, second_moment, sparse_t_matmul
from compressae.kernels.product import IntMatrix, round_directions
from compressae.kernels.pursuit import pursue, pursuit_schedule
from compressae.kernels.refit import refit
from compressae.kernels.support import Dictionary, select_latents
from compressae.model import CompresSAE
from compressae.retrieval.codes.quantizer import directions, fit_error_weighting, ridged_moment
from compressae.retrieval.codes.residual import least_error
from compressae.retrieval.io.embeddings import Embeddings, as_embeddings, unit_rows
from compressae.training import checkpoint as saved
from compressae.training.config import TrainConfig

_CPU = torch.device("cpu")
#: Most rows that a dictionary is learned from; drawn once, held in memory.
SAMPLE_ROWS = 1 << 18
#: Steps of matching pursuit while learning: one latent at a time learns a worse dictionary.
_PURSUIT_STEPS = 4
#: Conjugate-gradient steps of a dictionary update, and its ridge towards the old dictionary.
_SOLVER_STEPS = 3
_RIDGE = 0.05
#: Entries of SᵀS for each nonzero up to which SᵀS is formed.
_DENSE = 32
#: Ridge of the least-squares values.
_REFIT_RIDGE = 1e-4
_START_NOISE = 0.3
#: Most rows of a batch whose error and cosine a step reports.
_REPORTED = 1 << 11
#: Part of the training during which dead latents are resampled.
_RESAMPLE_UNTIL = 0.8
#: The power of whitening, and how much more error than without it a trial of it may leave: tables
#: that do not lose by it left up to 1.006 times as much, the others 1.027 and more (docs/log.md).
_WHITENING, _WORSE = 0.4, 1.02
#: Steps of a trial and their rows, at least; rows that judge it, and residual bytes.
_TRIAL_STEPS, _TRIAL_BATCH, _TRIAL_ROWS, _TRIAL_BYTES = 4, 1 << 14, 4096, 16
#: Steps of a training that is worth trials.
_TRIED_FROM = 40
#: Rows from which on a trial is made.
_LEAST_ROWS = 1000


def choose_whitening(items: Embeddings, config: TrainConfig, device: torch.device = _CPU) -> float:
    """Choose the power p of ``TrainConfig.whitening``: 0.4, or 0 where that learns clearly better.

    Two dictionaries are learned for a few steps; what residual codes would leave of the errors of
    other rows decides. Trainings of under 40 steps, or of too few rows to say, take 0.4.
    """
    assert config.steps is not None
    if config.steps < _TRIED_FROM or len(items) < _LEAST_ROWS:
        return _WHITENING
    assert config.batch is not None
    config = replace(config, batch=max(config.batch, _TRIAL_BATCH))
    count = min(len(items), _TRIAL_STEPS * _TRIAL_BATCH + _TRIAL_ROWS)
    drawn = np.random.default_rng([config.seed, 4]).choice(len(items), count, replace=False)
    others, learned = np.split(drawn, [min(_TRIAL_ROWS, count // 8)])
    x, rows = unit_rows(items.take(np.sort(others))), as_embeddings(items.take(np.sort(learned)))
    weighting = fit_error_weighting(x)
    left = []
    with current(device):
        for power in (0.0, _WHITENING):
            run = PursuitRun(rows, replace(config, whitening=power), device)
            for _ in range(_TRIAL_STEPS):
                run.advance()
            left.append(least_error(run.residual(x) @ weighting, _TRIAL_BYTES))
            del run  # Before the next one, which holds the rows, too.
    return _WHITENING if left[1] <= _WORSE * left[0] else 0.0


class PursuitRun:
    """State of a run between two steps; it has the methods of ``GradientRun``.

    A step encodes one batch by pursuit, then moves the dictionary towards the least-squares
    solution over the latest codes of every row seen so far (the method of optimal directions, Engan
    et al. 1999, online as in Mairal et al. 2010). Dead latents are resampled from residuals of
    poorly reconstructed rows. Rows are whitened in part (``TrainConfig.whitening``), and the
    model's dictionary is brought back to their space. Every random choice comes from a generator of
    the seed and the step, so that a resumed run repeats an uninterrupted one. Rows, codes and the
    dictionary are arrays on the CPU and tensors on a GPU; a checkpoint of either resumes on the
    other.
    """

    def __init__(self, items: Embeddings, config: TrainConfig, device: torch.device = _CPU) -> None:
        assert config.whitening is not None  # See choose_whitening.
        self.items, self.config, self.device = items, config, device
        self._tensors = tensors_on(device)
        n, h = len(items), config.latents
        rng = np.random.default_rng([config.seed, 0, 0])
        rows = rng.choice(n, SAMPLE_ROWS, replace=False) if n > SAMPLE_ROWS else np.arange(n)
        x = unit_rows(items.take(np.sort(rows)))
        if config.whitening:
            whitening, back = _whitening(x, config.whitening)
            self._back = self._put(back)
            for part in np.array_split(x, 1 + (len(x) >> 14)):  # In place: all rows are many.
                part[:] = unit_rows(part @ whitening)
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
        self.seen = np.zeros(n, bool)
        self.step = 0

    def _put(self, array: np.ndarray) -> Any:
        return put(array, self._tensors)

    @property
    def model(self) -> CompresSAE:
        """The model so far: its encoder is its decoder, without bias, rounded if so configured."""
        model = CompresSAE(self.x.shape[1], self.config.latents, self.config.nonzeros)
        weights = fetch(self.weights)
        if self.config.whitening:
            weights = directions(weights @ fetch(self._back))
        if self.config.decoder_bits == 4:
            weights = IntMatrix.of_entries(round_directions(weights)).to_float32()
        with torch.no_grad():
            model.decoder.copy_(torch.from_numpy(weights))
            model.encoder.copy_(model.decoder)
        return model

    def residual(self, x: np.ndarray) -> np.ndarray:
        """What the model so far leaves of unit rows x (m, d), (m, d) float32."""
        weights, rows = self._put(self.model.decoder.detach().numpy()), self._put(x)
        residual: np.ndarray = fetch(rows - decode(*self._pursue(rows, weights), weights))
        return residual

    def advance(self) -> tuple[float, float]:
        """Take one step: (mean squared error, mean cosine) of some rows of its batch before it."""
        config, step = self.config, self.step
        steps_an_epoch = len(self.x) // self.batch
        epoch, place = divmod(step, steps_an_epoch)
        order = np.random.default_rng([config.seed, 1, epoch]).permutation(len(self.x))
        drawn = np.sort(order[place * self.batch : (place + 1) * self.batch])
        self.seen[drawn] = True
        rows = self._put(drawn)
        x, xp = self.x[rows], namespace(self.x)
        ids, values = self._encode(x)
        residual = x - decode(ids, values, self.weights)
        errors = fetch(xp.einsum("nd,nd->n", residual, residual))
        self.ids[rows], self.values[rows] = ids, values
        self._solve()
        if step < _RESAMPLE_UNTIL * self.steps:
            self._resample_dead(residual, errors)
        lengths = xp.linalg.norm(self.weights, axis=1)
        self.weights /= lengths.clip(min=1e-12)[:, None]
        self.values *= lengths[self.ids]
        self.step += 1
        every = -(-len(x) // _REPORTED)
        return self._figures(x[::every], residual[::every])

    def _figures(self, x: Any, residual: Any) -> tuple[float, float]:
        """Mean squared error and mean cosine of rows x (m, d), as unit rows before whitening."""
        if self.config.whitening:
            x, residual = x @ self._back, residual @ self._back
        dots = partial(namespace(x).einsum, "nd,nd->n")
        decoded, squares = x - residual, dots(x, x)
        lengths = (squares * dots(decoded, decoded)).clip(min=1e-24) ** 0.5
        errors, cosines = dots(residual, residual) / squares, dots(x, decoded) / lengths
        return float(errors.mean()), float(cosines.mean())

    def _encode(self, x: Any) -> tuple[Any, Any]:
        """Latents and least-squares values (m, k) of rows x (m, d)."""
        if not self.config.latent_dropout:
            return self._pursue(x, self.weights)
        available = self._put(self._available())
        ids, values = self._pursue(x, self.weights[available])
        return available[ids], values

    def _available(self) -> np.ndarray:
        """Latents (h',) int32, ascending, that are not dropped in this step; at least k."""
        h, share = self.config.latents, self.config.latent_dropout
        rng = np.random.default_rng([self.config.seed, 3, self.step])
        count = max(self.config.nonzeros, round((1 - share) * h))
        return np.sort(rng.choice(h, count, replace=False)).astype(np.int32)

    def _pursue(self, x: Any, weights: Any) -> tuple[Any, Any]:
        """Row numbers of weights (h', d), and their values, as ``_encode`` returns them."""
        k = self.config.nonzeros
        counts = pursuit_schedule(k, _PURSUIT_STEPS)
        if self._tensors is None and Dictionary.fits(len(weights)):
            ids = select_latents(x, Dictionary(weights), k, counts=counts)
            return ids, refit(x, ids, weights, _REFIT_RIDGE)
        return pursue(x, weights, counts, _REFIT_RIDGE)

    def _solve(self) -> None:
        """Update the dictionary: solve (SᵀS + ridge) W = SᵀX + ridge·W_old by conjugate gradients,
        preconditioned by the diagonal of SᵀS."""
        rows = self._put(np.flatnonzero(self.seen))
        ids, values, x = self.ids[rows], self.values[rows], self.x[rows]
        h, xp = len(self.weights), namespace(x)

        # SᵀS is formed where that is cheaper than two sparse products with S.
        if self._tensors is None and h * h <= _DENSE * ids.size:
            moment = second_moment(ids, values, h)
            left = sparse_t_matmul(ids, values, x, h) - moment @ self.weights
            times_moment = moment.__matmul__
        else:
            left = sparse_t_matmul(ids, values, x - decode(ids, values, self.weights), h)

            def times_moment(direction: Any) -> Any:
                return sparse_t_matmul(ids, values, decode(ids, values, direction), h)

        dots = partial(xp.einsum, "hd,hd->d")
        inverse = xp.asarray(1 / (_squares(ids, values, h) + _RIDGE), dtype=xp.float32)
        ahead = inverse * left
        direction, size = ahead, dots(left, ahead)
        for _ in range(_SOLVER_STEPS):
            image = times_moment(direction) + _RIDGE * direction
            along = dots(direction, image).clip(min=1e-20)
            self.weights += (size / along) * direction
            left -= (size / along) * image
            ahead = inverse * left
            before, size = size.clip(min=1e-20), dots(left, ahead)
            direction = ahead + (size / before) * direction

    def _resample_dead(self, residual: Any, errors: np.ndarray) -> None:
        """Re-initialise dead latents from residuals of rows drawn with weight ‖r‖²."""
        dead = np.flatnonzero(self._uses() == 0)
        dead = dead[: int((errors > 0).sum())]
        if len(dead) == 0:
            return
        rng = np.random.default_rng([self.config.seed, 2, self.step])
        share = errors.astype(np.float64) / errors.sum(dtype=np.float64)
        drawn = rng.choice(len(residual), len(dead), replace=False, p=share)
        self.weights[self._put(dead)] = residual[self._put(drawn)]

    def _uses(self) -> np.ndarray:
        ids = self.ids[self._put(self.seen)]
        return fetch(namespace(ids).bincount(ids.ravel(), minlength=self.config.latents))

    def dead_latents(self) -> int:
        """Number of latents that no row seen so far uses."""
        return int((self._uses() == 0).sum())

    def save(self, path: str | Path) -> None:
        """Write the whole state as a checkpoint folder."""
        arrays = {"weights": self.weights, "ids": self.ids, "values": self.values, "met": self.seen}
        tensors = {name: torch.from_numpy(fetch(array)) for name, array in arrays.items()}
        saved.save_checkpoint(path, self.step, self.config, self.items.shape, tensors)

    def restore(self, path: str | Path) -> None:
        """Resume from a checkpoint of the same configuration and table shape."""
        self.step, tensors = saved.load_checkpoint(path, self.config, self.items.shape)
        for name, tensor in tensors.items():
            if name == "met":
                self.seen = tensor.numpy()
            else:
                setattr(self, name, self._put(tensor.numpy()))


def _whitening(x: np.ndarray, power: float) -> tuple[np.ndarray, np.ndarray]:
    """The ridged second moment (d, d) of rows x (n, d) to a power −p, and to p, float32."""
    moment, axes = ridged_moment(x)
    scales = moment**power
    there, back = (axes / scales) @ axes.T, (axes * scales) @ axes.T
    return there.astype(np.float32), back.astype(np.float32)


def _squares(ids: Any, values: Any, h: int) -> Any:
    """Diagonal (h, 1) of SᵀS: sum of squares of each latent's values."""
    if isinstance(ids, np.ndarray):
        sums = np.bincount(ids.ravel(), (values**2).ravel(), minlength=h)
        return sums[:, None]
    return sparse_t_matmul(ids, values**2, values.new_ones(len(values), 1), h)
