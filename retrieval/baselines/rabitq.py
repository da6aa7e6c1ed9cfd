"""RaBitQ (Gao and Long, 2024; arXiv 2405.12497, extended to more bits in 2409.09913)."""

from typing import Any

import faiss

from compressae.retrieval.baselines.faiss_index import FaissIndex
from compressae.retrieval.embeddings import as_embeddings
from compressae.retrieval.errors import InputError

_MOST_BITS = 8


class RaBitQ(FaissIndex):
    """faiss's IndexRaBitQ after a random rotation (seed 0), scanned.

    Args:
        items: (n, d).
        code_bytes: of a row with its factors; as many bits a dimension as they hold, 1 at least.
    """

    def __init__(self, items: Any, code_bytes: int = 64) -> None:
        items = as_embeddings(items)
        d = items.shape[1]
        if code_bytes < 1:
            raise InputError(f"{code_bytes} bytes a row: expected at least 1")
        made = [_quantizer(d, bits) for bits in range(1, _MOST_BITS + 1)]
        fitting = [one for one in made if one.code_size <= code_bytes]
        quantizer = (fitting or made[:1])[-1]
        rotation = faiss.RandomRotationMatrix(d, d)
        rotation.init(0)
        index = faiss.IndexPreTransform(rotation, quantizer)
        super().__init__(index, items, quantizer.code_size)


def _quantizer(d: int, bits: int) -> Any:
    return faiss.IndexRaBitQ(d, faiss.METRIC_INNER_PRODUCT, bits)
