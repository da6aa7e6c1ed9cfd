"""RaBitQ by its authors' library (arXiv 2405.12497 and 2409.09913; rabitqlib)."""

import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from compressae.retrieval.baselines.library_index import LibraryIndex, padded
from compressae.retrieval.baselines.sample import ROWS_A_LIST, TRAIN_ROWS, training_rows
from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.io.embeddings import as_compared

#: The library's fewest dimensions, and bits a dimension.
_LEAST_DIM, _MOST_BITS = 64, 9


class RaBitQLibrary(LibraryIndex):
    """rabitqlib's IvfIndex: a row's offset from its list's centroid in 1 to 9 bits a dimension.

    All lists are scanned. The library draws its rotation without a seed.

    Args:
        items: (n, d); fewer than 64 dimensions are padded with zeros.
        code_bytes: bytes of a row, of which the library's factors and id take 16 (1 bit) or 24;
            rounded down to whole bits a dimension, at least 1.
        lists: number of centroids, at most n / 39.
        train_rows: most rows that the centroids are trained on.

    Raises:
        MissingExtraError: rabitqlib is not installed.
    """

    def __init__(
        self, items: Any, code_bytes: int = 64, lists: int = 256, train_rows: int = TRAIN_ROWS
    ) -> None:
        items = as_compared(items)
        n, d = items.shape
        if lists < 1:
            raise InputError(f"{lists} lists: expected at least 1")
        width, row_bytes = max(d, _LEAST_DIM), self.code_size(d, code_bytes)
        try:
            from rabitqlib import IvfIndex
        except ImportError as error:
            raise MissingExtraError("rabitqlib", "baselines", "baseline 'rabitqlib'") from error
        self.shape, self.similarity = (n, d), items.similarity
        self.trained_rows = min(n, train_rows)
        self.lists = max(1, min(lists, self.trained_rows // ROWS_A_LIST))
        means = faiss.Kmeans(width, self.lists, seed=0, min_points_per_centroid=1)
        means.train(padded(training_rows(items, train_rows), width))
        rows = padded(items.to_array(), width)
        nearest = means.index.search(rows, 1)[1][:, 0].astype(np.uint32)
        self._index = IvfIndex(width, n, self.lists, _bits(width, code_bytes), metric="ip")
        self._index.build(rows, means.centroids, nearest)
        self.code_nbytes = self.nbytes = n * row_bytes
        with tempfile.TemporaryDirectory() as folder:
            self._index.save(f"{folder}/index")
            written = Path(folder, "index").stat().st_size
        self.constant_nbytes = max(0, written - self.nbytes)

    @staticmethod
    def code_size(d: int, code_bytes: int) -> int:
        """Bytes of a row that ``code_bytes`` end in."""
        width = max(d, _LEAST_DIM)
        return _row_bytes(width, _bits(width, code_bytes))

    def best(self, queries: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
        """See ``LibraryIndex.best``."""
        x = padded(queries, self._index.dim)
        ids, distances = self._index.search(x, min(K, len(self)), self.lists)
        return np.float32(1) - distances, ids


def _row_bytes(width: int, bits: int) -> int:
    """Bytes that the library holds of a row: the code, its factors and an id."""
    return -(-width // 64) * 64 * bits // 8 + (16 if bits == 1 else 24)


def _bits(width: int, code_bytes: int) -> int:
    """The most bits a dimension that fit, at least 1."""
    if code_bytes < 1:
        raise InputError(f"{code_bytes} bytes a row: expected at least 1")
    bits = range(1, _MOST_BITS + 1)
    return max((b for b in bits if _row_bytes(width, b) <= code_bytes), default=1)
