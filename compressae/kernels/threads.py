"""Split rows over threads.

Kernels release the GIL and write disjoint rows, so a plain thread pool runs them in parallel and
the result does not depend on the number of threads.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import pairwise


def available_threads() -> int:
    """Count the processors this process may use, or those of ``limited``."""
    limit = _limit.get()
    if limit is not None:
        return limit
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_limit: ContextVar[int | None] = ContextVar("threads", default=None)


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Set the number of threads of kernels called without one in a ``with`` block; None keeps it.

    >>> with limited(3):
    ...     available_threads()
    3
    """
    token = _limit.set(threads or _limit.get())
    try:
        yield
    finally:
        _limit.reset(token)


_worker = threading.local()


def _mark_worker() -> None:
    _worker.in_pool = True


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """The pool of a process: a forked child has the parent's pool without its threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="compressae", initializer=_mark_worker)


def over_rows(work: Callable[[int, int], None], n: int, threads: int | None = None) -> None:
    """Call ``work(start, stop)`` on disjoint slices that cover ``range(n)``.

    An input of one row runs in the calling thread. So does a nested call: a worker that waited for
    the pool it runs in would deadlock.

    Args:
        work: processes rows start..stop; an exception it raises reaches the caller.
        n: number of rows.
        threads: number of threads; every processor the process may use when None.

    >>> squares = [0] * 4
    >>> def square(start, stop):
    ...     for i in range(start, stop):
    ...         squares[i] = i * i
    >>> over_rows(square, 4, threads=2)
    >>> squares
    [0, 1, 4, 9]
    """
    threads = 1 if n <= 1 else min(threads or available_threads(), n)
    if threads <= 1 or getattr(_worker, "in_pool", False):
        work(0, n)
        return
    bounds = [n * i // threads for i in range(threads + 1)]
    slices = pairwise(bounds)
    pool = _pool(threads, os.getpid())
    for future in [pool.submit(work, start, stop) for start, stop in slices]:
        future.result()
