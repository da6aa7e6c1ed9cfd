"""Train a CompresSAE on a table of embeddings."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compressae.kernels.backend import current
from compressae.model import CompresSAE
from compressae.retrieval.devices import pick_device
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import as_embeddings
from compressae.training.batches import over_batches
from compressae.training.checkpoint import recorded_whitening
from compressae.training.config import TrainConfig, held_out_rows
from compressae.training.distributed import ALONE, Replicas
from compressae.training.gradient import GradientRun
from compressae.training.pursuit import PursuitRun, choose_whitening

_CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training run after a step.

    Attributes:
        step, steps: steps done, and steps in all.
        loss: loss of this step's batch; for "pursuit" ‖x − x̂‖² of unit rows, of 2,048 at most.
        cosine: mean cos(x, x̂) of this step's batch at k nonzeros; for "pursuit" of the same rows.
        dead_latents, latents: latents that no recent batch used, and all.
        rows_per_second: mean speed since this call of ``train`` began.
        seconds_left: at that speed.
    """

    step: int
    steps: int
    loss: float
    cosine: float
    dead_latents: int
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
        progress: called after every step, not after the eight of a trial of ``whitening`` that
            come first where it is left out. A KeyboardInterrupt that it raises is passed on after
            the checkpoint is saved.
        checkpoint: folder that keeps the state, once a minute and at that interruption.
        resume: go on from the checkpoint; it must be of the same settings and table shape.
        replicas: this process among those of ``torch.distributed``: ``Replicas.here()``.

    Returns:
        The model on the CPU; ``model.settings`` records the configuration and the table's rows.

    Raises:
        InputError: a row is NaN or infinite, or with similarity "cosine" zero; too few rows;
            nothing to resume from.

    >>> from compressae import load_sample
    >>> items = load_sample().embeddings.subset(np.arange(1000))
    >>> model = train(items, TrainConfig(latents=128, nonzeros=8, steps=4))
    >>> model.dim, model.latents, model.settings["rows"]
    (384, 128, 1000)
    """
    config = config or TrainConfig()
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=, the folder to resume from")
    origin = checkpoint if resume else None
    items = as_embeddings(items)
    n = len(items)
    if n - config.hold_out < 2:
        raise InputError(
            f"{items.name}: {n} rows with {config.hold_out} held out; expected at least 2 rows to "
            "train on; give more rows or hold out fewer"
        )
    if config.similarity == "dot":
        items = items.compared_by("dot")
    has_direction = np.empty(n, bool)  # A row of zeros has none to learn from.

    def check(first: int, rows: np.ndarray) -> None:
        has_direction[first : first + len(rows)] = rows.any(axis=1)

    over_batches(items, check)
    if config.hold_out or not has_direction.all():
        rows = np.sort(held_out_rows(n, config.hold_out)[1])
        items = items.subset(rows[has_direction[rows]])
    if len(items) < 2:
        raise InputError(f"{items.name}: {len(items)} rows that are not zero; expected at least 2")
    run: GradientRun | PursuitRun
    if config.recipe == "pursuit":
        if replicas.count > 1:
            raise InputError(
                f"{replicas.count} processes: recipe 'pursuit' trains in one process; start it "
                "without torchrun, or choose recipe 'autoencoder'"
            )
        where = pick_device(device)
        if config.whitening is None:
            if origin is None:
                power = choose_whitening(items, config, where)
            else:
                power = recorded_whitening(origin)
            config = replace(config, whitening=power)
        run = PursuitRun(items, config, where)
    else:
        run = GradientRun(items, config, pick_device(device), replicas)
    if origin is not None:
        run.restore(origin)
    _advance(run, config, progress, checkpoint if replicas.rank == 0 else None, replicas)
    model = run.model.cpu()
    model.settings = {**asdict(config), "rows": n, "device": run.device.type}
    return model


def _advance(
    run: GradientRun | PursuitRun,
    config: TrainConfig,
    progress: Callable[[TrainProgress], None] | None,
    checkpoint: str | Path | None,
    replicas: Replicas,
) -> None:
    """Take the steps that are left, saving the state once a minute and at an interruption."""
    started, first, last_saved = time.monotonic(), run.step, time.monotonic()
    assert config.steps is not None
    while run.step < config.steps:
        with current(run.device):
            loss, cosine = run.advance()
        if checkpoint is not None and time.monotonic() - last_saved > _CHECKPOINT_SECONDS:
            run.save(checkpoint)
            last_saved = time.monotonic()
        interrupted = False
        if progress is not None:
            speed = (run.step - first) / max(time.monotonic() - started, 1e-9)
            step = TrainProgress(
                step=run.step,
                steps=config.steps,
                loss=float(loss),
                cosine=float(cosine),
                dead_latents=run.dead_latents(),
                latents=config.latents,
                rows_per_second=speed * run.batch,
                seconds_left=(config.steps - run.step) / speed,
            )
            try:
                progress(step)
            except KeyboardInterrupt:
                interrupted = True
        if replicas.any(interrupted, run.device):
            if checkpoint is not None:
                run.save(checkpoint)
            replicas.any(False, run.device)  # No process goes on before the state is written.
            raise KeyboardInterrupt
