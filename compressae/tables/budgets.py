"""Widths of rows under a budget of entries, which they use up and never exceed.

Every function returns widths (n,) int64 that sum to min(entries, n · d_max) exactly.
"""

from numbers import Integral
from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError

#: Shares below this part of the largest count as this part: a budget above all others reaches them.
_LEAST_SHARE = 1e-12


def uniform_widths(n: int, d_max: int, entries: int, frequencies: Any = None) -> np.ndarray:
    """Divide entries evenly: widths (n,) int64; the remainder goes to the most frequent rows.

    Args:
        n: rows.
        d_max: most entries of a row.
        entries: the budget of all rows.
        frequencies: (n,) of rows; None for equal ones, whose first rows get the remainder.

    Raises:
        InputError: a negative budget or one that is not an integer, no row, or d_max below 1.

    >>> uniform_widths(4, d_max=8, entries=10, frequencies=[1, 5, 2, 5])
    array([2, 3, 2, 3])
    """
    check_budget(n, d_max, entries, 0)
    widths = np.full(n, min(entries // n, d_max), np.int64)
    remainder = min(entries, n * d_max) - int(widths.sum())
    ranked = np.zeros(n) if frequencies is None else check_shares(frequencies, "frequencies", n)
    widths[np.argsort(-ranked, kind="stable")[:remainder]] += 1
    return widths


def power_widths(
    frequencies: Any, d_max: int, entries: int, power: float = 0.5, least: int = 1
) -> np.ndarray:
    """Divide entries in proportion to frequency^power: widths (n,) int64, ``least`` to d_max.

    Args:
        frequencies: (n,) of rows, ≥ 0.
        d_max: most entries of a row.
        entries: the budget of all rows.
        power: ≥ 0; 0 is uniform.
        least: fewest entries of a row.

    Raises:
        InputError: frequencies or power that are negative or not finite, or a budget that is not
            an integer or below ``least`` in every row.

    >>> power_widths([1, 4, 16], d_max=100, entries=70, power=0.5)
    array([10, 20, 40])
    """
    frequencies = check_shares(frequencies, "frequencies")
    if not (np.isfinite(power) and power >= 0):
        raise InputError(f"power {power}: expected a finite number of 0 or more")
    peak = frequencies.max(initial=0)
    shares = (frequencies / peak if peak > 0 else frequencies) ** power
    return widths_of_shares(shares, d_max, entries, least)


def widths_of_shares(shares: Any, d_max: int, entries: int, least: int = 1) -> np.ndarray:
    """Divide entries in proportion to shares: widths (n,) int64, ``least`` to d_max.

    Water-filling: w_i = clip(level · share_i, least, d_max) with the level at which they sum to the
    budget, rounded down; the largest remainders then get one entry each until the budget is used. A
    larger share never gets less. (BET, arXiv 2310.14884, floors its draws and raises them to 1,
    which is not strict.)

    Args:
        shares: (n,) ≥ 0; all zeros are equal shares.
        d_max: most entries of a row.
        entries: the budget of all rows.
        least: fewest entries of a row.

    Raises:
        InputError: shares that are negative or not finite, or a budget that is not an integer or
            below ``least`` in all rows.

    >>> widths_of_shares([1, 2, 30], d_max=10, entries=19)
    array([ 3,  6, 10])
    """
    shares = check_shares(shares, "shares")
    n = len(shares)
    check_budget(n, d_max, entries, least)
    budget = min(entries, n * d_max)
    peak = shares.max()
    scaled = np.maximum(shares / peak, _LEAST_SHARE) if peak > 0 else np.ones(n)
    low, high = 0.0, d_max / _LEAST_SHARE  # At ``high`` every row is full.
    smallest = scaled.min()
    for _ in range(100):
        level = (low + high) / 2
        if level * smallest >= d_max:  # So they are here: nothing to add up.
            missing = budget - n * d_max
        else:
            missing = budget - np.minimum(np.maximum(level * scaled, least), d_max).sum()
        if missing >= 0:
            low = level
        else:
            high = level
        if 0 <= missing < 0.5:  # Less than rounding leaves.
            break
    exact = np.clip(low * scaled, least, d_max)
    widths = exact.astype(np.int64)
    # The largest remainder first; of equal remainders the largest share.
    order = np.lexsort((-shares, widths - exact))
    while (left := budget - int(widths.sum())) > 0:
        open_rows = order[widths[order] < d_max]
        widths[open_rows[:left]] += 1
    return widths


def check_shares(shares: Any, name: str, n: int | None = None) -> np.ndarray:
    """Convert shares (n,) to float64; refuse negative ones and those that are not finite."""
    try:
        shares = np.asarray(shares, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers (n,), one a row ({error})") from error
    if shares.ndim != 1 or (n is not None and len(shares) != n):
        raise InputError(
            f"{name} {shares.shape}: expected {'n' if n is None else n} numbers, one a row"
        )
    if not np.isfinite(shares).all() or (shares < 0).any():
        raise InputError(f"{name}: expected finite numbers of 0 or more")
    return shares


def check_budget(n: int, d_max: int, entries: int, least: int) -> None:
    """Refuse a budget that is not an integer, or too small for ``least`` entries in n rows."""
    for name, count in (("rows", n), ("d_max", d_max), ("entries", entries), ("least", least)):
        if not isinstance(count, Integral):
            raise InputError(f"{name} {count!r}: expected a whole number; round it down by int()")
    if n < 1 or d_max < 1 or not 0 <= least <= d_max:
        raise InputError(
            f"{n} rows of {least} to {d_max} entries: expected 1 row or more and "
            "0 ≤ least ≤ d_max, d_max 1 or more"
        )
    if entries < n * least:
        raise InputError(
            f"{entries} entries for {n} rows of {least} at least: expected {n * least} or more; "
            "allow more, or a lower least"
        )
