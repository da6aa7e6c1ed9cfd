"""One bit a dimension."""

from typing import Any

import numpy as np

from compressae.retrieval.baselines.decoded import Decoded
from compressae.retrieval.io.embeddings import as_compared

#: The eight signs of each byte: (256, 8) float32.
_SIGNS = 2 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) - 1


class Binary(Decoded):
    """The sign of each dimension; queries stay dense: q·sign(x)/√d.

    For dot products the row's length is kept too, in float16.

    Args:
        items: (n, d).
    """

    constant_nbytes = 0
    trained_rows = 0

    def __init__(self, items: Any) -> None:
        items = as_compared(items)
        n, d = items.shape
        self.shape, self.similarity = (n, d), items.similarity
        self._bits = np.empty((n, -(-d // 8)), np.uint8)
        self._lengths = np.empty(n if self.similarity == "dot" else 0, np.float16)
        for start, batch in items.batches():
            self._bits[start : start + len(batch)] = np.packbits(batch > 0, axis=1)
            if self.similarity == "dot":
                self._lengths[start : start + len(batch)] = np.linalg.norm(batch, axis=1)
        self.code_nbytes = self._bits.nbytes + self._lengths.nbytes

    def decode(self, start: int, stop: int) -> np.ndarray:
        d = self.shape[1]
        rows = _SIGNS[self._bits[start:stop]].reshape(stop - start, -1)[:, :d]
        rows /= np.float32(np.sqrt(d))
        return rows * self._lengths[start:stop, None] if self.similarity == "dot" else rows
