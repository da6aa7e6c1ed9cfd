"""Exact cosine search over dense rows: the truth, and the dense baseline."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from compressae.kernels.threads import over_rows
from compressae.kernels.topk import best
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.hits import Hits, check_count
from compressae.retrieval.io.embeddings import as_embeddings, unit_rows

#: Scores of one block of queries and rows hold about this many numbers (128 MiB).
_BLOCK_NUMBERS = 1 << 25
#: Queries that are compared together.
QUERY_BLOCK = 1024


class ExactIndex:
    """All rows in memory as float32 unit rows; every search reads all of them.

    Args:
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
    """

    def __init__(self, items: Any) -> None:
        items = as_embeddings(items)
        self._rows = np.empty(items.shape, np.float32)
        for start, batch in items.batches():
            self._rows[start : start + len(batch)] = unit_rows(batch)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """4·n·d."""
        return self._rows.nbytes

    def search(self, queries: Any, K: int) -> Hits:
        """The K rows of largest cosine; see ``exact_search``."""
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
    """The K rows of largest cosine with each query, from a table of any size.

    Rows pass through memory in batches; queries (q, d) and their results are held. Ties of the
    computed float32 cosines go to the smaller id.

    Raises:
        InputError: widths differ, a row is NaN, infinite or zero, or K < 1.
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
    """Ids (q, K) int64 of the rows (n, d) of largest dot product with each query (q, d), n ≥ K."""
    return np.array([best(rows @ query, K)[0] for query in queries])


def search_blocks(
    queries: np.ndarray,
    blocks: Iterable[tuple[int, np.ndarray]],
    K: int,
    hits: Hits,
    first: int,
) -> None:
    """Merge the best of each block of rows into hits[first:first + q].

    Blocks come in ascending order of ids, so that earlier results, listed first, win ties.
    """
    for start, rows in blocks:
        scores = queries @ rows.T

        def merge(a: int, b: int, start: int = start, scores: np.ndarray = scores) -> None:
            for i in range(a, b):
                ids, top = best(scores[i], K)
                found_ids, found = hits.ids[first + i], hits.scores[first + i]
                held = found_ids >= 0
                all_ids = np.concatenate([found_ids[held], ids + start])
                place, top = best(np.concatenate([found[held], top]), K)
                found_ids[: len(place)], found[: len(place)] = all_ids[place], top

        over_rows(merge, len(queries))


def check_queries(found: int, expected: int, name: str, K: int) -> None:
    """Refuse queries of another width than the items', and a K below 1."""
    check_count(K)
    if found != expected:
        raise InputError(
            f"{name}: rows of {found} columns; expected {expected}, the width of the items"
        )
