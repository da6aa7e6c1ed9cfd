"""Sharing out a budget of bytes over rows."""

from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError


def check_importance(importance: Any, n: int) -> np.ndarray:
    """Importance of n rows as float32; ones for None.

    Raises:
        InputError: they are not n finite numbers of 0 or more.
    """
    if importance is None:
        return np.ones(n, np.float32)
    wanted = f"importance: expected {n} finite numbers of 0 or more, one a row"
    try:
        scale = np.asarray(importance, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{wanted} ({error})") from error
    if scale.shape != (n,) or not np.isfinite(scale).all() or (scale < 0).any():
        raise InputError(wanted)
    return np.abs(scale)  # -0.0 would not order.


def check_budget(budget: int, n: int, lengths: np.ndarray, base: int) -> None:
    """Refuse a budget that is too small for one nonzero a row, or too large for all.

    Args:
        budget: bytes of all codes.
        n: rows.
        lengths: (K + 1,) int64 bytes of a row of k nonzeros.
        base: bytes beside the rows.
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


#: Bins of weight · gain: the upper half of a positive float32, which orders like the number.
_BINS = 1 << 15
_CHUNK = 1 << 16


def allot(gains: np.ndarray, lengths: np.ndarray, budget: int, weights: np.ndarray) -> np.ndarray:
    """Nonzeros of each row, so that rows take at most ``budget`` bytes and lessen the error most.

    Steps of a row (its r-th nonzero) are taken in the order of weight · gain, to a part in 128; a
    step counts as no better than the ones before it, so that a row's steps are taken in turn. What
    remains is less than the costliest step, unless every row has all its nonzeros.

    Args:
        gains: (n, K) float16 or float32, ≥ 0: by how much the r-th nonzero lessens a row's error.
        lengths: (K + 1,) int64 bytes of a row of k nonzeros.
        budget: bytes of all rows, enough for one nonzero in each.
        weights: (n,) float32 ≥ 0.

    Returns:
        (n,) uint8, 1 to K.
    """
    n, most = gains.shape
    bins = np.empty((n, most - 1), np.uint16)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        steps = np.minimum.accumulate(gains[part, 1:].astype(np.float32), axis=1)
        steps *= weights[part, None]
        bins[part] = steps.view(np.uint32) >> 16
    costs = np.diff(lengths)[1:most]
    left = budget - n * int(lengths[1])
    spent = np.zeros(_BINS, np.int64)
    for r, cost in enumerate(costs):
        spent += cost * np.bincount(bins[:, r], minlength=_BINS)
    from_top = np.cumsum(spent[::-1])[::-1]
    fitting = np.flatnonzero(from_top <= left)
    floor = int(fitting[0]) if len(fitting) else _BINS
    counts = 1 + (bins >= floor).sum(1)
    left -= int(from_top[floor]) if floor < _BINS else 0
    while floor > 0:  # Within the bin below, which does not fit as a whole, rows take turns.
        open_rows = np.flatnonzero(counts < most)
        open_rows = open_rows[bins[open_rows, counts[open_rows] - 1] == floor - 1]
        prices = np.cumsum(costs[counts[open_rows] - 1])
        taken = int(np.searchsorted(prices, left, side="right"))
        counts[open_rows[:taken]] += 1
        if taken < len(open_rows):
            break
        left -= int(prices[-1])
    return counts.astype(np.uint8)
