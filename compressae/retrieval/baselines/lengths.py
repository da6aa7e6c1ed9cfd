"""A byte a row for the length that a quantiser loses."""

from typing import Any

import numpy as np

from compressae.retrieval.baselines.decoded import Decoded
from compressae.retrieval.baselines.norm_explicit import Lengths, length_ratios
from compressae.retrieval.baselines.product import CENTROIDS
from compressae.retrieval.baselines.sample import sample_rows
from compressae.retrieval.baselines.weighted import Weighted
from compressae.retrieval.io.embeddings import as_compared, split_lengths


class WithLengths(Decoded):
    """A quantiser of faiss whose decoded rows are brought to their rows' lengths, 1 for cosine.

    The coarser a quantiser, the shorter are its decoded rows, and by amounts that differ from row
    to row, which moves rows among the results. Compressed search holds a byte for that, and so does
    norm-explicit quantisation (Dai et al., AAAI 2020); this gives one to the others.

    Args:
        quantizer: a ``FaissIndex`` over items, or ``Weighted`` with one.
        items: (n, d).
    """

    def __init__(self, quantizer: Any, items: Any) -> None:
        items = as_compared(items)
        self.shape, self.similarity = items.shape, items.similarity
        self.trained_rows = quantizer.trained_rows
        is_weighted = isinstance(quantizer, Weighted)
        self._inverse = quantizer.inverse if is_weighted else None
        self._index = quantizer.baseline.index if is_weighted else quantizer.index
        factors = np.empty(len(items), np.float32)
        for start, batch in items.batches():
            part = slice(start, start + len(batch))
            lengths = split_lengths(batch)[1]
            factors[part] = length_ratios(lengths, self._decoded(start, part.stop))
        sample = factors[sample_rows(len(items), self.trained_rows)]
        lengths_of_rows = Lengths(sample)
        self._codes = lengths_of_rows.encode(factors)
        self._levels = lengths_of_rows.levels
        self.code_nbytes = quantizer.code_nbytes + self._codes.nbytes
        self.constant_nbytes = quantizer.constant_nbytes + 4 * CENTROIDS

    def _decoded(self, start: int, stop: int) -> np.ndarray:
        """What the quantiser alone makes of rows start..stop."""
        rows: np.ndarray = self._index.reconstruct_n(start, stop - start)
        return rows if self._inverse is None else rows @ self._inverse

    def decode(self, start: int, stop: int) -> np.ndarray:
        return self._decoded(start, stop) * self._levels[self._codes[start:stop], None]
