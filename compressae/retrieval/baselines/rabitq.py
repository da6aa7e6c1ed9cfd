"""RaBitQ (Gao and Long, 2024; arXiv 2405.12497, extended to more bits in 2409.09913)."""

from typing import Any

import faiss

from compressae.retrieval.baselines.faiss_index import FaissIndex
from compressae.retrieval.baselines.sample import TRAIN_ROWS
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import as_compared

_MOST_BITS = 8


class RaBitQ(FaissIndex):
    """faiss's IndexRaBitQ after a random rotation (seed 0), scanned.

    Args:
        items: (n, d).
        code_bytes: bytes of a row with its factors; rounded down to whole bits a dimension, at
            least 1.
        train_rows: most rows that the centre is learned from.
    """

    def __init__(self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS) -> None:
        items = as_compared(items)
        d = items.shape[1]
        quantizer = _quantizer(d, code_bytes)
        rotation = faiss.RandomRotationMatrix(d, d)
        rotation.init(0)
        index = faiss.IndexPreTransform(rotation, quantizer)
        super().__init__(index, items, quantizer.code_size, train_rows)

    @staticmethod
    def code_size(d: int, code_bytes: int) -> int:
        """Bytes of a row that ``code_bytes`` end in."""
        return int(_quantizer(d, code_bytes).code_size)


def _quantizer(d: int, code_bytes: int) -> Any:
    """The quantiser of most bits a dimension that fits."""
    if code_bytes < 1:
        raise InputError(f"{code_bytes} bytes a row: expected at least 1")
    quantizers: list[Any] = [
        faiss.IndexRaBitQ(d, faiss.METRIC_INNER_PRODUCT, bits) for bits in range(1, _MOST_BITS + 1)
    ]
    fitting = [quantizer for quantizer in quantizers if quantizer.code_size <= code_bytes]
    return fitting[-1] if fitting else quantizers[0]
