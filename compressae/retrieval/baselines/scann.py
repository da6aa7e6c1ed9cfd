"""Anisotropic product quantisation (Guo et al., ICML 2020), by ScaNN."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from compressae.retrieval.baselines.faiss_index import divisor
from compressae.retrieval.baselines.library_index import LibraryIndex
from compressae.retrieval.baselines.sample import TRAIN_ROWS
from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.io.embeddings import as_compared

#: Centroids of a part.
_CENTROIDS = 256


class ScaNN(LibraryIndex):
    """ScaNN's asymmetric hashing of 8 bits a part, scanned, without a tree or reordering.

    Args:
        items: (n, d), n ≥ 256. The library holds them in memory too, which is not counted.
        code_bytes: parts; rounded down to a divisor of d.
        threshold: of the anisotropic loss, a cosine; 0.2 is the library's own example.
        train_rows: most rows that the centroids are trained on; the library draws them.

    Raises:
        MissingExtraError: scann is not installed.
    """

    def __init__(
        self,
        items: Any,
        code_bytes: int = 64,
        threshold: float = 0.2,
        train_rows: int = TRAIN_ROWS,
    ) -> None:
        items = as_compared(items)
        n, d = items.shape
        m = self.code_size(d, code_bytes)
        if n < _CENTROIDS:
            raise InputError(
                f"{items.name}: {n} rows to train on; this needs at least {_CENTROIDS}; give more "
                "rows"
            )
        try:
            from scann import scann_ops_pybind
        except ImportError as error:
            raise MissingExtraError("scann", "baselines", "baseline 'scann'") from error
        self.shape, self.similarity = (n, d), items.similarity
        self.trained_rows = min(n, train_rows)
        builder = scann_ops_pybind.builder(items.to_array(), 10, "dot_product")
        self._index = builder.score_ah(
            d // m,
            anisotropic_quantization_threshold=threshold,
            hash_type="lut256",
            training_sample_size=self.trained_rows,
        ).build()
        self.code_nbytes = self.nbytes = n * m
        with tempfile.TemporaryDirectory() as folder:
            self._index.serialize(folder)
            self.constant_nbytes = Path(folder, "ah_codebook.pb").stat().st_size

    @staticmethod
    def code_size(d: int, code_bytes: int) -> int:
        """Bytes of a row that ``code_bytes`` end in."""
        return divisor(d, code_bytes, "bytes a row")

    def best(self, queries: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
        """See ``LibraryIndex.best``."""
        ids, scores = self._index.search_batched(queries, final_num_neighbors=min(K, len(self)))
        return scores, ids
