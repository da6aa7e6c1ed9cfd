"""Hits, the results of a search, and the protocols of indexes."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.atomic import replacing


@dataclass(frozen=True, eq=False)
class Hits:
    """Results of q queries, best first, ties by smaller id.

    Attributes:
        ids: (q, K) int64; −1 where a query has fewer than K results.
        scores: (q, K) float32; −inf where the id is −1.
        rows_scored: rows whose codes were scored, of all queries; 0 where that is not counted.

    >>> Hits(np.array([[3, 7]]), np.array([[0.9, 0.8]], np.float32))
    Hits(1 query, K = 2; best: id 3, score 0.9)
    """

    ids: np.ndarray
    scores: np.ndarray
    rows_scored: int = 0

    def __len__(self) -> int:
        """q."""
        return len(self.ids)

    def __repr__(self) -> str:
        q, K = self.ids.shape
        best = ""
        if q and K and self.scores[0, 0] > -np.inf:
            best = f"; best: id {self.ids[0, 0]}, score {self.scores[0, 0]:.4g}"
        return f"Hits({q} {'query' if q == 1 else 'queries'}, K = {K}{best})"

    @classmethod
    def empty(cls, q: int, K: int) -> "Hits":
        """Make hits of padding alone, to be filled from the left."""
        return cls(np.full((q, K), -1, np.int64), np.full((q, K), -np.inf, np.float32))

    def scale(self, start: int, factors: np.ndarray) -> None:
        """Multiply the scores of queries start… by factors (m,), in place; padding stays."""
        rows = slice(start, start + len(factors))
        scores = self.scores[rows]
        with np.errstate(over="ignore"):  # Products beyond float32 are infinite.
            np.multiply(scores, factors[:, None], out=scores, where=self.ids[rows] >= 0)

    def save(self, path: str | Path) -> None:
        """Write ``ids`` and ``scores`` as a .npz file, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, ids=self.ids, scores=self.scores)


class Searcher(Protocol):
    """An index that answers dense queries over n items."""

    def __len__(self) -> int:
        """n."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory that grow with n."""

    def search(self, queries: Any, K: int) -> Hits:
        """Find the K best items of each dense query (q, d)."""


#: Ids and scores of one query, best first.
Ranked = tuple[np.ndarray, np.ndarray]


def merge_hits(parts: Sequence[Ranked], hits: Hits, query: int) -> None:
    """Merge the results of segments into the hits of one query.

    Args:
        parts: (ids, scores) of each segment, best first.
        hits: updated in place.
        query: row of ``hits``.

    >>> hits = Hits.empty(1, 2)
    >>> merge_hits([(np.array([4, 1]), np.array([3.0, 1.0])), ([7], [2.0])], hits, 0)
    >>> hits.ids, hits.scores
    (array([[4, 7]]), array([[3., 2.]], dtype=float32))
    """
    ids, scores = parts[0]
    if len(parts) > 1:
        ids = np.concatenate([part[0] for part in parts])
        scores = np.concatenate([part[1] for part in parts])
        order = np.lexsort((ids, -scores))[: hits.ids.shape[1]]
        ids, scores = ids[order], scores[order]
    hits.ids[query, : len(ids)], hits.scores[query, : len(ids)] = ids, scores


def check_count(K: int) -> None:
    """Refuse a K that is no whole number of 1 or more.

    Raises:
        InputError: see above.

    >>> check_count(0)
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: K = 0: expected a whole number of at least 1, the \
results a query
    """
    if type(K) is int and K >= 1:  # The usual case: the check below takes as long as a kernel.
        return
    if not isinstance(K, Integral) or isinstance(K, bool) or K < 1:
        raise InputError(f"K = {K!r}: expected a whole number of at least 1, the results a query")
