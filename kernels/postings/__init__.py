"""Posting lists: for each latent, the rows that hold it, in windows of 65,536 rows.

A window has lists of its own, with row numbers of 16 bits and values of 8: three bytes a nonzero.
Its scores fit the cache while they are summed, windows are built side by side, and rows that come
later are windows more.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compressae.kernels.postings import cpu
from compressae.kernels.threads import over_rows

#: Rows of a window, all that 16 bits can name.
WINDOW = 1 << 16
#: Largest number of an int8 value.
LARGEST = 127

#: Latents up to which rows are checked with a stamp for each.
_STAMPS = 1 << 22
_NO_FACTORS = np.empty(0, np.float32)

#: Rows start..stop as CSR: bounds (m + 1,), latents, values, and a factor of each row or None.
Read = Callable[[int, int], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, eq=False)
class Postings:
    """Posting lists of n rows over h latents in ⌈n / 65,536⌉ windows.

    The list of latent l in window w is ``docs[a:b]`` and ``values[a:b]``, with
    ``a, b = places[w] + bounds[w, l], places[w] + bounds[w, l + 1]``; a row is ``65536·w`` more
    than its number in ``docs``, its value ``step`` times the stored one.

    Attributes:
        docs: (nnz,) uint16, ascending within a list.
        values: (nnz,) int8 or float32.
        bounds: (windows, h + 1) uint32.
        places: (windows,) int64.
        rows: n.
        step: what a stored value of 1 stands for.
        norm: the largest ‖row‖₂ of stored values.
        error: the largest ‖row / step − stored‖₂, what rounding took.
    """

    docs: np.ndarray
    values: np.ndarray
    bounds: np.ndarray
    places: np.ndarray
    rows: int
    step: float
    norm: float
    error: float

    @property
    def nbytes(self) -> int:
        """Row numbers, values and bounds."""
        arrays = (self.docs, self.values, self.bounds, self.places)
        return sum(array.nbytes for array in arrays)


def build_postings(
    read: Read,
    counts: np.ndarray,
    h: int,
    largest: float,
    values: np.dtype | type = np.int8,
    threads: int | None = None,
) -> Postings:
    """Posting lists of sparse rows, window by window: no second copy of the rows is made.

    Args:
        read: gives rows start..stop of at most a window; latents unsigned, values of any type,
            numbers = values · factor.
        counts: (n,) int64 nonzeros of each row.
        h: number of latents.
        largest: no |number| is larger.
        values: int8, rounded to ``largest`` / 127, or float32, kept.
        threads: processors to use; all that the process may use when None.
    """
    n = len(counts)
    windows = -(-n // WINDOW)
    sizes = np.add.reduceat(counts, np.arange(0, n, WINDOW))
    places = np.concatenate([[0], np.cumsum(sizes)])
    docs = np.empty(places[-1], np.uint16)
    stored = np.empty(places[-1], values)
    bounds = np.zeros((windows, h + 1), np.uint32)
    step = largest / LARGEST if stored.dtype == np.int8 and largest > 0 else 1.0
    extremes = np.zeros((windows, 2))

    def build(first: int, last: int) -> None:
        for w in range(first, last):
            indptr, ids, numbers, factors = read(w * WINDOW, min((w + 1) * WINDOW, n))
            here = slice(places[w], places[w + 1])
            cpu.build_window(
                indptr, ids, numbers, _NO_FACTORS if factors is None else factors, step,
                bounds[w], docs[here], stored[here], extremes[w],
            )  # fmt: skip

    over_rows(build, windows, threads)
    # A hair more than was computed, so that rounding in float64 cannot make them too small.
    norm, error = np.sqrt(extremes.max(0)) * (1 + 1e-9)
    return Postings(docs, stored, bounds, places[:-1], n, step, float(norm), float(error))


def repeated_latent(indptr: np.ndarray, ids: np.ndarray, h: int) -> int:
    """The first row of CSR bounds (n + 1,) that holds one of ids (nnz,) below h twice; −1 where
    none does."""
    met = np.zeros(h if h <= _STAMPS else 0, np.int64)
    return int(cpu.repeated_latent(indptr, ids, met))


def touched(postings: Postings, latents: np.ndarray) -> np.ndarray:
    """(n,) bool: rows that are in the list of any of these latents (m,) int64."""
    flags = np.zeros(postings.rows, bool)
    p = postings
    cpu.touched(p.docs, p.bounds, p.places, latents, flags)
    return flags
