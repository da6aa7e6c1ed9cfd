"""Read-ahead of memory-mapped arrays.

A page that is not in memory stops the thread that touches it, and pages read one after the other
take as long as the disk's latency times their number. Where what is needed next is known, the
system reads it at once and many requests wait together.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

if sys.platform == "linux":
    import resource

    _madvise: Any = ctypes.CDLL(None).madvise
    _madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

#: Bytes between two runs that are read with them: a request takes about as long as so many bytes.
_GAP = 1 << 15
#: Bytes of a request: of a larger one Linux reads no more than the device's read-ahead.
_REQUEST = 1 << 17


def read_ahead(data: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
    """Ask the system for ``data[start:stop]`` of each pair, without waiting for it.

    Nothing happens to pages that are in memory, and nothing at all but on Linux.

    Args:
        data: (n,) contiguous, mapped from a file.
        starts, stops: (m,) integers, entries of ``data``; starts ascending.
    """
    if sys.platform != "linux":
        return
    first, last = (entries.astype(np.int64) * data.itemsize for entries in (starts, stops))
    runs = merged_runs(first, last, data.ctypes.data)
    for start, stop in zip(*(ends.tolist() for ends in runs), strict=True):
        for place in range(start, stop, _REQUEST):
            _madvise(place, min(_REQUEST, stop - place), mmap.MADV_WILLNEED)


@contextmanager
def random_access(*arrays: np.ndarray) -> Iterator[None]:
    """Read single pages where mapped arrays (n,) are touched in the block, nothing around them.

    A page that was asked for and dropped again, because memory is short, is then read alone.
    """
    _advise(arrays, "MADV_RANDOM")
    try:
        yield
    finally:
        _advise(arrays, "MADV_NORMAL")


def _advise(arrays: tuple[np.ndarray, ...], advice: str) -> None:
    """Tell the system how all pages of mapped arrays will be read."""
    if sys.platform == "linux":
        for data in arrays:
            start = data.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
            _madvise(start, data.ctypes.data + data.nbytes - start, getattr(mmap, advice))


def merged_runs(
    starts: np.ndarray, stops: np.ndarray, address: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Merge byte ranges that are near each other: first bytes, of pages, and ends (runs,) int64.

    Args:
        starts, stops: (m,) int64, starts ascending; empty ranges are left out.
        address: of byte 0.

    >>> first, last = merged_runs(np.array([5000, 9000, 90000]), np.array([5100, 9100, 90100]))
    >>> first.tolist(), last.tolist()
    ([4096, 86016], [9100, 90100])
    """
    filled = stops > starts
    first = (starts[filled] + address) // mmap.PAGESIZE * mmap.PAGESIZE
    last = np.maximum.accumulate(stops[filled] + address)
    apart = np.flatnonzero(first[1:] > last[:-1] + _GAP)
    heads = np.concatenate([[0], apart + 1])[: len(first)]
    return first[heads], last[np.concatenate([heads[1:] - 1, [-1]])[: len(first)]]


def blocks_read() -> int:
    """Count what this thread has had read from disk, in blocks of 512 bytes; 0 but on Linux."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock if sys.platform == "linux" else 0
