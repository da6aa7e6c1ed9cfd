"""Rows that may be among the best of a sparse query, found by summing posting lists in integers.

Weights are rounded so that no sum overflows, and what rounding can do to a score is bounded, so
that the rows within the bound hold every row of the true best:

    w = rint(s·q), with s so large that ‖w‖·‖row‖ ≤ limit (Cauchy–Schwarz: no partial sum of w·c
    exceeds it; c are the stored values);
    |Σ w·c − (s / step)·q·row| ≤ ε = min(‖δ‖·norm, Σ|δ|·127) + s·min(‖q‖·error, Σ|q| / 2),
    δ = w − s·q;

a row whose sum is more than 2ε below the K-th largest sum is not among the K best.
"""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.kernels.backend import uses_triton
from compressae.kernels.candidates import cpu
from compressae.kernels.postings import LARGEST, WINDOW, Postings

if TYPE_CHECKING:
    from compressae.kernels.candidates.gpu import Resident

#: Queries whose windows are read together.
TOGETHER = 32
#: Bins of the running count that gives the threshold.
_BINS = 1 << 12
#: Sums of 16 bits while rows are shorter than this (in steps); above, 16 bits leave too few for the
#: query's weights, and sums of 32 are kept.
_SHORT = 300
#: Arrays of more candidates than these are not kept for the next call.
_KEEP = 1 << 21
_NO_MASK = np.empty(0, np.bool_)
_kept = threading.local()


@dataclass(frozen=True, eq=False)
class Candidates:
    """What was found for m queries.

    Attributes:
        rows: one (c,) int32 array a query, ascending.
        scores: one (c,) float32 array a query: sums in units of their own.
        complete: (m,) bool: the rows hold every one of the K best, ties included. Where not, too
            few sums are clearly positive (then there are fewer rows than K), or too many are alike.
        unit: (m,) float64: what a sum of 1 stands for.
        slack: (m,) float64: a row's score is within (sum ± slack)·unit.
    """

    rows: list[np.ndarray]
    scores: list[np.ndarray]
    complete: np.ndarray
    unit: np.ndarray
    slack: np.ndarray


def find_candidates(
    postings: Postings,
    indptr: np.ndarray,
    latents: np.ndarray,
    values: np.ndarray,
    count: int,
    exact: bool,
    mask: np.ndarray | None = None,
) -> Candidates:
    """Rows of largest sums of m sparse queries, each of positive sum.

    Args:
        postings: the lists.
        indptr: (m + 1,) int64 bounds of the queries.
        latents: (nnz,) unsigned, each once a query; values (nnz,) float32, finite.
        count: K, how many rows are wanted.
        exact: give all rows within 2ε of the K-th sum; else rows down to the K-th sum (a few more
            where sums are alike to 1/4096 of the largest possible).
        mask: (n,) bool: rows that may be found; all when None.
    """
    m = len(indptr) - 1
    whole = postings.values.dtype == np.int8
    kind: np.dtype = np.dtype(np.float32)
    if whole:
        kind = np.dtype(np.int16 if postings.norm <= _SHORT else np.int32)
    limit = 1 << (24 if kind == np.int32 else 15)
    weights = np.empty(len(latents), kind)
    bands, unit = np.empty(m, np.int64), np.empty(m)
    cpu.weigh(
        indptr, values, limit - 1, postings.norm, postings.error, LARGEST if whole else 0,
        postings.step, weights, bands, unit,
    )  # fmt: skip
    slack = bands / 2
    if not exact:
        bands[:] = 0
    room = min(8192 + 8 * count, -(-postings.rows // 64) * 64 + 64)
    width = min(WINDOW, -(-postings.rows // 64) * 64)
    sums, counts, rows, scores = _scratch(m, room, width, kind)
    filled, complete = np.zeros(m, np.int64), np.empty(m, np.bool_)
    shift = limit.bit_length() - _BINS.bit_length()
    cpu.find(
        postings.docs, postings.values, postings.bounds, postings.places, postings.rows, indptr,
        latents, weights, bands, count, shift, _NO_MASK if mask is None else mask, sums, counts,
        rows, scores, filled, complete,
    )  # fmt: skip
    return Candidates(
        [rows[i, : filled[i]].copy() for i in range(m)],
        [scores[i, : filled[i]].copy() for i in range(m)],
        complete,
        unit,
        slack,
    )


def resident(postings: Postings, device: Any) -> "Resident":
    """Lists of int8 values on a device, for ``top_candidates``; ``nbytes`` says what they take.

    Raises:
        ValueError: the values are floats.
    """
    from compressae.kernels.candidates import gpu

    return gpu.Resident.of(postings, device)


def top_candidates(
    lists: "Resident", latents: Any, values: Any, count: int, mask: Any = None
) -> tuple[Any, Any]:
    """The ``count`` rows of largest sums of sparse queries, on a GPU; sums are of whole weights
    that stand for the values to some 2^-20 of their length, and exact.

    Args:
        lists: of ``resident``, n rows over h latents.
        latents: (q, m) integer tensor below h, each once a query; values (q, m) float32, finite.
        count: C, at least 1.
        mask: (n,) bool, the rows that may be found; all when None.

    Returns:
        rows (q, C) int64 and sums (q, C) int32, by descending sum, ties by smaller row; only
        positive sums, then −1 and 0.

    Raises:
        ValueError: rows so long that their sums would pass 32 bits; tensors that no GPU holds.
    """
    uses_triton(values, "triton")
    from compressae.kernels.candidates import gpu

    return gpu.top_candidates(lists, latents, values, count, mask)


def _scratch(m: int, room: int, width: int, kind: np.dtype) -> tuple[np.ndarray, ...]:
    """Arrays of ``cpu.find``, kept for this thread's next call: fresh pages would take longer than
    a search of few rows. Sums begin a cache line, so that vectors of them lie within lines."""
    key = (m, room, width, kind)
    if m * room > _KEEP:
        _kept.key = None
        return _arrays(m, room, width, kind)
    if getattr(_kept, "key", None) != key:
        _kept.key, _kept.arrays = key, _arrays(m, room, width, kind)
    return _kept.arrays


def _arrays(m: int, room: int, width: int, kind: np.dtype) -> tuple[np.ndarray, ...]:
    memory = np.empty(width + 64, kind)
    sums = memory[-memory.ctypes.data % 64 // kind.itemsize :][:width]
    rows, scores = np.empty((m, room), np.int32), np.empty((m, room), np.float32)
    return sums, np.empty((m, _BINS), np.int32), rows, scores
