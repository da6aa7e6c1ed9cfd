"""The dense baseline."""

from typing import Any

from compressae.retrieval.index.exact import ExactIndex
from compressae.retrieval.io.embeddings import as_compared


class Dense(ExactIndex):
    """All rows in float32, scanned: 4·d bytes an item, exact.

    Args:
        items: (n, d).
    """

    constant_nbytes = 0
    excludes = True  # Its search takes ``exclude``.
    trained_rows = 0

    def __init__(self, items: Any) -> None:
        items = as_compared(items)
        super().__init__(items, items.similarity)

    @property
    def code_nbytes(self) -> int:
        """4·n·d."""
        return self.nbytes
