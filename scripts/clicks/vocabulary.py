"""Number the values of a categorical feature: rare ones share one id."""

from typing import Any

import numpy as np


class Vocabulary:
    """Ids of values: 0 for rare and unseen ones, the others 1, 2, … in order of first appearance.

    Count the training values in any number of calls, then ``close``, then ``encode``.

    >>> vocabulary = Vocabulary()
    >>> vocabulary.count(np.array(["b", "a", "b", "c", "a"]))
    >>> vocabulary.close(least=2)
    >>> len(vocabulary), vocabulary.encode(np.array(["a", "b", "c", "d"])).tolist()
    (3, [2, 1, 0, 0])
    """

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}
        self._values: np.ndarray = np.zeros(0, np.int64)
        self._ids: np.ndarray = np.zeros(0, np.int32)

    def count(self, values: np.ndarray) -> None:
        """Count values (m,) of numbers or texts."""
        distinct, first, counts = np.unique(values, return_index=True, return_counts=True)
        order = np.argsort(first)
        for value, count in zip(distinct[order].tolist(), counts[order].tolist(), strict=True):
            self._counts[value] = self._counts.get(value, 0) + count

    def close(self, least: int) -> None:
        """Give ids to the values that were counted ``least`` times or more."""
        frequent = [value for value, count in self._counts.items() if count >= least]
        self._counts = {}
        values = np.array(frequent) if frequent else np.zeros(0, np.int64)
        order = np.argsort(values, kind="stable")
        self._values, self._ids = values[order], (order + 1).astype(np.int32)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Number values (m,): ids (m,) int32."""
        if not len(self._values):
            return np.zeros(len(values), np.int32)
        places = np.searchsorted(self._values, values).clip(max=len(self._values) - 1)
        return np.where(self._values[places] == values, self._ids[places], 0).astype(np.int32)

    def __len__(self) -> int:
        """Number of ids, that of rare values included."""
        return len(self._values) + 1
