"""Show the progress of long work on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_SECONDS_BETWEEN_LINES = 5.0


class Report(Protocol):
    """Function that reports progress."""

    def __call__(self, done: int, total: int, details: str = "") -> None:
        """Report that ``done`` of ``total`` steps are done."""


@contextmanager
def progress(what: str, seconds: float = _SECONDS_BETWEEN_LINES) -> Iterator[Report]:
    """Yield a function that reports progress; call it with (done, total, details) at any rate.

    Args:
        what: name of the work.
        seconds: least time between two plain lines.
    """
    started = time.monotonic()

    def time_left(done: int, total: int) -> str:
        """Estimate the time left from the mean speed so far; empty before the first step."""
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
                left = time_left(done, total)
                bar.update(task, completed=done, total=total, details=details, left=left)

            yield show
        return
    last_line = started

    def write(done: int, total: int, details: str = "") -> None:
        nonlocal last_line
        if time.monotonic() - last_line < seconds and done < total:
            return
        last_line = time.monotonic()
        line = f"{what} {done:,}/{total:,} {details} {time_left(done, total) or '? s left'}"
        print(" ".join(line.split()), file=sys.stderr, flush=True)

    yield write
