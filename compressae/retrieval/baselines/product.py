"""Product quantisation (Jégou et al., 2011) and its rotation (Ge et al., 2013)."""

from typing import Any

import faiss
import numpy as np

from compressae.retrieval.baselines.faiss_index import FaissIndex, divisor
from compressae.retrieval.baselines.sample import TRAIN_ROWS, training_rows
from compressae.retrieval.codes.residual import principal_parts
from compressae.retrieval.io.embeddings import Embeddings, as_compared

#: Centroids of a sub-quantiser of 8 bits, and so the fewest rows that train them.
CENTROIDS = 256


class PQ(FaissIndex):
    """faiss's IndexPQ of 8 bits a part, scanned.

    Args:
        items: (n, d), n ≥ 256.
        code_bytes: parts; rounded down to a divisor of d.
        train_rows: most rows that the centroids are trained on.
    """

    def __init__(self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS) -> None:
        items = as_compared(items)
        d = items.shape[1]
        m = self.code_size(d, code_bytes)
        super().__init__(_pq(d, m), items, m, train_rows, CENTROIDS)

    @staticmethod
    def code_size(d: int, code_bytes: int) -> int:
        """Bytes of a row that ``code_bytes`` end in."""
        return divisor(d, code_bytes, "bytes a row")


class OPQ(FaissIndex):
    """faiss's OPQMatrix before IndexPQ, started from the parametric rotation of Ge et al.

    That is ``principal_parts``; the random rotation that faiss starts from ends in a worse one.

    Args:
        items, code_bytes, train_rows: as of ``PQ``.
        iterations: by which faiss goes on from there: slow, and without a gain where tried
            (docs/results/quantisers.md).
    """

    code_size = PQ.code_size

    def __init__(
        self,
        items: Any,
        code_bytes: int = 64,
        train_rows: int = TRAIN_ROWS,
        iterations: int = 0,
    ) -> None:
        items = as_compared(items)
        d = items.shape[1]
        m = PQ.code_size(d, code_bytes)
        rotation, quantizer = faiss.OPQMatrix(d, m), faiss.ProductQuantizer(d, m, 8)
        rotation.niter = iterations
        quantizer.cp.min_points_per_centroid = 1
        rotation.pq = quantizer  # Its settings; OPQ's own warn of few rows on stderr.
        set_principal_axes(rotation, items, m, train_rows)
        index = faiss.IndexPreTransform(rotation, _pq(d, m))
        super().__init__(index, items, m, train_rows, CENTROIDS)


def set_principal_axes(rotation: Any, items: Embeddings, parts: int, train_rows: int) -> None:
    """Set a LinearTransform (d, d) to the ``principal_parts`` of the rows to train on."""
    axes = principal_parts(training_rows(items, train_rows), parts).T
    faiss.copy_array_to_vector(axes.ravel(), rotation.A)  # type: ignore[attr-defined]
    rotation.set_is_orthonormal()  # Else faiss decodes nothing.


def trained_pq(d: int, m: int, rows: np.ndarray) -> Any:
    """A ProductQuantizer of m parts of 8 bits, trained on rows (n, d)."""
    quantizer = faiss.ProductQuantizer(d, m, 8)
    quantizer.cp.min_points_per_centroid = 1  # No warnings on stderr.
    quantizer.train(rows)
    return quantizer


def _pq(d: int, m: int) -> Any:
    index = faiss.IndexPQ(d, m, 8, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.min_points_per_centroid = 1  # No warnings on stderr.
    return index
