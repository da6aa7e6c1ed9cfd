"""Progress of long work on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_SECONDS_BETWEEN_LINES = 5.0


class Report(Protocol):
    """A function that is called with the work done."""

    def __call__(self, done: int, total: int, details: str = "") -> None:
        """Show that ``done`` of ``total`` is done."""


@contextmanager
def progress(what: str, seconds: float = _SECONDS_BETWEEN_LINES) -> Iterator[Report]:
    """Yield a function to call with (done, total, details) as often as one likes.

    Args:
        what: name of the work.
        seconds: least time between two plain lines.
    """
    started = time.monotonic()

    def left(done: int, total: int) -> str:
        # From the mean speed so far: a step of a minute has an estimate after the first one.
        if not done:
            return ""
        return f"{(time.monotonic() - started) * (total - done) / done:.0f} s left"

    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[details]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=1, details="", left="")

            def show(done: int, total: int, details: str = "") -> None:
                bar.update(
                    task, completed=done, total=total, details=details, left=left(done, total)
                )

            yield show
        return
    last = started

    def write(done: int, total: int, details: str = "") -> None:
        nonlocal last
        if time.monotonic() - last < seconds and done < total:
            return
        last = time.monotonic()
        line = f"{what} {done:,}/{total:,} {details} {left(done, total) or '? s left'}"
        print(" ".join(line.split()), file=sys.stderr, flush=True)

    yield write
