"""Candidates of sparse queries, by integer scores from posting lists.

Weights are rounded so that no sum overflows. The rounding error of a score is bounded, so the rows
within the bound include the exact top K:

    w = rint(s·q), with s so large that ‖w‖·‖row‖ ≤ limit (Cauchy–Schwarz: no partial sum of w·c
    exceeds it; c are the stored values);
    |Σ w·c − (s / step)·q·row| ≤ ε = min(‖δ‖·norm, Σ|δ|·127) + s·min(‖q‖·error, Σ|q| / 2),
    δ = w − s·q;

a row whose sum is more than 2ε below the K-th largest sum is not in the top K.

Products of w and c of opposite signs only lower a sum: Σ w·c over those of equal sign, half of the
postings of signed codes, is an upper bound of the whole sum. If K rows score more than
(floor + ε)·step / s, the best K are among the rows whose upper bound reaches the floor.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compressae.kernels.candidates import cpu
from compressae.kernels.pages import random_access, read_ahead
from compressae.kernels.postings import LARGEST, WINDOW, Postings

#: Queries per batch: they share the reads of a window.
TOGETHER = 32
#: Queries per batch where lists come from disk, which costs more than room in the cache.
TOGETHER_FROM_DISK = 128
#: Bytes of lists read ahead at a time.
BYTES_AHEAD = 1 << 25
#: Bins of the histogram that gives the threshold.
_BINS = 1 << 12
#: Longest row (in steps) with 16-bit sums. Longer rows leave too few bits for the query's weights,
#: so their sums take 32.
_SHORT = 300
#: Most candidates in scratch arrays that are reused by the next call.
_KEEP = 1 << 21
_NO_MASK = np.empty(0, np.bool_)
_NO_ROWS = np.empty(0, np.int64)
_kept = threading.local()


@dataclass(eq=False)
class Candidates:
    """Candidates of m queries.

    Attributes:
        rows: one (c,) int32 array per query, ascending.
        scores: one (c,) float32 array per query, in units of ``unit``.
        complete: (m,) bool: the rows include the exact top K and its ties. False if too few sums
            are clearly positive (the rows are then fewer than K) or too many are nearly equal.
        unit: (m,) float64 score of a sum of 1.
        slack: (m,) float64 error bound: a row's exact score is within (sum ± slack)·unit.
        floor: (m,) float64: the sums of all rows that may be returned and are not are below it.
            Infinite if there were too many rows.
    """

    rows: list[np.ndarray]
    scores: list[np.ndarray]
    complete: np.ndarray
    unit: np.ndarray
    slack: np.ndarray
    floor: np.ndarray

    def is_below(self, i: int, score: float) -> bool:
        """Whether the scores of all other rows with query i are below ``score``."""
        return bool(score > (self.floor[i] + self.slack[i]) * self.unit[i])


def find_candidates(
    postings: Postings,
    indptr: np.ndarray,
    latents: np.ndarray,
    values: np.ndarray,
    count: int,
    exact: bool,
    mask: np.ndarray | None = None,
    excluded: tuple[np.ndarray, np.ndarray] | None = None,
    from_disk: bool = False,
    upper: bool = False,
) -> Candidates:
    """Retrieve candidates of m sparse queries: the rows of largest positive score.

    Args:
        postings: posting lists of n rows.
        indptr: (m + 1,) int64 CSR offsets of the queries.
        latents: (nnz,) unsigned, distinct within a query.
        values: (nnz,) float32, finite.
        count: K, the number of results the candidates are for.
        exact: return all rows within 2ε of the K-th largest sum, which include the exact top K.
            Otherwise return rows down to the K-th largest sum, and those that tie with it to 1/4096
            of the range.
        mask: (n,) bool, True for rows that may be returned; all rows when None.
        excluded: rows that each query leaves out, as CSR: bounds (m + 1,) int64, and rows (e,)
            int64, below n, ascending within a query; none when None.
        from_disk: the postings are mapped and not all in memory: read the queries' lists ahead.
        upper: sums are upper bounds: of the products that are positive. Not ``exact``.

    >>> from compressae.kernels.postings import build_postings
    >>> indptr, ids = np.array([0, 2, 3, 4]), np.array([0, 1, 1, 0], np.uint32)
    >>> values = np.array([1, 2, 3, -1], np.float32)
    >>> postings = build_postings(lambda a, b: (indptr, ids, values, None), np.diff(indptr), 2, 3.0)
    >>> query = np.array([0, 2]), np.array([0, 1], np.uint32), np.array([1, 1], np.float32)
    >>> candidates = find_candidates(postings, *query, count=2, exact=True)
    >>> candidates.rows, (candidates.scores[0] * candidates.unit[0]).round(2)
    ([array([0, 1], dtype=int32)], array([3., 3.]))
    """
    m = len(indptr) - 1
    whole = postings.values.itemsize == 1
    kind: np.dtype = np.dtype(np.float32)
    if whole:
        kind = np.dtype(np.int16 if postings.norm <= _SHORT else np.int32)
    limit = 1 << (24 if kind == np.int32 else 15)
    lists, weights = np.empty(2 * len(latents), np.int64), np.empty(2 * len(latents), kind)
    list_indptr, bands, unit = np.empty(m + 1, np.int64), np.empty(m, np.int64), np.empty(m)
    cpu.weigh(
        indptr, latents, values, limit - 1, postings.norm, postings.error, LARGEST if whole else 0,
        postings.step, postings.bounds, upper, list_indptr, lists, weights, bands, unit,
    )  # fmt: skip
    slack = bands / 2
    if not exact:
        bands[:] = 0
    room = min(8192 + 8 * count, -(-postings.rows // 64) * 64 + 64)
    sums, counts, rows, scores = _scratch(m, room, kind)
    filled, complete, floors = np.zeros(m, np.int64), np.empty(m, np.bool_), np.empty(m)
    shift = limit.bit_length() - _BINS.bit_length()
    excluded_bounds, excluded_rows = excluded or (np.zeros(m + 1, np.int64), _NO_ROWS)
    edges, above = np.zeros(m, np.int64), np.zeros(m, np.int64)
    next_excluded = excluded_bounds[:-1].copy()

    def find(first: int, last: int) -> None:
        cpu.find(
            postings.docs, postings.values, postings.bounds, postings.offsets, postings.rows,
            list_indptr, lists, weights, bands, count, shift, _NO_MASK if mask is None else mask,
            excluded_bounds, excluded_rows, sums, counts, rows, scores, filled, complete, floors,
            edges, above, next_excluded, first, last,
        )  # fmt: skip

    windows = postings.bounds.shape[1] - 1
    if from_disk:
        with random_access(postings.docs, postings.values):
            _find_reading_ahead(postings, lists[: list_indptr[-1]], find)
    else:
        find(0, windows)
    ends = filled.tolist()
    return Candidates(
        [row[:end].copy() for row, end in zip(rows, ends, strict=True)],
        [score[:end].copy() for score, end in zip(scores, ends, strict=True)],
        complete,
        unit,
        slack,
        floors,
    )


def _find_reading_ahead(
    postings: Postings, lists: np.ndarray, find: Callable[[int, int], None]
) -> None:
    """Call ``find`` on groups of windows, after asking for the lists of each."""
    used = np.unique(lists)
    bounds, offsets = postings.bounds[used], postings.offsets[used]
    windows = bounds.shape[1] - 1
    nbytes = int(bounds[:, -1].sum(dtype=np.int64)) * (2 + postings.values.itemsize)
    step = max(1, windows * BYTES_AHEAD // max(1, nbytes))

    for first in range(0, windows, step):
        last = min(first + step, windows)
        for data in (postings.docs, postings.values):
            read_ahead(data, offsets + bounds[:, first], offsets + bounds[:, last])
        find(first, last)


def _scratch(m: int, room: int, kind: np.dtype) -> tuple[np.ndarray, ...]:
    """Scratch arrays of ``cpu.find``, reused by the thread's next call.

    The page faults of new arrays would take longer than a search of few rows.
    """
    key = (m, room, kind)
    if m * room > _KEEP:
        _kept.key = None
        return _arrays(m, room, kind)
    if getattr(_kept, "key", None) != key:
        _kept.key, _kept.arrays = key, _arrays(m, room, kind)
    return _kept.arrays


def _arrays(m: int, room: int, kind: np.dtype) -> tuple[np.ndarray, ...]:
    """Allocate sums (aligned to cache lines, for vector loads), counts, rows and scores."""
    memory = np.empty(WINDOW + 64, kind)
    sums = memory[-memory.ctypes.data % 64 // kind.itemsize :][:WINDOW]
    rows, scores = np.empty((m, room), np.int32), np.empty((m, room), np.float32)
    return sums, np.empty((m, _BINS), np.int32), rows, scores
