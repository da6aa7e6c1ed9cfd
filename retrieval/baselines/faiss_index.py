"""The seam to faiss."""

from typing import Any

import faiss
import numpy as np

from compressae.retrieval.embeddings import Embeddings, as_embeddings, unit_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.exact import check_queries
from compressae.retrieval.searcher import Hits

#: Rows that codebooks are trained on at most: faiss's own bound for 256 centroids.
TRAIN_ROWS = 65_536


class FaissIndex:
    """n items in an index of faiss, compared by the inner product of unit rows.

    Ties are ordered by id among the results; which of the rows that tie for the last place is
    found is faiss's choice.

    Args:
        index: empty, of faiss.METRIC_INNER_PRODUCT.
        items: (n, d).
        code_bytes: of an item, without ids and links.
        train_rows: rows to train on at most, drawn by seed 0.
        least: rows that training needs.

    Attributes:
        code_nbytes: bytes of the codes.
        nbytes: all that grows with n, as faiss writes it: codes, ids, links.
        constant_nbytes: what the trained and empty index takes: codebooks, centroids, rotations.

    Raises:
        InputError: fewer rows than training needs.
    """

    def __init__(
        self, index: Any, items: Any, code_bytes: int, train_rows: int = TRAIN_ROWS, least: int = 1
    ) -> None:
        items = as_embeddings(items)
        if min(len(items), train_rows) < least:
            raise InputError(
                f"{items.name}: {min(len(items), train_rows)} rows to train on; this needs at "
                f"least {least}; give more rows"
            )
        self.index, self._n = index, len(items)
        if not index.is_trained:
            index.train(training_rows(items, train_rows))
        self.constant_nbytes = written_bytes(index)
        for _, batch in items.batches():
            index.add(unit_rows(batch))
        self.nbytes = written_bytes(index) - self.constant_nbytes
        self.code_nbytes = self._n * code_bytes

    def __len__(self) -> int:
        return self._n

    def search(self, queries: Any, K: int) -> Hits:
        """What faiss finds for each unit query (q, d)."""
        queries = as_embeddings(queries, "queries")
        check_queries(queries.shape[1], self.index.d, queries.name, K)
        hits = Hits.empty(len(queries), K)
        for first, batch in queries.batches():
            scores, ids = self.index.search(unit_rows(batch), K)
            scores[ids < 0] = -np.inf
            order = np.lexsort((ids, -scores), axis=-1)
            hits.ids[first : first + len(ids)] = np.take_along_axis(ids, order, 1)
            hits.scores[first : first + len(ids)] = np.take_along_axis(scores, order, 1)
        return hits


def training_rows(items: Embeddings, most: int) -> np.ndarray:
    """Unit rows (min(n, most), d), drawn by seed 0, in their order."""
    if len(items) <= most:
        return unit_rows(items.to_array())
    drawn = np.random.default_rng(0).permutation(len(items))[:most]
    return unit_rows(items.take(np.sort(drawn)))


def written_bytes(index: Any) -> int:
    """Bytes of an index as faiss writes it, which are those it holds; nothing is kept of them."""
    total = 0

    def count(written: bytes) -> None:
        nonlocal total
        total += len(written)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))  # type: ignore[attr-defined]
    return total


def divisor(d: int, most: int, what: str) -> int:
    """The largest divisor of d that is not above ``most``: parts of equal width.

    Raises:
        InputError: most < 1.
    """
    if most < 1:
        raise InputError(f"{most} {what}: expected at least 1")
    return max(m for m in range(1, min(d, most) + 1) if d % m == 0)
