"""Exact search over dense rows by cosine or dot product: ground truth and dense baseline."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from compressae.kernels.threads import over_rows
from compressae.kernels.topk import best
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.exclusion import Exclusion
from compressae.retrieval.index.hits import Hits, check_count
from compressae.retrieval.io.embeddings import Similarity, as_embeddings

#: Scores of one block of queries and rows, about (128 MiB).
_BLOCK_NUMBERS = 1 << 25
#: Queries of one block of ``ExactIndex.search``.
QUERY_BLOCK = 1024


class ExactIndex:
    """Exact index: float32 rows in memory. Every search reads all rows.

    Args:
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        similarity: "cosine", or "dot", the dot product.

    Raises:
        InputError: a row holds NaN or infinity, or with "cosine" only zeros.

    >>> index = ExactIndex(np.array([[2, 0], [0, 1], [1, 1]], np.float32))
    >>> hits = index.search(np.array([[1, 0.5]], np.float32), 2)
    >>> hits.ids, hits.scores.round(2)
    (array([[2, 0]]), array([[0.95, 0.89]], dtype=float32))
    >>> len(index), index.nbytes
    (3, 24)
    """

    def __init__(self, items: Any, similarity: Similarity = "cosine") -> None:
        self.similarity = similarity
        self._rows = as_embeddings(items).compared_by(similarity).to_array()

    def __len__(self) -> int:
        """n."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """4·n·d."""
        return self._rows.nbytes

    def search(self, queries: Any, K: int, exclude: Any = None) -> Hits:
        """Find the K most similar rows of each query (q, d); see ``exact_search``."""
        queries = as_embeddings(queries, "queries").compared_by(self.similarity)
        n, d = self._rows.shape
        check_queries(queries.shape[1], d, queries.name, K)
        size = max(1, _BLOCK_NUMBERS // QUERY_BLOCK)
        blocks = [(start, self._rows[start : start + size]) for start in range(0, n, size)]
        hits = Hits.empty(len(queries), K)
        left_out = None if exclude is None else Exclusion.of(exclude, len(queries))
        for first, batch in queries.batches(QUERY_BLOCK):
            search_blocks(batch, blocks, K, hits, first, left_out)
        return hits


def exact_search(
    items: Any,
    queries: Any,
    K: int,
    similarity: Similarity = "cosine",
    exclude: Any = None,
) -> Hits:
    """Find the K most similar rows of each query, in a table of any size.

    Rows are read in batches; queries and results stay in memory. Ties of the computed float32
    scores go to the smaller id.

    Args:
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        queries: (q, d) embeddings.
        K: results per query.
        similarity: "cosine", or "dot", the dot product.
        exclude: rows that each query leaves out: a scipy sparse matrix (q, any width).

    Returns:
        ``Hits`` (q, K).

    Raises:
        InputError: the widths differ; a row holds NaN or infinity, or with "cosine" only zeros; or
            K < 1.

    >>> items = np.array([[2, 0], [0, 1], [1, 1]], np.float32)
    >>> exact_search(items, np.array([[1, 0.5], [0, 3]], np.float32), K=2).ids
    array([[2, 0],
           [1, 2]])
    >>> exact_search(items, np.array([[1, 0.5]], np.float32), K=2, similarity="dot").ids
    array([[0, 2]])
    """
    items = as_embeddings(items).compared_by(similarity)
    queries = as_embeddings(queries, "queries").compared_by(similarity)
    check_queries(queries.shape[1], items.shape[1], queries.name, K)
    hits = Hits.empty(len(queries), K)
    x = queries.to_array()
    size = max(1, _BLOCK_NUMBERS // max(len(queries), items.shape[1]))
    left_out = None if exclude is None else Exclusion.of(exclude, len(queries))
    search_blocks(x, items.batches(size), K, hits, 0, left_out)
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
    exclude: Exclusion | None = None,
) -> None:
    """Merge the best of each block of rows into hits[first : first + q].

    Args:
        queries: (q, d).
        blocks: (first id, rows (m, d)), by ascending id, so that earlier results win ties.
        K: results per query.
        hits: the results so far; updated in place.
        first: row of ``hits`` of the first query, and its number in ``exclude``.
        exclude: rows that queries leave out.
    """
    for start, rows in blocks:
        scores = queries @ rows.T

        def merge(a: int, b: int, start: int = start, scores: np.ndarray = scores) -> None:
            for i in range(a, b):
                if exclude is not None:
                    own = exclude.of_query(first + i) - start
                    scores[i, own[(own >= 0) & (own < scores.shape[1])]] = -np.inf
                ids, top = best(scores[i], K)
                if exclude is not None:
                    ids, top = ids[top > -np.inf], top[top > -np.inf]
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
