"""TurboQuant (arXiv 2504.19874), by turbovec."""

from typing import Any

import numpy as np

from compressae.retrieval.baselines.library_index import LibraryIndex, padded
from compressae.retrieval.baselines.sample import TRAIN_ROWS, training_rows
from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.io.embeddings import as_compared

#: Bits a dimension; the library holds 3 as 4.
_BITS = (2, 4)
#: The library's dimensions are a multiple of this.
_LANES = 8


class TurboQuant(LibraryIndex):
    """turbovec's TurboQuantIndex, calibrated, scanned.

    Args:
        items: (n, d); columns of zeros pad d to a multiple of 8.
        code_bytes: bytes of a row with its length, 4; rounded down to 4 or 2 bits a dimension, at
            least 2.
        train_rows: most rows that the calibration is fitted to.

    Raises:
        MissingExtraError: turbovec is not installed.
    """

    def __init__(self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS) -> None:
        items = as_compared(items)
        n, d = items.shape
        width, row_bytes = _width(d), self.code_size(d, code_bytes)
        try:
            from turbovec import TurboQuantIndex
        except ImportError as error:
            raise MissingExtraError("turbovec", "baselines", "baseline 'turboquant'") from error
        self.shape, self.similarity = (n, d), items.similarity
        self.trained_rows = min(n, train_rows)
        self._index = TurboQuantIndex(width, _bits(width, code_bytes))
        self._index.calibrate(padded(training_rows(items, train_rows), width))
        self.constant_nbytes = len(self._index.to_bytes())
        for _, batch in items.batches():
            self._index.add(padded(batch, width))
        self.code_nbytes = self.nbytes = n * row_bytes

    @staticmethod
    def code_size(d: int, code_bytes: int) -> int:
        """Bytes of a row that ``code_bytes`` end in."""
        return _width(d) * _bits(_width(d), code_bytes) // 8 + 4

    def best(self, queries: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
        """See ``LibraryIndex.best``."""
        scores, ids = self._index.search(padded(queries, _width(self.shape[1])), K)
        return scores, ids


def _width(d: int) -> int:
    return -(-d // _LANES) * _LANES


def _bits(width: int, code_bytes: int) -> int:
    """The most bits a dimension that fit, at least 2."""
    if code_bytes < 1:
        raise InputError(f"{code_bytes} bytes a row: expected at least 1")
    return max((b for b in _BITS if width * b // 8 + 4 <= code_bytes), default=_BITS[0])
