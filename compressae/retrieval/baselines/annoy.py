"""Trees of random planes (annoy)."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from compressae.retrieval.baselines.ordering import write_hits
from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.index.exact import check_queries
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.io.embeddings import as_compared, as_embeddings


class Annoy:
    """annoy's AnnoyIndex, angular for cosine, "dot" for dot products, seed 0.

    Args:
        items: (n, d).
        trees: number of trees.
        search_k: nodes that a query visits; may be changed on the built index.

    Attributes:
        nbytes: bytes of rows and trees, as annoy writes them.

    Raises:
        MissingExtraError: annoy is not installed.
    """

    constant_nbytes = 0
    trained_rows = 0

    def __init__(self, items: Any, trees: int = 20, search_k: int = 10_000) -> None:
        try:
            from annoy import AnnoyIndex
        except ImportError as error:
            raise MissingExtraError("annoy", "baselines", "baseline 'annoy'") from error
        items = as_compared(items)
        if trees < 1:
            raise InputError(f"{trees} trees: expected at least 1")
        self.shape, self.search_k, self.similarity = items.shape, search_k, items.similarity
        self._index = AnnoyIndex(
            items.shape[1], "angular" if self.similarity == "cosine" else "dot"
        )
        self._index.set_seed(0)
        for start, batch in items.batches():
            for i, row in enumerate(batch, start):
                self._index.add_item(i, row)
        self._index.build(trees)
        with tempfile.TemporaryDirectory() as folder:
            self._index.save(f"{folder}/index")  # Mapped from now on; the mapping outlives it.
            self.nbytes = Path(f"{folder}/index").stat().st_size
        self.code_nbytes = 4 * items.shape[0] * items.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def search(self, queries: Any, K: int) -> Hits:
        """Search with annoy for queries (q, d)."""
        queries = as_embeddings(queries, "queries").compared_by(self.similarity)
        check_queries(queries.shape[1], self.shape[1], queries.name, K)
        hits = Hits.empty(len(queries), K)
        for first, batch in queries.batches():
            for q, query in enumerate(batch, first):
                ids, distances = self._index.get_nns_by_vector(query, K, self.search_k, True)
                scores: np.ndarray = np.array([distances], np.float32)
                if self.similarity == "cosine":
                    scores = 1 - np.square(scores) / 2  # Distances are √(2 − 2 cos).
                write_hits(hits, q, np.array([ids], np.int64), scores)
        return hits
