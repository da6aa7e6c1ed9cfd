"""Batches of training pairs, and negatives drawn for them."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

from compressae.retrieval.errors import InputError


class NegativeSampler:
    """Draw items that a user has no training pair with, uniformly.

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
        """Draw an item (m,) int64 for each of users (m,), by rejection of training pairs."""
        items = rng.integers(0, self._n_items, len(users))
        rejected = np.arange(len(users))
        while len(rejected):
            keys = users[rejected].astype(np.int64) * self._n_items + items[rejected]
            positions = np.searchsorted(self._keys, keys)
            positions[positions == len(self._keys)] = 0
            rejected = rejected[self._keys[positions] == keys]
            items[rejected] = rng.integers(0, self._n_items, len(rejected))
        return items


def pair_batches(
    train: csr_array, size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all training pairs in random order: users (m,) and items (m,) int64, m ≤ size."""
    users = np.repeat(np.arange(train.shape[0], dtype=np.int64), np.diff(train.indptr))
    order = rng.permutation(train.nnz)
    for start in range(0, train.nnz, size):
        chosen = order[start : start + size]
        yield users[chosen], train.indices[chosen].astype(np.int64)


def user_batches(
    train: csr_array, size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield all users that have pairs in random order, with all of their pairs.

    Batches have equally many users, and ``size`` pairs on average.

    Yields:
        users (b,) int64 ascending; rows (m,) int64, the position in ``users`` of each pair's
        user; items (m,) int64.
    """
    counts = np.diff(train.indptr)
    order = rng.permutation(np.flatnonzero(counts))
    for users in np.array_split(order, steps_per_epoch(train, size, by_user=True)):
        users = np.sort(users).astype(np.int64)
        rows = np.repeat(np.arange(len(users)), counts[users])
        yield users, rows, train[users].indices.astype(np.int64)


def steps_per_epoch(train: csr_array, size: int, by_user: bool) -> int:
    """Number of batches of ``user_batches`` (``by_user``) or ``pair_batches``."""
    steps = -(-train.nnz // size)
    return min(steps, int(np.count_nonzero(np.diff(train.indptr)))) if by_user else steps
