"""Exact cosine search over dense rows: the ground truth and the dense baseline."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from compressae.kernels.threads import over_rows
from compressae.kernels.topk import best
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.hits import Hits, check_count
from compressae.retrieval.io.embeddings import as_embeddings, unit_rows

#: Scores of one block of queries and rows, about (128 MiB).
_BLOCK_NUMBERS = 1 << 25
#: Queries of one block of ``ExactIndex.search``.
QUERY_BLOCK = 1024


class ExactIndex:
    """Exact index: float32 unit rows in memory. Every search reads all rows.

    Args:
        items: (n, d) embeddings: an array, a path or ``Embeddings``.

    Raises:
        InputError: a row holds NaN or infinity, or only zeros.

    >>> index = ExactIndex(np.array([[2, 0], [0, 1], [1, 1]], np.float32))
    >>> hits = index.search(np.array([[1, 0.5]], np.float32), 2)
    >>> hits.ids, hits.scores.round(2)
    (array([[2, 0]]), array([[0.95, 0.89]], dtype=float32))
    >>> len(index), index.nbytes
    (3, 24)
    """

    def __init__(self, items: Any) -> None:
        items = as_embeddings(items)
        self._rows = np.empty(items.shape, np.float32)
        for start, batch in items.batches():
            self._rows[start : start + len(batch)] = unit_rows(batch)

    def __len__(self) -> int:
        """n."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """4·n·d."""
        return self._rows.nbytes

    def search(self, queries: Any, K: int) -> Hits:
        """Find the K rows of largest cosine with each query (q, d); see ``exact_search``."""
        queries = as_embeddings(queries, "queries")
        n, d = self._rows.shape
        check_queries(queries.shape[1], d, queries.name, K)
        size = max(1, _BLOCK_NUMBERS // QUERY_BLOCK)
        blocks = [(start, self._rows[start : start + size]) for start in range(0, n, size)]
        hits = Hits.empty(len(queries), K)
        for first, batch in queries.batches(QUERY_BLOCK):
            search_blocks(unit_rows(batch), blocks, K, hits, first)
        return hits


def exact_search(items: Any, queries: Any, K: int) -> Hits:
    """Find the K rows of largest cosine with each query, in a table of any size.

    Rows are read in batches; queries and results stay in memory. Ties of the computed float32
    cosines go to the smaller id.

    Args:
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        queries: (q, d) embeddings.
        K: results per query.

    Returns:
        ``Hits`` (q, K).

    Raises:
        InputError: the widths differ; a row holds NaN or infinity, or only zeros; or K < 1.

    >>> items = np.array([[2, 0], [0, 1], [1, 1]], np.float32)
    >>> exact_search(items, np.array([[1, 0.5], [0, 3]], np.float32), K=2).ids
    array([[2, 0],
           [1, 2]])
    """
    items, queries = as_embeddings(items), as_embeddings(queries, "queries")
    check_queries(queries.shape[1], items.shape[1], queries.name, K)
    hits = Hits.empty(len(queries), K)
    unit_queries = unit_rows(queries.to_array())
    size = max(1, _BLOCK_NUMBERS // max(len(queries), items.shape[1]))
    blocks = ((start, unit_rows(batch)) for start, batch in items.batches(size))
    search_blocks(unit_queries, blocks, K, hits, 0)
    return hits


def largest_dots(queries: np.ndarray, rows: np.ndarray, K: int) -> np.ndarray:
    """Find the K rows (n, d), n ≥ K, of largest dot product with each query (q, d): ids (q, K).

    >>> rows = np.array([[1, 0], [0, 2], [3, 0]], np.float32)
    >>> largest_dots(np.array([[1, 1]], np.float32), rows, 2)
    array([[2, 1]])
    """
    return np.array([best(rows @ query, K)[0] for query in queries])


def search_blocks(
    queries: np.ndarray,
    blocks: Iterable[tuple[int, np.ndarray]],
    K: int,
    hits: Hits,
    first: int,
) -> None:
    """Merge the best of each block of rows into hits[first : first + q].

    Args:
        queries: (q, d).
        blocks: (first id, rows (m, d)), by ascending id, so that earlier results win ties.
        K: results per query.
        hits: the results so far; updated in place.
        first: row of ``hits`` of the first query.
    """
    for start, rows in blocks:
        scores = queries @ rows.T

        def merge(a: int, b: int, start: int = start, scores: np.ndarray = scores) -> None:
            for i in range(a, b):
                ids, top = best(scores[i], K)
                hit_ids, hit_scores = hits.ids[first + i], hits.scores[first + i]
                filled = hit_ids >= 0
                all_ids = np.concatenate([hit_ids[filled], ids + start])
                order, top = best(np.concatenate([hit_scores[filled], top]), K)
                hit_ids[: len(order)], hit_scores[: len(order)] = all_ids[order], top

        over_rows(merge, len(queries))


def check_queries(found: int, expected: int, name: str, K: int) -> None:
    """Refuse queries whose width is not that of the items, and a K below 1.

    Args:
        found: width of the queries.
        expected: width of the items.
        name: name of the queries in the error message.
        K: results per query.

    Raises:
        InputError: see above.
    """
    check_count(K)
    if found != expected:
        raise InputError(
            f"{name}: rows of {found} columns; expected {expected}, the width of the items"
        )
