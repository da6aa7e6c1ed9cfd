"""The dense baseline."""

from compressae.retrieval.exact import ExactIndex


class Dense(ExactIndex):
    """All rows in float32, scanned: 4·d bytes an item, and the truth.

    Args:
        items: (n, d).
    """

    constant_nbytes = 0

    @property
    def code_nbytes(self) -> int:
        """4·n·d."""
        return self.nbytes
