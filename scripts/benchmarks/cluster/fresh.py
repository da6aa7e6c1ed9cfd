"""Measure in a process of its own, whose memory is its own too."""

import os
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.catalogue.rows import timed

Figures = dict[str, Any]


def in_fresh_process(
    work: Callable[..., Iterator[Figures]], *arguments: Any, threads: int = 1
) -> Iterator[Figures]:
    """Yield the figures of ``work(*arguments)``, as it measures them.

    Args:
        work, arguments: what measures, and of what.
        threads: of its libraries; in this process, with the threads that it has, when 0.

    Raises:
        RuntimeError: the process failed; it has printed why.
    """
    if not threads:
        yield from work(*arguments)
        return
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, arguments))
    before = {
        name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    os.environ.update(dict.fromkeys(before, str(threads)))
    process.start()
    os.environ.update(before)
    sender.close()
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            break
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{work.__name__}: failed with exit code {process.exitcode}")


def _send(sender: Connection, work: Callable[..., Iterator[Figures]], arguments: tuple) -> None:
    for figures in work(*arguments):
        sender.send(figures)


def resident() -> dict[str, float]:
    """Resident memory of this process in MB: its own, and mapped pages of files."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    names = {"own_mb": "RssAnon", "mapped_mb": "RssFile", "peak_mb": "VmHWM"}
    return {name: int(lines[key].split()[0]) * 1024 / 1e6 for name, key in names.items()}


def latencies(search: Callable[[np.ndarray], Any], queries: np.ndarray, rounds: int = 3) -> Figures:
    """Milliseconds of one query (1, d) at a time, after as many to warm up: p50 and p99.

    Beside the time that passed, that of the processor: what a search takes where no other work
    shares the core.
    """
    for query in queries:
        search(query[None])
    seconds = []
    for query in np.concatenate([queries] * rounds):
        cpu = time.process_time()
        passed, _ = timed(lambda: search(query[None]))
        seconds.append((passed, time.process_time() - cpu))
    (p50, cpu_p50), (p99, cpu_p99) = 1e3 * np.percentile(seconds, [50, 99], axis=0)
    return {
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "cpu_p50_ms": float(cpu_p50),
        "cpu_p99_ms": float(cpu_p99),
    }
