"""Train an encoder and a decoder by gradient descent: recipes "autoencoder" and "paper"."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compressae.kernels.backend import uses_triton
from compressae.kernels.cosine import code_gradients
from compressae.model import CompresSAE
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import Embeddings, unit_rows
from compressae.training import checkpoint as saved
from compressae.training.adam import Adam
from compressae.training.batches import Batches
from compressae.training.config import TrainConfig
from compressae.training.distributed import ALONE, Replicas

#: Part of the training during which dead latents are resampled; the rest lets them settle.
_RESAMPLE_UNTIL = 0.7
#: Batches without a use after which a latent is dead.
_DEAD_AFTER = 60
#: Length of the noise added to the initial data rows of the recipe "autoencoder"; rows have 1.
_START_NOISE = 0.3


@dataclass(frozen=True)
class Step:
    """Loss and codes of a batch of n rows.

    Attributes:
        loss: mean(1 − cos) at k nonzeros plus ``wide_weight`` times that at 4k.
        cosines: (n,) cos(x, x̂) at k.
        indices: (n, k) int32 latents.
        values: (n, k) float32.
    """

    loss: Tensor
    cosines: Tensor
    indices: Tensor
    values: Tensor


def take_gradients(model: CompresSAE, x: Tensor, wide_weight: float) -> Step:
    """Compute the loss of rows x (n, d) and set the ``grad`` of each parameter of the model.

    Uses autograd on the CPU. On a GPU, kernels compute the gradients tile by tile of rows, by
    bfloat16 products.

    Args:
        model: its parameters receive the gradients.
        x: (n, d) float32 unit rows.
        wide_weight: weight of the loss at 4k nonzeros; 0 leaves it out.

    >>> model = CompresSAE(dim=4, latents=16, nonzeros=2)
    >>> step = take_gradients(model, torch.eye(4), wide_weight=0.1)
    >>> tuple(step.cosines.shape), tuple(step.indices.shape), tuple(model.decoder.grad.shape)
    ((4,), (4, 2), (16, 4))
    """
    if uses_triton(x):
        return _by_kernels(model, x, wide_weight)
    k = model.nonzeros
    output = model(x, wide=bool(wide_weight))
    cosines = torch.cosine_similarity(x, output.reconstruction)
    loss = 1 - cosines.mean()
    if wide_weight:
        wide = torch.cosine_similarity(x, output.wide_reconstruction)
        loss = loss + wide_weight * (1 - wide.mean())
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    return Step(
        loss.detach(),
        cosines.detach(),
        output.indices[:, :k],
        output.values[:, :k].detach(),
    )


@torch.no_grad()
def _by_kernels(model: CompresSAE, x: Tensor, wide_weight: float) -> Step:
    """Compute the loss and the gradients on a GPU."""
    k = model.nonzeros
    w = min(4 * k, model.latents) if wide_weight else k
    out = code_gradients(x, model.encoder, model.encoder_bias, model.decoder, k, w, wide_weight)
    model.encoder.grad, model.encoder_bias.grad = out.encoder, out.bias
    model.decoder.grad = out.decoder
    losses = 1 - out.cosines.mean(1)
    loss = losses[0] + wide_weight * losses[-1]
    return Step(loss, out.cosines[0], out.ids, out.values)


class GradientRun:
    """State of a run between two steps; it has the methods of ``PursuitRun``.

    Every random choice comes from a generator seeded by the seed and the step or epoch, so that a
    resumed run repeats an uninterrupted one.

    Args:
        items: (n, d) embeddings.
        config: the settings of the training.
        device: device of the model.
        replicas: the processes that share each batch.

    Raises:
        InputError: a batch has fewer rows than there are processes.

    >>> from compressae.retrieval.io.embeddings import as_embeddings
    >>> items = as_embeddings(np.random.default_rng(0).standard_normal((64, 4)))
    >>> config = TrainConfig(latents=16, nonzeros=2, steps=3, batch=32, recipe="autoencoder")
    >>> run = GradientRun(items, config, torch.device("cpu"))
    >>> loss, cosine = run.advance()
    >>> run.step, tuple(run.next_batch().shape)
    (1, (32, 4))
    """

    def __init__(
        self,
        items: Embeddings,
        config: TrainConfig,
        device: torch.device,
        replicas: Replicas = ALONE,
    ) -> None:
        self.config, self.device, self.replicas = config, device, replicas
        self.items = items
        assert config.batch is not None and config.steps is not None
        self.steps = config.steps
        self.batch = min(config.batch, len(items))
        if self.batch < replicas.count:
            raise InputError(
                f"a batch of {self.batch} rows for {replicas.count} processes; expected one row "
                "each or more; raise the batch"
            )
        self.model = CompresSAE(items.shape[1], config.latents, config.nonzeros, config.seed)
        if config.recipe == "autoencoder":
            self._start_from_rows()
        self.model.to(device)
        self.optimizer = Adam(self.model.parameters())
        self.step = 0
        self.last_used = torch.zeros(config.latents, dtype=torch.int64, device=device)
        self.batches = Batches(items, self.batch, self.steps, config.seed, device)

    @torch.no_grad()
    def _start_from_rows(self) -> None:
        """Initialise encoder and decoder with unit rows: data rows plus noise."""
        rng = np.random.default_rng([self.config.seed, 0, 0])
        n, d = self.items.shape
        h = self.config.latents
        rows = np.resize(rng.permutation(n), h) if n < h else rng.choice(n, h, replace=False)
        noise = unit_rows(rng.standard_normal((h, d), dtype=np.float32))
        start = unit_rows(unit_rows(self.items.take(rows)) + _START_NOISE * noise)
        self.model.decoder.copy_(torch.from_numpy(start))
        self.model.encoder.copy_(self.model.decoder)

    def next_batch(self) -> Tensor:
        """Read this process's unit rows (m, d) of the batch of this step."""
        return self.batches.of_step(self.step, self.replicas.share(self.batch))

    def advance(self) -> tuple[Tensor, Tensor]:
        """Take one optimiser step: (loss, mean cosine at k) of its batch.

        Raises:
            InputError: the loss is NaN or infinite.
        """
        # Gradients of the batch: sums over processes, weighted by their shares of the rows.
        config, model = self.config, self.model
        assert config.wide_weight is not None
        x = self.next_batch()
        step = take_gradients(model, x, config.wide_weight)
        means = torch.stack([step.loss, step.cosines.mean()])
        if self.replicas.count > 1:
            share = len(x) / self.batch
            means *= share
            grads = [p.grad.mul_(share) for p in model.parameters() if p.grad is not None]
            self.replicas.sum(means, *grads)
        loss, cosine = means
        if not torch.isfinite(loss):
            raise InputError(
                f"step {self.step}: the loss is {loss.item()}; expected a finite one; lower the "
                f"learning rate ({config.learning_rate})"
            )

        # Note the latents that the step used.
        learning_rate = config.learning_rate_at(self.step)
        self.step += 1
        self.last_used[step.indices.long().flatten()] = self.step
        self.replicas.max(self.last_used)

        # Update the parameters. Residuals of dead latents come from the model before the update.
        is_due = self.step % config.resample_every == 0 and self.step < _RESAMPLE_UNTIL * self.steps
        resamples = config.recipe == "autoencoder" and is_due
        dead, residuals = self._residuals(x, step) if resamples else (None, None)
        model.project_decoder_gradient()
        self.optimizer.step(learning_rate)
        model.normalize_decoder()
        if dead is not None and residuals is not None:
            self._resample_dead(dead, residuals)
        return loss, cosine

    def dead_latents(self) -> int:
        """Number of latents that no row of the last ``_DEAD_AFTER`` batches used."""
        return int((self.last_used <= self.step - _DEAD_AFTER).sum())

    @torch.no_grad()
    def _residuals(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Draw residuals of poorly reconstructed rows of the batch for the dead latents.

        Rows are drawn with probability proportional to 1 − cos. The residual of a row is
        x − (x·x̂/‖x̂‖²) x̂, normalised.

        Returns:
            Dead latents (m,) and as many residuals (m, d).
        """
        # Weights of all rows of the batch, from all processes.
        share = self.replicas.share(self.batch)
        weights = torch.zeros(self.batch, dtype=torch.float64, device=self.device)
        weights[share] = (1 - step.cosines).clamp(min=0).double()
        self.replicas.sum(weights)
        weight = weights.cpu().numpy()
        dead = torch.nonzero(self.last_used <= self.step - _DEAD_AFTER).flatten()
        dead = dead[: int((weight > 0).sum())]
        residuals = torch.zeros(len(dead), x.shape[1], device=self.device)
        if len(dead) == 0:
            return dead, residuals

        # All processes draw the same rows; each fills in the residuals of its share.
        rng = np.random.default_rng([self.config.seed, 2, self.step])
        drawn = rng.choice(self.batch, len(dead), replace=False, p=weight / weight.sum())
        in_share = torch.from_numpy((drawn >= share.start) & (drawn < share.stop)).to(self.device)
        rows = torch.from_numpy(drawn).to(self.device)[in_share] - share.start
        x = x[rows]
        reconstruction = self.model.decode(step.indices[rows], step.values[rows])
        reconstruction = torch.nn.functional.normalize(reconstruction)
        residual = x - (x * reconstruction).sum(1, keepdim=True) * reconstruction
        residuals[in_share] = torch.nn.functional.normalize(residual)
        self.replicas.sum(residuals)
        return dead, residuals

    @torch.no_grad()
    def _resample_dead(self, dead: Tensor, residuals: Tensor) -> None:
        """Re-initialise dead latents (m,) from residuals (m, d) and reset their Adam moments."""
        model = self.model
        model.decoder[dead] = residuals
        model.encoder[dead] = residuals
        model.encoder_bias[dead] = 0
        for parameter in model.parameters():
            state = self.optimizer.state[parameter]
            state["exp_avg"][dead] = 0
            state["exp_avg_sq"][dead] = 0
        self.last_used[dead] = self.step

    def save(self, path: str | Path) -> None:
        """Write the whole state as a checkpoint folder."""
        tensors = dict(self.model.state_dict())
        for name, parameter in self.model.named_parameters():
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"{name}.{key}"] = self.optimizer.state[parameter][key]
        tensors["last_used"] = self.last_used
        saved.save_checkpoint(path, self.step, self.config, self.items.shape, tensors)

    @torch.no_grad()
    def restore(self, path: str | Path) -> None:
        """Resume from a checkpoint of the same configuration and table shape."""
        step, tensors = saved.load_checkpoint(path, self.config, self.items.shape)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[name])
            state = self.optimizer.state[parameter]
            state["step"].fill_(step)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key].copy_(tensors[f"{name}.{key}"])
        self.last_used.copy_(tensors["last_used"])
        self.step = step
