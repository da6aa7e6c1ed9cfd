"""An index of faiss as a baseline."""

from typing import Any

import faiss
import numpy as np

from compressae.retrieval.baselines.library_index import LibraryIndex
from compressae.retrieval.baselines.sample import TRAIN_ROWS, training_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import as_compared


class FaissIndex(LibraryIndex):
    """n items in an index of faiss.

    Args:
        index: empty, of faiss.METRIC_INNER_PRODUCT.
        items: (n, d).
        code_bytes: bytes of an item without ids and links.
        train_rows: most rows to train on, drawn by seed 0.
        least: rows that training needs.

    Attributes:
        code_nbytes: bytes of the codes.
        nbytes: bytes that grow with n, as faiss writes them: codes, ids, links.
        constant_nbytes: bytes of the trained, empty index: codebooks, centroids, rotations.
        trained_rows: rows trained on; 0 for an index that needs no training.

    Raises:
        InputError: fewer rows than training needs.
    """

    def __init__(
        self, index: Any, items: Any, code_bytes: int, train_rows: int = TRAIN_ROWS, least: int = 1
    ) -> None:
        items = as_compared(items)
        rows = min(len(items), train_rows)
        if rows < least:
            raise InputError(
                f"{items.name}: {rows} rows to train on; this needs at least {least}; give more "
                "rows"
            )
        self.index, self.shape, self.similarity = index, items.shape, items.similarity
        self.trained_rows = 0
        if not index.is_trained:
            index.train(training_rows(items, train_rows))
            self.trained_rows = rows
        self.constant_nbytes = written_bytes(index)
        for _, batch in items.batches():
            index.add(batch)
        self.nbytes = written_bytes(index) - self.constant_nbytes
        self.code_nbytes = len(self) * code_bytes

    def best(self, queries: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
        """See ``LibraryIndex.best``."""
        scores, ids = self.index.search(queries, K)
        return scores, ids


def written_bytes(index: Any) -> int:
    """Count the bytes that faiss writes for an index, which are those it holds."""
    total = 0

    def count(written: bytes) -> None:
        nonlocal total
        total += len(written)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))  # type: ignore[attr-defined]
    return total


def divisor(d: int, most: int, what: str) -> int:
    """The largest divisor of d that is at most ``most``: parts of equal width.

    Raises:
        InputError: most < 1.

    >>> divisor(384, 100, "parts")
    96
    """
    if most < 1:
        raise InputError(f"{most} {what}: expected at least 1")
    return max(m for m in range(1, min(d, most) + 1) if d % m == 0)
