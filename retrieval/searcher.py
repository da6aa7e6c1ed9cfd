"""What every index is and what it answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.files import replacing


@dataclass(frozen=True, eq=False)
class Hits:
    """Results of q queries, best first, ties by smaller id.

    Attributes:
        ids: (q, K) int64; −1 where a query has fewer than K results.
        scores: (q, K) float32; −inf there.
    """

    ids: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls, q: int, K: int) -> "Hits":
        """Padding alone, to be filled from the left."""
        return cls(np.full((q, K), -1, np.int64), np.full((q, K), -np.inf, np.float32))

    def save(self, path: str | Path) -> None:
        """Write ``ids`` and ``scores`` as a .npz file, at once or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, ids=self.ids, scores=self.scores)


class Searcher(Protocol):
    """Anything that finds neighbours of dense queries among n items."""

    def __len__(self) -> int:
        """n."""

    @property
    def nbytes(self) -> int:
        """Bytes held in memory that grow with n."""

    def search(self, queries: Any, K: int) -> Hits:
        """The K best items of each dense query (q, d)."""


class Baseline(Searcher, Protocol):
    """A searcher that also says what else it holds."""

    @property
    def code_nbytes(self) -> int:
        """Bytes of the n codes alone, without ids, links and lists."""

    @property
    def constant_nbytes(self) -> int:
        """Bytes held that do not grow with n: codebooks, centroids, weights."""


def check_count(K: int) -> None:
    """Refuse a K below 1."""
    if K < 1:
        raise InputError(f"K = {K}: expected at least 1 result a query")
