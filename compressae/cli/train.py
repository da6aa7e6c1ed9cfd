"""Command train: train a sparse autoencoder."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from compressae.cli import common, training
from compressae.cli.progress import progress
from compressae.evaluation.drift import LEAST_ROWS, measure_reference
from compressae.model import CompresSAE
from compressae.retrieval.index.projection import KIND
from compressae.retrieval.io.artifacts import check_destination
from compressae.retrieval.io.embeddings import Embeddings
from compressae.training.distributed import Replicas, launched
from compressae.training.loop import TrainProgress
from compressae.training.loop import train as train_model


@click.command(
    cls=common.Command,
    examples=(
        "train items.npy -o model --hold-out 1000",
        "train items.npy -o model --similarity dot --nonzeros 8",
        "train shards/ -o model --latents 16384 --nonzeros 16 --recipe pursuit",
    ),
)
@common.EMBEDDINGS
@common.output_option("Folder of the model.")
@training.training_options
@click.option(
    "--hold-out",
    default=0,
    show_default=True,
    help="Rows held out of training, for the queries of 'evaluate'.",
)
@click.option("--resume", is_flag=True, help="Resume from the checkpoint MODEL.checkpoint.")
@common.column_option
@common.json_option
def train(
    embeddings: Path,
    output: Path,
    overwrite: bool,
    hold_out: int,
    resume: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a sparse autoencoder on EMBEDDINGS (.npy, .safetensors, .parquet or a folder of them).

    Writes a checkpoint MODEL.checkpoint once a minute and at Ctrl-C; --resume continues from it.

    On several GPUs: torchrun --nproc-per-node 4 -m compressae train … --recipe autoencoder.
    """
    with launched(settings["device"]) as device:
        _train(
            embeddings, output, overwrite, hold_out, resume, as_json, {**settings, "device": device}
        )


def _train(
    embeddings: Path,
    output: Path,
    overwrite: bool,
    hold_out: int,
    resume: bool,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Train on the device of ``settings`` and save the model."""
    config = training.make_config(hold_out, settings)
    common.check_output(output, KIND, overwrite)
    checkpoint = output.with_name(output.name + ".checkpoint")
    check_destination(checkpoint, "checkpoint")
    items = common.open_table(embeddings)
    try:
        model = run(items, config, settings["device"], checkpoint, resume)
    except KeyboardInterrupt:
        cure = "repeat the command with --resume to go on"
        if not checkpoint.exists():
            cure = "no checkpoint had been written yet"
        raise click.ClickException(f"stopped; {cure}") from None
    if Replicas.here().rank > 0:  # Only the first process writes the model.
        return
    model.save(output)
    shutil.rmtree(checkpoint, ignore_errors=True)
    shape = {"dim": model.dim, "latents": model.latents, "nonzeros": model.nonzeros}
    common.say({"model": str(output), "model_id": model.model_id, **shape}, as_json)


def run(
    items: Embeddings,
    config: Any,
    device: str,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> CompresSAE:
    """Train with progress on stderr and measure the reference figures for ``check``.

    Ctrl-C stops at the end of a step.

    Raises:
        KeyboardInterrupt: the run was stopped.
    """
    replicas = Replicas.here()
    display = progress("training") if replicas.rank == 0 else nullcontext()
    with display as show, stop_at_a_step() as is_stopped:

        def report(step: TrainProgress) -> None:
            if show is not None:
                show(step.step, step.steps, training_details(step))
            if is_stopped():
                raise KeyboardInterrupt

        model = train_model(items, config, device, report, checkpoint, resume, replicas)
    if len(items) - config.hold_out >= LEAST_ROWS:
        model.settings["reference"] = measure_reference(model, items).to_settings()
    return model


def training_details(step: TrainProgress) -> str:
    """Format loss, cosine, dead latents and speed of a training step as one line."""
    return (
        f"loss {step.loss:.4f} cosine {step.cosine:.4f} dead {step.dead_latents}/{step.latents} "
        f"{step.rows_per_second:,.0f} rows/s"
    )


@contextmanager
def stop_at_a_step() -> Iterator[Callable[[], bool]]:
    """Yield a function: whether Ctrl-C was pressed. A second Ctrl-C interrupts at once."""
    interrupted = False

    def handle(number: int, frame: Any) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    old_handler = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, old_handler)
