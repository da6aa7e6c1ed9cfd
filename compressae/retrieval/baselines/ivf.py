"""Inverted lists of product codes, scanned in registers (André et al., 2015)."""

from typing import Any

import faiss

from compressae.retrieval.baselines.faiss_index import FaissIndex, divisor
from compressae.retrieval.baselines.sample import ROWS_A_LIST, TRAIN_ROWS
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import as_compared


class IVFPQ(FaissIndex):
    """faiss's IndexIVFPQFastScan: coarse lists, then 4 bits a part.

    Args:
        items: (n, d), n ≥ 16.
        code_bytes: two parts each; parts are rounded down to a divisor of d.
        nprobe: lists that a query reads; may be changed on the built index.
        lists: number of coarse lists; 4√n as a power of two, at most n / 39, when None.
        train_rows: most rows that the centroids are trained on.
    """

    def __init__(
        self,
        items: Any,
        code_bytes: int = 64,
        nprobe: int = 32,
        lists: int | None = None,
        train_rows: int = TRAIN_ROWS,
    ) -> None:
        items = as_compared(items)
        n, d = items.shape
        if lists is None:
            most = max(1, min(int(4 * n**0.5), min(n, train_rows) // ROWS_A_LIST))
            lists = 1 << (most.bit_length() - 1)
        if lists < 1:
            raise InputError(f"{lists} lists: expected at least 1")
        m = _parts(d, code_bytes)
        self._coarse = faiss.IndexFlatIP(d)  # faiss keeps no reference of its own.
        index = faiss.IndexIVFPQFastScan(self._coarse, d, lists, m, 4, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        super().__init__(index, items, -(-m // 2), train_rows, max(lists, 16))
        self.nprobe = nprobe

    @staticmethod
    def code_size(d: int, code_bytes: int) -> int:
        """Bytes of a row that ``code_bytes`` end in."""
        return -(-_parts(d, code_bytes) // 2)

    @property
    def nprobe(self) -> int:
        return int(self.index.nprobe)

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        if value < 1:
            raise InputError(f"nprobe {value}: expected at least 1")
        self.index.nprobe = min(value, self.index.nlist)


def _parts(d: int, code_bytes: int) -> int:
    """Parts of 4 bits."""
    return divisor(d, 2 * code_bytes, "parts")
