"""A baseline over rows times an error weighting."""

from collections.abc import Callable
from typing import Any

import numpy as np

from compressae.retrieval.baselines import Baseline
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.io.embeddings import as_compared, as_embeddings


class Weighted:
    """A baseline that quantises rows times A, and searches with queries times A⁻¹.

    Scores stay what they were, since (q·A⁻¹)·(y·A) = q·y for a symmetric A; what a quantiser
    minimises becomes the error weighted by A, as compressed search has it
    (``codes.quantizer.fit_error_weighting``). Rows are transformed in memory.

    Args:
        make: the baseline, of (items).
        items: (n, d).
        error_weighting: A (d, d), symmetric.

    Attributes:
        baseline: over rows times A.
        inverse: A⁻¹ (d, d) float32.
    """

    def __init__(
        self, make: Callable[[Any], Baseline], items: Any, error_weighting: np.ndarray
    ) -> None:
        items = as_compared(items)
        rows = np.empty(items.shape, np.float32)
        for start, batch in items.batches():
            rows[start : start + len(batch)] = batch @ error_weighting
        self.similarity = items.similarity
        self.baseline = make(as_embeddings(rows, items.name).compared_by("dot"))
        self.inverse = np.linalg.inv(error_weighting.astype(np.float64)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.baseline)

    @property
    def nbytes(self) -> int:
        return self.baseline.nbytes

    @property
    def code_nbytes(self) -> int:
        return self.baseline.code_nbytes

    @property
    def constant_nbytes(self) -> int:
        """Those of the baseline, and A⁻¹."""
        return self.baseline.constant_nbytes + self.inverse.nbytes

    @property
    def trained_rows(self) -> int:
        return self.baseline.trained_rows

    def search(self, queries: Any, K: int) -> Hits:
        """Search with queries (q, d) times A⁻¹."""
        x = as_embeddings(queries, "queries").compared_by(self.similarity).to_array()
        return self.baseline.search(x @ self.inverse, K)
