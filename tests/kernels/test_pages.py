"""Read-ahead of mapped arrays: which ranges are merged, and that pages come into memory."""

import ctypes
import mmap
import os
import sys
import time

import numpy as np
import pytest

from compressae.kernels.pages import blocks_read, merged_runs, random_access, read_ahead

PAGE = mmap.PAGESIZE


@pytest.mark.parametrize(
    ("starts", "stops", "runs"),
    [
        ([], [], []),
        ([70, 70], [70, 70], []),
        ([5], [6], [(0, 6)]),
        ([PAGE + 5], [PAGE + 6], [(PAGE, PAGE + 6)]),
        ([0, 9 * PAGE], [PAGE, 10 * PAGE], [(0, 10 * PAGE)]),
        ([0, 10 * PAGE], [PAGE, 11 * PAGE], [(0, PAGE), (10 * PAGE, 11 * PAGE)]),
        ([0, 1, 40 * PAGE], [30 * PAGE, 2, 41 * PAGE], [(0, 30 * PAGE), (40 * PAGE, 41 * PAGE)]),
    ],
    ids=["none", "empty", "one", "page", "near", "apart", "nested"],
)
@pytest.mark.skipif(PAGE != 4096, reason="runs are merged by bytes; the cases count pages of 4 KiB")
def test_near_ranges_are_merged(starts, stops, runs):
    first, last = merged_runs(np.array(starts, np.int64), np.array(stops, np.int64))
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == runs


def resident(data):
    """Whether each page of a mapped array is in memory."""
    flags = np.zeros(-(-data.nbytes // PAGE), np.uint8)
    libc = ctypes.CDLL(None)
    place, size = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
    assert libc.mincore(place, size, ctypes.c_void_p(flags.ctypes.data)) == 0
    return flags & 1


@pytest.fixture
def evicted(tmp_path):
    """A mapped array of 4 MiB, no page of which is in memory."""
    if sys.platform != "linux":
        pytest.skip("pages are read ahead on Linux alone")
    path = tmp_path / "data"
    path.write_bytes(bytes(1 << 22))
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    data = np.asarray(np.memmap(path, np.uint16, "r"))
    if resident(data).any():
        pytest.skip("this file system keeps its pages in memory")
    return data


def test_ranges_that_are_asked_for_come_into_memory_and_no_others(evicted):
    before = blocks_read()
    pages = np.array([100, 900])
    read_ahead(evicted, pages * PAGE // 2, (pages + 5) * PAGE // 2)
    with random_access(evicted):  # Waits until they are there.
        assert not evicted[pages * PAGE // 2].any()
    assert blocks_read() > before
    deadline = time.monotonic() + 10
    wanted = [*range(100, 105), *range(900, 905)]
    while np.flatnonzero(resident(evicted)).tolist() != wanted and time.monotonic() < deadline:
        time.sleep(0.01)  # Nobody waited for the other pages.
    assert np.flatnonzero(resident(evicted)).tolist() == wanted


def test_a_page_is_read_alone_where_access_is_random(evicted):
    with random_access(evicted):
        assert evicted[500 * PAGE // 2] == 0
    assert np.flatnonzero(resident(evicted)).tolist() == [500]
