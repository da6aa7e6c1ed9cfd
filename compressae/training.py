"""Training CompresSAE on a table of embeddings."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressae import checkpoint as saved
from compressae.config import TrainConfig, held_out_rows
from compressae.devices import current, pick_device
from compressae.dictionary import DictionaryRun
from compressae.drift import LEAST_ROWS, measure_reference
from compressae.gradients import Step, take_gradients
from compressae.model import CompresSAE
from compressae.replicas import ALONE, Replicas
from compressae.retrieval.embeddings import Embeddings, as_embeddings, unit_rows
from compressae.retrieval.errors import InputError

#: Part of the training during which dead latents are replaced; after it they settle.
_REVIVE_UNTIL = 0.7
#: A latent is dead when no row of the last so many batches used it.
_DEAD_AFTER = 60
#: Noise on the data rows that recipe "autoencoder" starts from, as a share of their length.
_START_NOISE = 0.3
_CHECKPOINT_SECONDS = 60.0
#: Share of a GPU's free memory that the table may take there; a larger one is sent batch by batch.
_TABLE_SHARE = 0.5


@dataclass(frozen=True)
class TrainProgress:
    """Where training stands after a step.

    Attributes:
        step, steps: steps done, and to do in all.
        loss: of this step's batch.
        cosine: mean cos(x, x̂) of this step's batch at k nonzeros.
        live_latents, latents: latents used by a recent batch, and all.
        rows_per_second: since this call of ``train`` began.
        seconds_left: at that speed.
    """

    step: int
    steps: int
    loss: float
    cosine: float
    live_latents: int
    latents: int
    rows_per_second: float
    seconds_left: float


def train(
    items: Any,
    config: TrainConfig | None = None,
    device: str = "auto",
    progress: Callable[[TrainProgress], None] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    replicas: Replicas = ALONE,
) -> CompresSAE:
    """Train the matrices of sparse codes on the rows of a table.

    The model's settings keep a reference, what ``compressae.drift.check`` compares later batches
    with; of fewer than 100 rows there is none.

    The same seed, table, torch version and processor give the same weights bit for bit on the CPU,
    also when the run was interrupted and resumed.

    With ``replicas`` several processes train one model (recipes "autoencoder" and "paper"): all
    call this with the same arguments, each takes its share of every batch, the gradients are
    summed, and all return the same model, that of one process up to rounding. The first process
    alone writes the checkpoint, and where one is interrupted, all stop at the end of that step.

    Args:
        items: (n, d) embeddings: an array, a path or ``Embeddings``. Every row is read once before
            training, so that a bad one is named at the start.
        config: settings; ``TrainConfig()`` when None.
        device: "cpu", "cuda" or "auto", a GPU where there is one.
        progress: called after every step. A KeyboardInterrupt that it raises is passed on after
            the checkpoint is saved.
        checkpoint: folder that keeps the state, once a minute and at that interruption.
        resume: go on from the checkpoint; it must be of the same settings and table shape.
        replicas: this process among those of ``torch.distributed``: ``Replicas.here()``.

    Raises:
        InputError: a row is NaN, infinite or zero; too few rows; nothing to resume from.
    """
    config = config or TrainConfig()
    items = as_embeddings(items)
    n = len(items)
    if n - config.hold_out < 2:
        raise InputError(
            f"{items.name}: {n} rows with {config.hold_out} held out; expected at least 2 rows to "
            "train on; give more rows or hold out fewer"
        )
    items.check()
    table = items
    if config.hold_out:
        items = items.subset(np.sort(held_out_rows(n, config.hold_out)[1]))
    run: _Run | DictionaryRun
    if config.recipe == "pursuit":
        if replicas.count > 1:
            raise InputError(
                f"{replicas.count} processes: recipe 'pursuit' trains in one process; start it "
                "without torchrun, or choose recipe 'autoencoder'"
            )
        run = DictionaryRun(items, config, pick_device(device))
    else:
        run = _Run(items, config, pick_device(device), replicas)
    if resume:
        if checkpoint is None:
            raise ValueError("resume=True needs checkpoint=, the folder to resume from")
        run.restore(checkpoint)
    kept = checkpoint if replicas.rank == 0 else None
    started, first, last_saved = time.monotonic(), run.step, time.monotonic()
    assert config.steps is not None
    while run.step < config.steps:
        with current(run.device):
            loss, cosine = run.advance()
        if kept is not None and time.monotonic() - last_saved > _CHECKPOINT_SECONDS:
            run.save(kept)
            last_saved = time.monotonic()
        interrupted = False
        if progress is not None:
            speed = (run.step - first) / max(time.monotonic() - started, 1e-9)
            now = TrainProgress(
                run.step,
                config.steps,
                float(loss),
                float(cosine),
                run.live_latents(),
                config.latents,
                speed * run.batch,
                (config.steps - run.step) / speed,
            )
            try:
                progress(now)
            except KeyboardInterrupt:
                interrupted = True
        if replicas.any(interrupted, run.device):
            if kept is not None:
                run.save(kept)
            replicas.any(False, run.device)  # None goes on before it is written.
            raise KeyboardInterrupt
    model = run.model.cpu()
    model.settings = {**asdict(config), "rows": n, "device": run.device.type}
    if n - config.hold_out >= LEAST_ROWS:
        model.settings["reference"] = measure_reference(model, table).to_settings()
    return model


def _free_bytes(device: torch.device) -> int:
    """Memory that a GPU has free; none on the CPU, where rows stay in their file."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


class _Run:
    """The state of a training run between two steps.

    Every random choice comes from a generator made of the seed and the step or epoch, so that the
    state needs no generator and a resumed run repeats an uninterrupted one.
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
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=0.0, betas=(0.9, 0.99), fused=True
        )
        self.step = 0
        self.last_used = torch.zeros(config.latents, dtype=torch.int64, device=device)
        self._epoch = -1
        self._order = np.empty(0, np.int64)
        self._table = self._on_device()

    def _on_device(self) -> Tensor | None:
        """All unit rows (n, d) on the GPU, where they leave room there."""
        n, d = self.items.shape
        if 4 * n * d > _TABLE_SHARE * _free_bytes(self.device):
            return None
        table = torch.empty(n, d, device=self.device)
        for start, rows in self.items.batches():
            table[start : start + len(rows)] = torch.from_numpy(unit_rows(rows))
        return table

    @torch.no_grad()
    def _start_from_rows(self) -> None:
        """Both matrices: data rows plus noise, of unit length; more latents than rows repeat."""
        rng = np.random.default_rng([self.config.seed, 0, 0])
        n, d = self.items.shape
        h = self.config.latents
        rows = np.resize(rng.permutation(n), h) if n < h else rng.choice(n, h, replace=False)
        noise = unit_rows(rng.standard_normal((h, d), dtype=np.float32))
        start = unit_rows(unit_rows(self.items.take(rows)) + _START_NOISE * noise)
        self.model.decoder.copy_(torch.from_numpy(start))
        self.model.encoder.copy_(self.model.decoder)

    def next_batch(self) -> Tensor:
        """Unit rows (batch, d) of this step: each epoch goes once over the rows in a new order."""
        n, config = len(self.items), self.config
        steps_an_epoch = n // self.batch
        epoch, place = divmod(self.step, steps_an_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([config.seed, 1, epoch])
            count = min(steps_an_epoch, self.steps) * self.batch
            self._order, self._epoch = rng.choice(n, count, replace=False), epoch
        rows = self._order[place * self.batch : (place + 1) * self.batch]
        rows = rows[self.replicas.share(self.batch)]
        if self._table is not None:
            return self._table[torch.from_numpy(rows).to(self.device)]
        return torch.from_numpy(unit_rows(self.items.take(rows))).to(self.device)

    def advance(self) -> tuple[Tensor, Tensor]:
        """One optimiser step: (loss, mean cosine at k) of its batch."""
        config, model = self.config, self.model
        assert config.wide_weight is not None
        x = self.next_batch()
        step = take_gradients(model, x, config.wide_weight)
        means = torch.stack([step.loss, step.cosines.mean()])
        if self.replicas.count > 1:  # Means of the whole batch from means of the shares.
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
        model.project_decoder_gradient()
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(self.step)
        self.step += 1
        self.last_used[step.indices.long().flatten()] = self.step
        self.replicas.max(self.last_used)
        due = self.step % config.revive_every == 0 and self.step < _REVIVE_UNTIL * self.steps
        revives = config.recipe == "autoencoder" and due
        dead, lacking = self._lacking(x, step) if revives else (None, None)
        self.optimizer.step()
        model.normalize_decoder()
        if dead is not None and lacking is not None:
            self._revive(dead, lacking)
        return loss, cosine

    def live_latents(self) -> int:
        """Latents that a row of the last batches used."""
        return int((self.last_used > self.step - _DEAD_AFTER).sum())

    @torch.no_grad()
    def _lacking(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Dead latents (m,) and what as many badly coded rows of the batch lack (m, d).

        Rows are drawn with weight 1 − cos, and lack the unit residual x − (x·x̂/‖x̂‖²) x̂.
        """
        share = self.replicas.share(self.batch)
        weights = torch.zeros(self.batch, dtype=torch.float64, device=self.device)
        weights[share] = (1 - step.cosines).clamp(min=0).double()
        self.replicas.sum(weights)
        weight = weights.cpu().numpy()
        dead = torch.nonzero(self.last_used <= self.step - _DEAD_AFTER).flatten()
        dead = dead[: int((weight > 0).sum())]
        lacking = torch.zeros(len(dead), x.shape[1], device=self.device)
        if len(dead) == 0:
            return dead, lacking
        rng = np.random.default_rng([self.config.seed, 2, self.step])
        drawn = rng.choice(self.batch, len(dead), replace=False, p=weight / weight.sum())
        mine = torch.from_numpy((drawn >= share.start) & (drawn < share.stop)).to(self.device)
        rows = torch.from_numpy(drawn).to(self.device)[mine] - share.start
        x, near = x[rows], self.model.decode(step.indices[rows], step.values[rows])
        near = torch.nn.functional.normalize(near)
        rest = x - (x * near).sum(1, keepdim=True) * near
        lacking[mine] = torch.nn.functional.normalize(rest)
        self.replicas.sum(lacking)
        return dead, lacking

    @torch.no_grad()
    def _revive(self, dead: Tensor, lacking: Tensor) -> None:
        """Both matrices take what rows lack for dead latents; Adam's moments there start anew."""
        model = self.model
        model.decoder[dead] = lacking
        model.encoder[dead] = lacking
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
        """Take over the state of a checkpoint of the same settings and table shape."""
        step, tensors = saved.load_checkpoint(path, self.config, self.items.shape)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[name])
            moments = {
                key: tensors[f"{name}.{key}"].to(self.device) for key in ("exp_avg", "exp_avg_sq")
            }
            count = torch.tensor(float(step), device=self.device)
            self.optimizer.state[parameter] = {"step": count, **moments}
        self.last_used.copy_(tensors["last_used"])
        self.step = step
