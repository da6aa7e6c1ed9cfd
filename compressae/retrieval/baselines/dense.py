"""The dense baseline."""

from compressae.retrieval.index.exact import ExactIndex


class Dense(ExactIndex):
    """All rows in float32, scanned: 4·d bytes an item, exact.

    Args:
        items: (n, d).
    """

    constant_nbytes = 0
    trained_rows = 0

    @property
    def code_nbytes(self) -> int:
        """4·n·d."""
        return self.nbytes
