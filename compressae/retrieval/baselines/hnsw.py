"""A navigable graph (Malkov and Yashunin, arXiv 1603.09320)."""

from typing import Any

import faiss

from compressae.retrieval.baselines.faiss_index import FaissIndex
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import as_compared


class HNSW(FaissIndex):
    """faiss's IndexHNSWFlat over float32 rows.

    Args:
        items: (n, d).
        links: links of a node in a layer; twice as many in the lowest.
        ef: size of the candidate list of a search; may be changed on the built index.
        ef_construction: size of the candidate list while building.
    """

    def __init__(
        self, items: Any, links: int = 16, ef: int = 64, ef_construction: int = 100
    ) -> None:
        items = as_compared(items)
        if links < 2 or ef_construction < 1:
            raise InputError(
                f"{links} links, ef_construction {ef_construction}: expected 2 and 1 or more"
            )
        d = items.shape[1]
        index = faiss.IndexHNSWFlat(d, links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = ef_construction
        super().__init__(index, items, 4 * d)
        self.ef = ef

    @property
    def ef(self) -> int:
        return int(self.index.hnsw.efSearch)

    @ef.setter
    def ef(self, value: int) -> None:
        if value < 1:
            raise InputError(f"ef {value}: expected at least 1")
        self.index.hnsw.efSearch = value
