"""HotRows: the most asked-for rows in full precision, in memory."""

from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.segments import check_ids
from compressae.retrieval.io.embeddings import Similarity, as_embeddings, dots


class HotRows:
    """Embeddings of a few rows, by which a search reranks its results where they are among them.

    Pass them as ``rerank``: results that are hot get their exact score, others keep the one of
    their code. A share of 10 % that is in two thirds of the results costs a tenth of the table's
    bytes in float16 (docs/results/catalogue.md). After an update of a hot row make them anew.

    Args:
        table: (m, d) embeddings: an array, a path or ``Embeddings``.
        ids: (m,) of the index, distinct whole numbers ≥ 0. The rows of an index need not all be
            there, nor these in the index.
        similarity: that of the index.
        dtype: float16 or float32, as which they are kept.

    Attributes:
        similarity: as given.

    Raises:
        InputError: another number of ids than rows; rows that hold NaN, or a number too large for
            the dtype.

    >>> hot = HotRows(np.array([[3, 4], [0, 1]], np.float32), [7, 2], "dot")
    >>> hot.rescore(np.array([0, 1], np.float32), np.array([1, 2, 7]), np.array([0.5, 0.6, 3.7]))
    array([0.5, 1. , 4. ])
    """

    def __init__(
        self,
        table: Any,
        ids: Any,
        similarity: Similarity = "cosine",
        dtype: Any = np.float16,
    ) -> None:
        embeddings = as_embeddings(table, "hot rows").compared_by(similarity)
        ids = check_ids(ids, len(embeddings))
        order = np.argsort(ids)
        if np.dtype(dtype) not in (np.float16, np.float32):
            raise InputError(f"dtype {dtype}: expected float16 or float32")
        with np.errstate(over="ignore"):
            self._rows = embeddings.take(order).astype(dtype)
        if not np.isfinite(self._rows).all():
            raise InputError(f"hot rows: a number too large for {np.dtype(dtype)}; use float32")
        self._ids, self.similarity = ids[order], similarity

    @property
    def shape(self) -> tuple[int, int]:
        """(m, d)."""
        return self._rows.shape

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._rows.nbytes + self._ids.nbytes

    def rescore(self, query: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores (c,) of ids (c,), exact where a row is hot, as given where it is not.

        Args:
            query: (d,) of unit length.
            ids: (c,) int64.
            scores: (c,) of the codes.
        """
        place = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        is_hot = self._ids[place] == ids
        rescored = scores.copy()
        rescored[is_hot] = dots(self._rows[place[is_hot]].astype(np.float32), query)
        return rescored
