"""An index of another library as a baseline."""

from typing import Any

import numpy as np

from compressae.retrieval.baselines.ordering import write_hits
from compressae.retrieval.index.exact import check_queries
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.io.embeddings import Similarity, as_embeddings


class LibraryIndex:
    """n items in an index of a library, compared by inner product: of unit rows for cosine.

    Results are ordered by score and id; among rows that tie for the last place, the library
    chooses.

    Attributes:
        shape: (n, d).
        similarity: "cosine" or "dot".
    """

    shape: tuple[int, int]
    similarity: Similarity

    def __len__(self) -> int:
        return self.shape[0]

    def best(self, queries: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and row numbers (q, ≤ K) of queries (q, d), in any order; −1 is padding."""
        raise NotImplementedError

    def search(self, queries: Any, K: int) -> Hits:
        """Search with queries (q, d)."""
        queries = as_embeddings(queries, "queries").compared_by(self.similarity)
        check_queries(queries.shape[1], self.shape[1], queries.name, K)
        hits = Hits.empty(len(queries), K)
        for first, batch in queries.batches():
            scores, ids = self.best(batch, K)
            ids = ids.astype(np.int64, copy=False)
            write_hits(hits, first, ids, np.where(ids < 0, np.float32(-np.inf), scores))
        return hits


def padded(x: np.ndarray, width: int) -> np.ndarray:
    """Rows (m, width) float32: x (m, d) and columns of zeros.

    >>> padded(np.ones((1, 2), np.float32), 3)
    array([[1., 1., 0.]], dtype=float32)
    """
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))
