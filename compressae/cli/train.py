"""compressae train"""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.model import KIND, CompresSAE
from compressae.progress import progress, training_details
from compressae.replicas import Replicas, launched
from compressae.retrieval.embeddings import Embeddings, open_embeddings
from compressae.retrieval.storage import check_destination
from compressae.training import TrainProgress
from compressae.training import train as train_model


@click.command(cls=common.Command)
@common.EMBEDDINGS
@common.output_option("Folder of the model.")
@common.training_options
@click.option(
    "--hold-out",
    default=0,
    show_default=True,
    help="Rows kept out of training, to be the queries of 'evaluate'.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint MODEL.checkpoint.")
@common.json_option
def train(
    embeddings: Path, output: Path, hold_out: int, resume: bool, as_json: bool, **settings: Any
) -> None:
    """Train a sparse autoencoder on EMBEDDINGS (.npy, .safetensors or a folder of shards).

    The state is kept in MODEL.checkpoint once a minute and at Ctrl-C; --resume goes on from it.

    On several GPUs: torchrun --nproc-per-node 4 -m compressae train … --recipe autoencoder.
    """
    with launched(settings["device"]) as device:
        _train(embeddings, output, hold_out, resume, as_json, {**settings, "device": device})


def _train(
    embeddings: Path,
    output: Path,
    hold_out: int,
    resume: bool,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    config = common.make_config(hold_out, settings)
    check_destination(output, KIND)
    checkpoint = output.with_name(output.name + ".checkpoint")
    check_destination(checkpoint, "checkpoint")
    items = open_embeddings(embeddings)
    try:
        model = run(items, config, settings["device"], checkpoint, resume)
    except KeyboardInterrupt:
        cure = "repeat the command with --resume to go on"
        if not checkpoint.exists():
            cure = "no checkpoint had been written yet"
        raise click.ClickException(f"stopped; {cure}") from None
    if Replicas.here().rank > 0:  # The first process writes what all of them have.
        return
    model.save_pretrained(output)
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
    """Train with progress on stderr; Ctrl-C stops at the end of a step."""
    replicas = Replicas.here()
    shown = progress("training") if replicas.rank == 0 else nullcontext()
    with shown as show, stop_at_a_step() as stopped:

        def report(now: TrainProgress) -> None:
            if show is not None:
                show(now.step, now.steps, training_details(now))
            if stopped():
                raise KeyboardInterrupt

        return train_model(items, config, device, report, checkpoint, resume, replicas)


@contextmanager
def stop_at_a_step() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C only makes the given function true; a second one interrupts at once."""
    seen = False

    def note(number: int, frame: Any) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)
