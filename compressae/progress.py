"""Progress of long work on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from compressae.training import TrainProgress

_SECONDS_BETWEEN_LINES = 5.0


class Report(Protocol):
    def __call__(self, done: int, total: int, details: str = "") -> None: ...


@contextmanager
def progress(what: str, seconds: float = _SECONDS_BETWEEN_LINES) -> Iterator[Report]:
    """A function to call with (done, total, details) as often as one likes; lines come no sooner
    than so many seconds one after another."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[details]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=1, details="")

            def show(done: int, total: int, details: str = "") -> None:
                bar.update(task, completed=done, total=total, details=details)

            yield show
        return
    started = last = time.monotonic()

    def write(done: int, total: int, details: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds and done < total:
            return
        last = now
        left = (now - started) * (total - done) / max(done, 1)
        line = f"{what} {done:,}/{total:,} {details} {left:.0f} s left"
        print(" ".join(line.split()), file=sys.stderr, flush=True)

    yield write


def training_details(now: TrainProgress) -> str:
    """Loss, cosine, live latents and speed of a training step, in one line."""
    return (
        f"loss {now.loss:.4f} cosine {now.cosine:.4f} live {now.live_latents}/{now.latents} "
        f"{now.rows_per_second:,.0f} rows/s"
    )
