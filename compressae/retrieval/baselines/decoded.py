"""Codes that are decoded block by block during a scan."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from compressae.retrieval.index.exact import QUERY_BLOCK, check_queries, search_blocks
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.io.embeddings import Similarity, as_embeddings

#: Rows decoded at a time.
_BLOCK_ROWS = 1 << 14


class Decoded(ABC):
    """n items whose codes are decoded block by block and compared by a dot product.

    Attributes:
        shape: (n, d).
        similarity: what rows and queries are read for: "cosine" or "dot".
        code_nbytes: bytes of the codes.
        constant_nbytes: bytes that do not grow with n.
        trained_rows: rows that constants were learned from; 0 where there are none.
    """

    shape: tuple[int, int]
    similarity: Similarity
    code_nbytes: int
    constant_nbytes: int
    trained_rows: int

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the codes: nothing else grows with n."""
        return self.code_nbytes

    @abstractmethod
    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decode rows start..stop: (stop − start, e) float32."""

    def view(self, queries: np.ndarray) -> np.ndarray:
        """Map queries (m, d) to the space of decoded rows: (m, e)."""
        return queries

    def search(self, queries: Any, K: int) -> Hits:
        """Find the K rows of largest dot product with each query (q, d)."""
        queries = as_embeddings(queries, "queries").compared_by(self.similarity)
        n, d = self.shape
        check_queries(queries.shape[1], d, queries.name, K)
        hits = Hits.empty(len(queries), K)
        for first, batch in queries.batches(QUERY_BLOCK):
            blocks = (
                (start, self.decode(start, min(start + _BLOCK_ROWS, n)))
                for start in range(0, n, _BLOCK_ROWS)
            )
            search_blocks(self.view(batch), blocks, K, hits, first)
        return hits
