"""Every dimension in fewer bits."""

from typing import Any, Literal

import faiss

from compressae.retrieval.baselines.faiss_index import FaissIndex
from compressae.retrieval.baselines.sample import TRAIN_ROWS
from compressae.retrieval.io.embeddings import as_compared

_KINDS = {
    "float16": (faiss.ScalarQuantizer.QT_fp16, 16),
    "int8": (faiss.ScalarQuantizer.QT_8bit, 8),
    "int4": (faiss.ScalarQuantizer.QT_4bit, 4),
}


class Scalar(FaissIndex):
    """faiss's scalar quantiser, scanned: float16, or 8 or 4 bits of each dimension's range.

    Args:
        items: (n, d).
        kind: "float16", "int8" or "int4".
        train_rows: most rows that the ranges are learned from.
    """

    def __init__(
        self,
        items: Any,
        kind: Literal["float16", "int8", "int4"] = "int8",
        train_rows: int = TRAIN_ROWS,
    ) -> None:
        items = as_compared(items)
        d = items.shape[1]
        quantizer, bits = _KINDS[kind]
        index = faiss.IndexScalarQuantizer(d, quantizer, faiss.METRIC_INNER_PRODUCT)
        super().__init__(index, items, -(-d * bits // 8), train_rows)
