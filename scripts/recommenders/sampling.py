"""Batches of training pairs, and negatives drawn for them."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

from compressae.retrieval.errors import InputError


class NegativeSampler:
    """Draws items that a user has no training pair with, each with the same probability.

    Args:
        train: (n_users, n_items) pairs, ids of each row ascending.

    Raises:
        InputError: a user has every item.
    """

    def __init__(self, train: csr_array) -> None:
        counts = np.diff(train.indptr)
        self._n_items = int(train.shape[1])
        if np.any(full := counts >= self._n_items):
            raise InputError(
                f"user {int(np.flatnonzero(full)[0])} has a training pair with each of the "
                f"{self._n_items} items; expected one to be left as a negative: leave the user out"
            )
        users = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        self._keys = users * self._n_items + train.indices

    def draw(self, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Items (m,) int64, one for each of users (m,); what hits a training pair is drawn anew."""
        items = rng.integers(0, self._n_items, len(users))
        open_ = np.arange(len(users))
        while len(open_):
            keys = users[open_].astype(np.int64) * self._n_items + items[open_]
            places = np.searchsorted(self._keys, keys)
            places[places == len(self._keys)] = 0
            open_ = open_[self._keys[places] == keys]
            items[open_] = rng.integers(0, self._n_items, len(open_))
        return items


def pair_batches(
    train: csr_array, size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All training pairs once, in random order: users (m,) and items (m,) int64, m ≤ size."""
    users = np.repeat(np.arange(train.shape[0], dtype=np.int64), np.diff(train.indptr))
    order = rng.permutation(train.nnz)
    for start in range(0, train.nnz, size):
        chosen = order[start : start + size]
        yield users[chosen], train.indices[chosen].astype(np.int64)


def user_batches(
    train: csr_array, size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All users that have pairs once, in random order, with all of their pairs.

    Users come in batches of equal number, such that a batch has ``size`` pairs on average.

    Yields:
        users (b,) int64 ascending; rows (m,) int64, the place in ``users`` of each pair's; items
        (m,) int64.
    """
    counts = np.diff(train.indptr)
    order = rng.permutation(np.flatnonzero(counts))
    for users in np.array_split(order, steps_per_epoch(train, size, by_user=True)):
        users = np.sort(users).astype(np.int64)
        rows = np.repeat(np.arange(len(users)), counts[users])
        yield users, rows, train[users].indices.astype(np.int64)


def steps_per_epoch(train: csr_array, size: int, by_user: bool) -> int:
    """How many batches ``user_batches`` or ``pair_batches`` make of the pairs."""
    steps = -(-train.nnz // size)
    return min(steps, int(np.count_nonzero(np.diff(train.indptr)))) if by_user else steps
