"""BET's actions: random widths of all rows that meet the budget exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from compressae.retrieval.errors import InputError
from compressae.tables.budgets import check_budget, check_shares, widths_of_shares

#: Families of shares and the largest parameter of each; the smallest is 0.
FAMILIES = {"power": 20.0, "normal": 20.0, "exponential": 5.0, "lognormal": 0.5}


@dataclass(frozen=True, eq=False)
class Action:
    """Widths (n,) int64 of all rows, and the family, parameter and entries that each group drew."""

    widths: np.ndarray
    drawn: list[dict[str, Any]]


class ActionSampler:
    """Sample widths like BET (arXiv 2310.14884, section 4.1), but never over the budget.

    A uniform split divides the budget among groups. Each group draws a family (scipy.stats
    ``powerlaw``, ``truncnorm`` from 0, ``truncexpon`` or ``lognorm``), its parameter, and from it a
    share for every row; the k-th most frequent row gets the k-th largest. The published sampler
    floors, raises to 1 and redraws what exceeds d_max, which misses the budget by up to 10 %; here
    ``widths_of_shares`` turns shares into widths of 1 to d_max that use all of it. Entries that a
    group cannot use, or lacks for one a row, are balanced by the other groups.

    Args:
        frequencies: (n,) ≥ 0 of the rows.
        groups: sizes of the groups, in the order of rows, such as (users, items); they sum to n.
        d_max: most entries of a row.
        entries: the budget of all rows; n at least. Widths sum to min(entries, n · d_max).
        by_frequency: the k-th most frequent row gets the k-th largest share; False: a random row,
            BET's ablation without sorting.

    Raises:
        InputError: groups that do not sum to n, a budget below one entry a row, or frequencies
            that are negative or not finite.

    >>> sampler = ActionSampler([9, 1, 5, 2, 2], groups=(2, 3), d_max=8, entries=20)
    >>> widths = sampler.draw(np.random.default_rng(0)).widths
    >>> widths.shape, int(widths.sum()), bool(widths[0] >= widths[1])
    ((5,), 20, True)
    """

    def __init__(
        self,
        frequencies: Any,
        groups: Sequence[int],
        d_max: int,
        entries: int,
        by_frequency: bool = True,
    ) -> None:
        self.frequencies = check_shares(frequencies, "frequencies")
        n = len(self.frequencies)
        if min(groups, default=0) < 1 or sum(groups) != n:
            raise InputError(
                f"groups of {', '.join(map(str, groups))} rows: expected sizes of 1 or more that "
                f"sum to {n}, the number of frequencies"
            )
        check_budget(n, d_max, entries, 1)
        self.groups, self.d_max = tuple(map(int, groups)), int(d_max)
        self.entries = min(int(entries), n * self.d_max)
        self.by_frequency = by_frequency
        parts = np.split(-self.frequencies, np.cumsum(self.groups)[:-1])
        self._orders = [np.argsort(part, kind="stable") for part in parts]

    def draw(self, rng: np.random.Generator) -> Action:
        """Draw an action; by frequency, more frequent rows of a group never get less."""
        widths, drawn = [], []
        for order, part in zip(self._orders, self._split(rng), strict=True):
            family = list(FAMILIES)[rng.integers(len(FAMILIES))]
            parameter = FAMILIES[family] * (1 - rng.random())  # Never 0.
            shares = _shares(family, parameter, np.sort(rng.random(len(order))))
            if not self.by_frequency:
                order = rng.permutation(len(order))
            of_group = np.empty(len(order), np.int64)
            of_group[order] = np.sort(widths_of_shares(shares, self.d_max, part))[::-1]
            widths.append(of_group)
            drawn.append({"family": family, "parameter": parameter, "entries": part})
        return Action(np.concatenate(widths), drawn)

    def _split(self, rng: np.random.Generator) -> list[int]:
        """Split the budget: 1 to d_max entries a row for each group."""
        least = np.array(self.groups)
        most = least * self.d_max
        split = rng.dirichlet(np.ones(len(least))) * self.entries  # Of two: U(0, 1).
        parts = np.clip(split.astype(np.int64), least, most)
        for group in range(len(parts)):
            missing = self.entries - parts.sum()
            parts[group] = np.clip(parts[group] + missing, least[group], most[group])
        return [int(part) for part in parts]


def _shares(family: str, parameter: float, uniform: np.ndarray) -> np.ndarray:
    """Map uniform numbers (n,) of [0, 1) by the inverse of a family's distribution function."""
    if family == "power":  # a·x^(a − 1) on [0, 1].
        return uniform ** (1 / parameter)
    if family == "normal":  # The standard one between 0 and b.
        return ndtri(0.5 + uniform * (ndtr(parameter) - 0.5))
    if family == "exponential":  # e^−x between 0 and b.
        return -np.log1p(uniform * np.expm1(-parameter))
    return np.exp(parameter * ndtri(np.maximum(uniform, np.finfo(np.float64).tiny)))
