"""Widths of rows under a budget of entries: never one over, and all of it used where rows can.

Every function gives widths (n,) int64 that sum to min(entries, n · d_max) exactly.
"""

from numbers import Integral
from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError

#: Shares below this part of the largest count as this: they get something when all else is full.
_LEAST_SHARE = 1e-12


def uniform_widths(n: int, d_max: int, entries: int, frequencies: Any = None) -> np.ndarray:
    """Even widths (n,) int64; what does not divide goes to the most frequent, or first, rows.

    Args:
        n: rows.
        d_max: entries that a row has at most.
        entries: the budget of all rows.
        frequencies: (n,) of rows, None for equal ones.

    Raises:
        InputError: a negative budget or one that is no whole number, no row, or d_max below 1.
    """
    check_budget(n, d_max, entries, 0)
    widths = np.full(n, min(entries // n, d_max), np.int64)
    left = min(entries, n * d_max) - int(widths.sum())
    ranked = np.zeros(n) if frequencies is None else check_shares(frequencies, "frequencies", n)
    widths[np.argsort(-ranked, kind="stable")[:left]] += 1
    return widths


def power_widths(
    frequencies: Any, d_max: int, entries: int, power: float = 0.5, least: int = 1
) -> np.ndarray:
    """Widths (n,) int64 in proportion to frequency^power, between ``least`` and d_max.

    Args:
        frequencies: (n,) of rows, ≥ 0.
        d_max: entries that a row has at most.
        entries: the budget of all rows.
        power: ≥ 0; 0 is uniform.
        least: entries that a row has at least.

    Raises:
        InputError: frequencies or power that are negative or not finite, or a budget below
            ``least`` in every row or no whole number.
    """
    found = check_shares(frequencies, "frequencies")
    if not (np.isfinite(power) and power >= 0):
        raise InputError(f"power {power}: expected a finite number of 0 or more")
    peak = found.max(initial=0)
    return widths_of_shares((found / peak if peak > 0 else found) ** power, d_max, entries, least)


def widths_of_shares(shares: Any, d_max: int, entries: int, least: int = 1) -> np.ndarray:
    """Widths (n,) int64 in proportion to shares, between ``least`` and d_max, that meet the budget.

    Water-filling: w_i = clip(level · share_i, least, d_max) with the level at which they sum to the
    budget, rounded down, what is left given one by one to the largest remainders. A larger share
    never gets less. This is the repair that makes a draw of BET (arXiv 2310.14884, which floors and
    then raises to 1) strict.

    Args:
        shares: (n,) ≥ 0; all zeros are equal ones.
        d_max: entries that a row has at most.
        entries: the budget of all rows.
        least: entries that a row has at least.

    Raises:
        InputError: shares that are negative or not finite, or a budget below ``least`` in all rows
            or no whole number.
    """
    given = check_shares(shares, "shares")
    n = len(given)
    check_budget(n, d_max, entries, least)
    budget = min(entries, n * d_max)
    peak = given.max()
    found = np.maximum(given / peak, _LEAST_SHARE) if peak > 0 else np.ones(n)
    low, high = 0.0, d_max / _LEAST_SHARE  # At ``high`` every row is full.
    for _ in range(100):
        level = (low + high) / 2
        missing = budget - np.clip(level * found, least, d_max).sum()
        if missing >= 0:
            low = level
        else:
            high = level
        if 0 <= missing < 0.5:  # Less than rounding leaves over.
            break
    exact = np.clip(low * found, least, d_max)
    widths = exact.astype(np.int64)
    # The largest remainder first, and of equal ones the largest share.
    order = np.lexsort((-given, widths - exact))
    while (left := budget - int(widths.sum())) > 0:
        open_rows = order[widths[order] < d_max]
        widths[open_rows[:left]] += 1
    return widths


def check_shares(given: Any, name: str, n: int | None = None) -> np.ndarray:
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers (n,), one a row ({error})") from error
    if found.ndim != 1 or (n is not None and len(found) != n):
        raise InputError(
            f"{name} {found.shape}: expected {'n' if n is None else n} numbers, one a row"
        )
    if not np.isfinite(found).all() or (found < 0).any():
        raise InputError(f"{name}: expected finite numbers of 0 or more")
    return found


def check_budget(n: int, d_max: int, entries: int, least: int) -> None:
    for name, given in (("rows", n), ("d_max", d_max), ("entries", entries), ("least", least)):
        if not isinstance(given, Integral):
            raise InputError(f"{name} {given!r}: expected a whole number; round it down by int()")
    if n < 1 or d_max < 1 or not 0 <= least <= d_max:
        raise InputError(
            f"{n} rows of {least} to {d_max} entries: expected 1 row or more and "
            "0 ≤ least ≤ d_max, d_max 1 or more"
        )
    if entries < n * least:
        raise InputError(
            f"{entries} entries for {n} rows of {least} at least: expected {n * least} or more; "
            "give more, or a lower least"
        )
