"""Allot a budget of bytes to rows: how many nonzeros each row gets."""

from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError


def check_importance(importance: Any, n: int) -> np.ndarray:
    """Check the importance of n rows and convert it to (n,) float32; ones for None.

    Raises:
        InputError: it is not n finite numbers of 0 or more.

    >>> check_importance([3, 0.5], 2), check_importance(None, 2)
    (array([3. , 0.5], dtype=float32), array([1., 1.], dtype=float32))
    """
    if importance is None:
        return np.ones(n, np.float32)
    message = f"importance: expected {n} finite numbers of 0 or more, one a row"
    try:
        numbers = np.asarray(importance, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{message} ({error})") from error
    if numbers.shape != (n,) or not np.isfinite(numbers).all() or (numbers < 0).any():
        raise InputError(message)
    return np.abs(numbers)  # The bits of -0.0 do not sort with those of positive numbers.


def check_budget(budget: int, n: int, lengths: np.ndarray, base: int) -> None:
    """Refuse a budget too small for one nonzero a row, or larger than K nonzeros in every row take.

    Args:
        budget: bytes of the codes.
        n: number of rows.
        lengths: (K + 1,) int64 bytes of a row of 0, 1, …, K nonzeros.
        base: bytes beside the rows.

    Raises:
        InputError: see above.

    >>> check_budget(36, n=10, lengths=np.array([1, 3, 5]), base=7)
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: budget: 36 bytes for 10 rows; one nonzero a row takes \
37; give more, or fewer residual bytes
    """
    least, most = base + n * int(lengths[1]), base + n * int(lengths[-1])
    if budget < least:
        raise InputError(
            f"budget: {budget} bytes for {n} rows; one nonzero a row takes {least}; give more, or "
            "fewer residual bytes"
        )
    if budget > most * 1.01:
        raise InputError(
            f"budget: {budget} bytes for {n} rows; {len(lengths) - 1} nonzeros in every row take "
            f"{most}; give less, or more residual bytes"
        )


#: Bins of importance · error reduction: the upper 16 bits of a positive float32 sort like the
#: number, to a part in 128.
_BINS = 1 << 15
#: Rows whose bins are computed at a time.
_CHUNK = 1 << 16


def allot(
    reductions: np.ndarray, lengths: np.ndarray, budget: int, importance: np.ndarray
) -> np.ndarray:
    """Allot nonzeros to rows: minimise the error of rows that take at most ``budget`` bytes.

    Every row gets one nonzero. Further nonzeros are added by descending importance · error
    reduction, compared to a part in 128. A nonzero counts as no better than those before it in its
    row, so that a row's nonzeros are added in order. The bytes left over are fewer than the largest
    nonzero takes, unless every row has K.

    Args:
        reductions: (n, K) float16 or float32, ≥ 0: error reduction of each successive nonzero.
        lengths: (K + 1,) int64 bytes of a row of 0, 1, …, K nonzeros.
        budget: bytes of all rows; enough for one nonzero in each.
        importance: (n,) float32 ≥ 0: importance of the rows.

    Returns:
        Nonzeros of each row (n,) uint8, 1 to K.

    >>> reductions = np.array([[1, 0.8, 0.1], [1, 0.4, 0.3]], np.float32)
    >>> lengths = np.array([1, 3, 5, 7])
    >>> allot(reductions, lengths, 10, np.ones(2, np.float32))
    array([2, 2], dtype=uint8)
    >>> allot(reductions, lengths, 10, np.array([1, 9], np.float32))
    array([1, 3], dtype=uint8)
    """
    # Bin every nonzero after a row's first by importance · error reduction.
    n, most = reductions.shape
    bins = np.empty((n, most - 1), np.uint16)
    for start in range(0, n, _CHUNK):
        rows = slice(start, start + _CHUNK)
        bins[rows] = _benefits(reductions[rows], importance[rows]).view(np.uint32) >> 16

    # Bytes of all nonzeros of each bin, then of each bin and those above it.
    costs = np.diff(lengths)[1:most]
    budget_left = budget - n * int(lengths[1])
    bin_bytes = np.zeros(_BINS, np.int64)
    for r, cost in enumerate(costs):
        bin_bytes += cost * np.bincount(bins[:, r], minlength=_BINS)
    bytes_from_top = np.cumsum(bin_bytes[::-1])[::-1]

    # Add the nonzeros of all the upper bins that fit the budget.
    fitting_bins = np.flatnonzero(bytes_from_top <= budget_left)
    floor = int(fitting_bins[0]) if len(fitting_bins) else _BINS
    counts = 1 + (bins >= floor).sum(1)
    budget_left -= int(bytes_from_top[floor]) if floor < _BINS else 0

    # The next bin does not fit as a whole: its rows get one nonzero each, in turns.
    while floor > 0:
        open_rows = np.flatnonzero(counts < most)
        open_rows = open_rows[bins[open_rows, counts[open_rows] - 1] == floor - 1]
        total_costs = np.cumsum(costs[counts[open_rows] - 1])
        fitting = int(np.searchsorted(total_costs, budget_left, side="right"))
        counts[open_rows[:fitting]] += 1
        if fitting < len(open_rows):
            break
        budget_left -= int(total_costs[-1])
    return counts.astype(np.uint8)


def _benefits(reductions: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Importance · error reduction (m, K − 1) float32 of each nonzero after a row's first; one
    counts as no better than those before it."""
    benefits = np.minimum.accumulate(reductions[:, 1:].astype(np.float32), axis=1)
    benefits *= importance[:, None]
    return benefits


def lowest_benefit(reductions: np.ndarray, counts: np.ndarray, importance: np.ndarray) -> float:
    """The least importance · error reduction of the allotted nonzeros after a row's first.

    Args:
        reductions, importance: see ``allot``.
        counts: what ``allot`` gave.

    >>> reductions = np.array([[1, 0.75, 0.125], [1, 0.5, 0.25]], np.float32)
    >>> lowest_benefit(reductions, np.array([3, 2], np.uint8), np.ones(2, np.float32))
    0.125
    """
    rows = np.flatnonzero(counts > 1)
    benefits = _benefits(reductions[rows], importance[rows])
    last = benefits[np.arange(len(rows)), counts[rows].astype(int) - 2]
    return float(last.min()) if len(rows) else float(_benefits(reductions, importance).max())


def allot_above(reductions: np.ndarray, least: float, importance: np.ndarray) -> np.ndarray:
    """Allot the nonzeros of at least a benefit to rows, whatever bytes they take; see ``allot``.

    Args:
        reductions, importance: see ``allot``.
        least: importance · error reduction.

    Returns:
        Nonzeros of each row (n,) uint8, 1 to K.

    >>> reductions = np.array([[1, 0.75, 0.125], [1, 0.5, 0.25]], np.float32)
    >>> allot_above(reductions, 0.25, np.ones(2, np.float32))
    array([2, 3], dtype=uint8)
    """
    counts = 1 + (_benefits(reductions, importance) >= np.float32(least)).sum(1)
    return counts.astype(np.uint8)
