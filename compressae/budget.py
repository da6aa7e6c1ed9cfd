"""Sharing out a budget of bytes over rows."""

import re
from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000 ** (i + 1) for i, prefix in enumerate("KMGT")}
_UNITS |= {f"{prefix}iB": 1024 ** (i + 1) for i, prefix in enumerate("KMGT")}


def parse_budget(budget: str | int, n: int) -> int:
    """Bytes in all, of a number, "4 GB", "512 MiB" or "48 B/row".

    Raises:
        InputError: it is none of these, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*(/\s*row)?\s*", str(budget))
    if found is None or found[2] not in _UNITS or float(found[1]) <= 0:
        raise InputError(
            f"budget {budget!r}: expected bytes above 0, such as 4000000, '4 GB', '512 MiB' or "
            "'48 B/row'"
        )
    return int(float(found[1]) * _UNITS[found[2]] * (n if found[3] else 1))


def allot(gains: np.ndarray, lengths: np.ndarray, budget: int, weights: Any = None) -> np.ndarray:
    """Nonzeros of each row, so that rows take at most ``budget`` bytes and lessen the error most.

    Steps of a row (its r-th nonzero) are taken in the order of weight · gain; a step counts as no
    better than the ones before it, so that a row's steps are taken in turn. What remains is less
    than one step, unless every row has all its nonzeros.

    Args:
        gains: (n, K) float16 or float32, ≥ 0: by how much the r-th nonzero lessens a row's error.
        lengths: (K + 1,) int64 bytes of a row of k nonzeros.
        budget: bytes of all rows.
        weights: (n,) ≥ 0, or None for even ones.

    Returns:
        (n,) uint8, 1 to K.

    Raises:
        InputError: the budget is too small for one nonzero a row, or larger than K nonzeros in
            every row by more than 1 %; weights of another length, negative or not finite.
    """
    n, most = gains.shape
    least, all_of_it = n * int(lengths[1]), n * int(lengths[most])
    if budget < least:
        raise InputError(
            f"budget: {budget} bytes for {n} rows; one nonzero a row takes {least}; give more, or "
            "fewer residual bytes"
        )
    if budget > all_of_it * 1.01:
        raise InputError(
            f"budget: {budget} bytes for {n} rows; {most} nonzeros in every row take {all_of_it}; "
            "give less, or more residual bytes"
        )
    scale = np.ones(n, np.float32)
    if weights is not None:
        scale = np.asarray(weights, np.float32)
        if scale.shape != (n,) or not np.isfinite(scale).all() or (scale < 0).any():
            raise InputError(f"weights: expected {n} finite numbers of 0 or more, one a row")
    # The upper half of a positive float32 orders like the number: 2^15 bins of gain.
    steps = np.minimum.accumulate(gains[:, 1:].astype(np.float32), axis=1) * scale[:, None]
    bins = (np.ascontiguousarray(steps).view(np.uint32) >> 16).astype(np.uint16)
    costs = np.diff(lengths)[1:most]
    left = budget - least
    spent = np.zeros(1 << 15, np.int64)
    for r, cost in enumerate(costs):
        spent += cost * np.bincount(bins[:, r], minlength=1 << 15)
    from_top = np.cumsum(spent[::-1])[::-1]
    fitting = np.flatnonzero(from_top <= left)
    floor = int(fitting[0]) if len(fitting) else 1 << 15
    counts = 1 + (bins >= floor).sum(1)
    left -= int(from_top[floor]) if floor < 1 << 15 else 0
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
