"""Norm-explicit quantisation (Dai et al., AAAI 2020)."""

from typing import Any

import numpy as np

from compressae.retrieval.baselines.decoded import Decoded
from compressae.retrieval.baselines.faiss_index import divisor
from compressae.retrieval.baselines.product import CENTROIDS, trained_pq
from compressae.retrieval.baselines.sample import TRAIN_ROWS, sample_rows
from compressae.retrieval.codes.quantizer import length_codes, length_levels
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import as_compared, split_lengths


class NormExplicitPQ(Decoded):
    """Directions by product quantisation, and one byte for the norm of a row.

    The byte quantises the ratio of the row's norm to that of its quantised direction, which is what
    matters for inner products.

    Args:
        items: (n, d), n ≥ 256.
        code_bytes: bytes of a row, one of them for its norm; the parts are rounded down to a
            divisor of d.
        train_rows: most rows that the centroids are trained on.
    """

    def __init__(self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS) -> None:
        items = as_compared(items)
        n, d = items.shape
        m = self.code_size(d, code_bytes) - 1
        rows = sample_rows(n, train_rows)
        if len(rows) < CENTROIDS:
            raise InputError(
                f"{items.name}: {len(rows)} rows to train on; this needs at least {CENTROIDS}; "
                "give more rows"
            )
        sample, lengths = split_lengths(items.take(rows))
        self.shape, self.similarity, self.trained_rows = (n, d), items.similarity, len(rows)
        self._quantizer = trained_pq(d, m, np.ascontiguousarray(sample[lengths > 0]))
        directions = self._quantizer.decode(self._quantizer.compute_codes(sample))
        self._norms = Lengths(length_ratios(lengths, directions))
        self._codes = np.empty((n, m), np.uint8)
        self._norm_codes = np.empty(n, np.uint8)
        for start, batch in items.batches():
            part = slice(start, start + len(batch))
            unit, lengths = split_lengths(batch)
            self._codes[part] = self._quantizer.compute_codes(unit)
            ratios = length_ratios(lengths, self._quantizer.decode(self._codes[part]))
            self._norm_codes[part] = self._norms.encode(ratios)
        self.code_nbytes = self._codes.nbytes + self._norm_codes.nbytes
        self.constant_nbytes = 4 * CENTROIDS * (d + 1)

    @staticmethod
    def code_size(d: int, code_bytes: int) -> int:
        """Bytes of a row that ``code_bytes`` end in."""
        if code_bytes < 2:
            raise InputError(f"{code_bytes} bytes a row: expected at least 2, one for the norm")
        return 1 + divisor(d, code_bytes - 1, "bytes a row")

    def decode(self, start: int, stop: int) -> np.ndarray:
        rows: np.ndarray = self._quantizer.decode(self._codes[start:stop])
        return rows * self._norms.levels[self._norm_codes[start:stop], None]


class Lengths:
    """Quantiser of lengths to a byte each, fitted as ours are (``length_levels``); 0 stays 0.

    Args:
        sample: (m,) lengths ≥ 0.

    Attributes:
        levels: (256,) float32.
    """

    def __init__(self, sample: np.ndarray) -> None:
        above = sample[sample > 0]
        levels = length_levels(above, CENTROIDS - 1) if len(above) else np.zeros(CENTROIDS - 1)
        self.levels = np.concatenate([[0], levels]).astype(np.float32)

    def encode(self, lengths: np.ndarray) -> np.ndarray:
        """Codes (n,) uint8 of the levels nearest to lengths (n,)."""
        codes: np.ndarray = length_codes(self.levels, lengths)
        return codes


def length_ratios(lengths: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Lengths (m,) of rows over those of their quantised directions (m, d); 0 where those are 0."""
    norms = np.linalg.norm(directions, axis=1)
    return np.where(norms > 1e-6, lengths / np.maximum(norms, 1e-6), 0).astype(np.float32)
