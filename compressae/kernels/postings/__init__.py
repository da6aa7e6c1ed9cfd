"""Posting lists: the rows of each latent, in windows of 65,536 rows.

A latent has two lists, of the rows where its value is positive and of those where it is negative.
A query that wants an upper bound of the scores reads one of them: what is left out has the other
sign than the query and lowers a score. Each window has lists of its own, with 16-bit row numbers
and 8-bit values: three bytes per nonzero. The scores of a window fit the cache while they are
summed, and windows are built in parallel. A list's windows lie one behind the other, so that what a
query reads is one run a list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compressae.kernels.postings import cpu
from compressae.kernels.threads import over_rows

#: Rows per window: all that a 16-bit row number can address.
WINDOW = 1 << 16
#: Largest |value| in int8.
LARGEST = 127

#: Most latents for which ``repeated_latent`` marks latents in an array instead of sorting.
_STAMPS = 1 << 22
_NO_FACTORS = np.empty(0, np.float32)

#: Reads rows start..stop as CSR: indptr (m + 1,), latents, values, and a factor per row or None.
Read = Callable[[int, int], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, eq=False)
class Postings:
    """Posting lists of n rows over h latents in ⌈n / 65,536⌉ windows.

    Latent l has the lists 2l, of values ≥ 0, and 2l + 1, of values below 0. List i in window w is
    ``docs[a:b]``, ``values[a:b]`` with ``a, b = offsets[i] + bounds[i, w], offsets[i] +
    bounds[i, w + 1]``. A row is ``65536·w`` plus its number in ``docs``; its value is ``step``
    times the stored one.

    Attributes:
        docs: (nnz,) uint16 row numbers within the window, ascending within a list.
        values: (nnz,) int8 or float32.
        bounds: (2h, windows + 1) uint32 offsets of the windows within a list's run.
        offsets: (2h,) int64 offset of each list's run.
        rows: n.
        step: quantisation step of the values.
        norm: largest ‖row‖₂ of stored values.
        error: largest rounding error of a row, ‖row / step − stored‖₂.
    """

    docs: np.ndarray
    values: np.ndarray
    bounds: np.ndarray
    offsets: np.ndarray
    rows: int
    step: float
    norm: float
    error: float

    @property
    def nbytes(self) -> int:
        """Bytes of row numbers, values and offsets."""
        arrays = (self.docs, self.values, self.bounds, self.offsets)
        return sum(array.nbytes for array in arrays)

    @cached_property
    def has_both_signs(self) -> bool:
        """Whether some values are positive and some negative."""
        sizes = self.bounds[:, -1]
        return bool(sizes[::2].any() and sizes[1::2].any())

    @staticmethod
    def offsets_of(bounds: np.ndarray) -> np.ndarray:
        """Offsets (2h,) int64 of the runs that ``bounds`` (2h, windows + 1) divides."""
        ends = np.cumsum(bounds[:, -1], dtype=np.int64)
        return np.concatenate([[0], ends[:-1]])


def build_postings(
    read: Read,
    counts: np.ndarray,
    h: int,
    largest: float,
    values: np.dtype | type = np.int8,
    threads: int | None = None,
) -> Postings:
    """Build the posting lists of sparse rows, window by window, without a second copy of the rows.

    While row numbers are brought into the order of lists there are two copies of them.

    Args:
        read: returns rows start..stop, at most a window: latents unsigned, values of any dtype;
            an entry is value · factor.
        counts: (n,) int64 nonzeros per row.
        h: number of latents.
        largest: upper bound of |entry|.
        values: dtype to store: int8 (rounded to steps of ``largest`` / 127) or float32.
        threads: number of threads; every processor the process may use when None.

    >>> indptr, ids = np.array([0, 2, 3]), np.array([0, 2, 2], np.uint32)
    >>> values = np.array([127, -64, 32], np.float32)
    >>> def read(start, stop):
    ...     return indptr, ids, values, None
    >>> postings = build_postings(read, np.diff(indptr), h=3, largest=127.0)
    >>> for i in (4, 5):  # Positive and negative values of latent 2.
    ...     a, b = postings.offsets[i] + postings.bounds[i]
    ...     postings.docs[a:b], postings.values[a:b]
    (array([1], dtype=uint16), array([32], dtype=int8))
    (array([0], dtype=uint16), array([-64], dtype=int8))
    """
    n = len(counts)
    windows = -(-n // WINDOW)
    sizes = np.add.reduceat(counts, np.arange(0, n, WINDOW))
    places = np.concatenate([[0], np.cumsum(sizes)])
    docs = np.empty(places[-1], np.uint16)
    stored = np.empty(places[-1], values)
    ends = np.zeros((windows, 2 * h + 1), np.uint32)
    step = largest / LARGEST if stored.dtype == np.int8 and largest > 0 else 1.0
    extremes = np.zeros((windows, 2))

    def build(first: int, last: int) -> None:
        for w in range(first, last):
            indptr, ids, numbers, factors = read(w * WINDOW, min((w + 1) * WINDOW, n))
            window = slice(places[w], places[w + 1])
            cpu.build_window(
                indptr,
                ids,
                numbers,
                _NO_FACTORS if factors is None else factors,
                step,
                ends[w],
                docs[window],
                stored[window],
                extremes[w],
            )

    over_rows(build, windows, threads)
    # Both are upper bounds: a relative 1e-9 covers the rounding of the float64 sums.
    norm, error = np.sqrt(extremes.max(0)) * (1 + 1e-9)
    bounds = np.zeros((2 * h, windows + 1), np.uint32)
    np.cumsum(np.diff(ends, axis=1).T, axis=1, out=bounds[:, 1:])
    offsets = Postings.offsets_of(bounds)
    if windows > 1:  # The lists of one window are in their order already.
        docs = _by_list(docs, ends, places, offsets, threads)
        stored = _by_list(stored, ends, places, offsets, threads)
    return Postings(docs, stored, bounds, offsets, n, step, float(norm), float(error))


def _by_list(
    data: np.ndarray,
    ends: np.ndarray,
    places: np.ndarray,
    offsets: np.ndarray,
    threads: int | None,
) -> np.ndarray:
    """Reorder (nnz,) postings from windows of lists to lists of windows.

    Args:
        data: row numbers or values.
        ends: (windows, 2h + 1) uint32 offsets of the lists within a window.
        places: (windows + 1,) int64 offset of each window.
        offsets: (2h,) int64 offset of each list's run.
        threads: processors to use.
    """
    out = np.empty_like(data)

    def copy(first: int, last: int) -> None:
        cpu.by_list(data, ends, places, offsets, first, last, out)

    over_rows(copy, len(offsets), threads)
    return out


def repeated_latent(indptr: np.ndarray, ids: np.ndarray, h: int) -> int:
    """Find the first CSR row that repeats a latent; −1 if none does.

    Args:
        indptr: (n + 1,) int64.
        ids: (nnz,) latents below h.
        h: number of latents.

    >>> repeated_latent(np.array([0, 2, 4]), np.array([0, 1, 2, 2], np.uint32), h=3)
    1
    """
    last_row = np.zeros(h if h <= _STAMPS else 0, np.int64)
    return int(cpu.repeated_latent(indptr, ids, last_row))


#: What ``canonical_rows`` finds, by the number that its kernel returns.
_FAULTS = ("", "repeats or zeros", "not finite", "out of range")


def canonical_rows(indptr: np.ndarray, ids: np.ndarray, values: np.ndarray, h: int) -> str:
    """Check that CSR rows hold each latent once, with a finite value that is not 0.

    Args:
        indptr: (n + 1,) integers.
        ids: (nnz,) integers.
        values: (nnz,) float32.
        h: number of latents.

    Returns:
        "" if so, else "repeats or zeros", "not finite" or "out of range".

    >>> canonical_rows(np.array([0, 2]), np.array([5, 5]), np.ones(2, np.float32), h=9)
    'repeats or zeros'
    """
    return _FAULTS[cpu.canonical_rows(indptr, ids, values, h)]


def touched(postings: Postings, latents: np.ndarray) -> np.ndarray:
    """Mark the rows (n,) bool that are in a list of any of the latents (m,) int64."""
    p = postings
    # A flag for every 16-bit number: those of a damaged file may lie beyond the last row.
    flags = np.zeros((p.bounds.shape[1] - 1) * WINDOW, bool)
    cpu.touched(p.docs, p.bounds, p.offsets, latents, flags)
    return flags[: p.rows]
