"""Split rows over threads.

Kernels are compiled without the GIL and write disjoint rows, so that a plain thread pool runs them
in parallel and the result does not depend on how many threads there are.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise


def available_threads() -> int:
    """Number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_worker = threading.local()


def _begin() -> None:
    _worker.is_one = True


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="compressae", initializer=_begin)


def over_rows(work: Callable[[int, int], None], n: int, threads: int | None = None) -> None:
    """Call ``work(start, stop)`` on slices that together cover ``range(n)`` exactly once.

    ``threads=None`` uses every processor the process may use. Small inputs run in the caller, and
    so does what work itself splits: its thread would wait for one that is not free.
    """
    threads = min(threads or available_threads(), n)
    if threads <= 1 or getattr(_worker, "is_one", False):
        work(0, n)
        return
    bounds = [n * i // threads for i in range(threads + 1)]
    slices = pairwise(bounds)
    for done in [_pool(threads).submit(work, start, stop) for start, stop in slices]:
        done.result()
