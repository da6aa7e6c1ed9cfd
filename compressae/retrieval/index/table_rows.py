"""TableRows: a table of full-precision rows to rerank with, whose rows have ids of their own."""

from typing import Any

import numpy as np

from compressae.retrieval.errors import RerankError
from compressae.retrieval.index.segments import check_ids
from compressae.retrieval.io.embeddings import Similarity, as_embeddings


class TableRows:
    """Rows of a table by id, read from where they lie when a search reranks with them.

    Sixteen bytes a row are kept in memory. For a catalogue use ``Catalogue.table_rows``, which
    takes ids of its kind.

    Args:
        table: (m, d) embeddings: an array, a path, a URL or ``Embeddings``.
        ids: (m,) of its rows, distinct whole numbers ≥ 0, in any order.
        similarity: that of the index.

    Attributes:
        name: of the table.
        similarity: as given.

    Raises:
        InputError: another number of ids than rows, or one twice.

    >>> rows = TableRows(np.array([[3, 4], [0, 1]], np.float32), [7, 2], "dot")
    >>> rows.take(np.array([2, 7]))
    array([[0., 1.],
           [3., 4.]], dtype=float32)
    """

    def __init__(self, table: Any, ids: Any, similarity: Similarity = "cosine") -> None:
        self._table = as_embeddings(table, "rerank").compared_by(similarity)
        ids = check_ids(ids, len(self._table))
        self._rows = np.argsort(ids)
        self._ids = ids[self._rows]
        self.name, self.similarity = self._table.name, similarity

    @property
    def shape(self) -> tuple[int, int]:
        """(m, d)."""
        return self._table.shape

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Read rows (c,) by id: (c, d) float32.

        Raises:
            RerankError: the table has no row of an id.
            InputError: a row holds NaN or infinity.
        """
        place = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        missing = np.flatnonzero(self._ids[place] != ids)
        if len(missing):
            raise RerankError(
                f"{self.name}: no row of id {ids[missing[0]]}, which is in the index; expected a "
                "row of each; make the rows again after a change of the index"
            )
        return self._table.take(self._rows[place])
