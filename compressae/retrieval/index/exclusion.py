"""Exclusion: what each query leaves out, such as the items that a user has seen."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.hits import Hits, Searcher
from compressae.retrieval.index.segments import Segment

#: Queries that are searched together with as many results.
_TOGETHER = 256


class ExcludedRows(NamedTuple):
    """Rows of a segment that each of m queries leaves out, as CSR.

    Attributes:
        bounds: (m + 1,) int64.
        rows: (e,) int64, ascending within a query.
    """

    bounds: np.ndarray
    rows: np.ndarray

    def of_query(self, i: int) -> np.ndarray:
        """Rows that the i-th of the queries leaves out, ascending."""
        return self.rows[self.bounds[i] : self.bounds[i + 1]]

    def of_queries(self, first: int, last: int) -> "ExcludedRows":
        """What queries first..last leave out."""
        bounds = self.bounds[first : last + 1]
        return ExcludedRows(bounds - bounds[0], self.rows[bounds[0] : bounds[-1]])


@dataclass(frozen=True, eq=False)
class Exclusion:
    """Ids that each of q queries leaves out. Make one by ``of``.

    Attributes:
        indptr: (q + 1,) bounds of each query's ids.
        ids: (nnz,) int64, ascending within a query.

    >>> seen = Exclusion.of(sparse.csr_array([[0, 1, 1], [0, 0, 0]]), queries=2)
    >>> seen.of_query(0)
    array([1, 2])
    """

    indptr: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, pairs: Any, queries: int) -> "Exclusion":
        """Check pairs of a query and an id.

        Args:
            pairs: a scipy sparse matrix (q, any width): the columns of a row's nonzeros are ids
                that the query leaves out. Ids that the index lacks are ignored.
            queries: q.

        Raises:
            InputError: it is no sparse matrix, or not of q rows.
        """
        if not sparse.issparse(pairs):
            raise InputError(
                f"exclude: {type(pairs).__name__}; expected a scipy sparse matrix, a row a query, "
                "whose nonzeros are the ids to leave out"
            )
        if pairs.ndim != 2 or pairs.shape[0] != queries:
            raise InputError(
                f"exclude: shape {pairs.shape} for {queries} queries; expected a row for each"
            )
        rows = pairs if pairs.format == "csr" else sparse.csr_array(pairs)
        if not rows.has_sorted_indices or not rows.data.all():
            rows = rows.copy()  # The caller's matrix stays as it is.
            rows.sort_indices()
            rows.eliminate_zeros()
        return cls(rows.indptr.astype(np.int64), rows.indices.astype(np.int64))

    def of_query(self, query: int) -> np.ndarray:
        """Ids (m,) that a query leaves out, ascending."""
        return self.ids[self.indptr[query] : self.indptr[query + 1]]

    def rows(self, start: int, stop: int, segment: Segment) -> "ExcludedRows":
        """Rows of a segment that the queries start..stop leave out."""
        bounds = self.indptr[start : stop + 1]
        rows = segment.rows_of(self.ids[bounds[0] : bounds[-1]])
        bounds = bounds - bounds[0]
        is_known = rows >= 0
        if not is_known.all():
            bounds = np.concatenate([[0], np.cumsum(is_known)])[bounds]
            rows = rows[is_known]
        return ExcludedRows(bounds, rows)


def search_without(searcher: Searcher, queries: np.ndarray, K: int, exclude: Any) -> Hits:
    """Search an index that knows no exclusion: as many more results, of which some are left out.

    For a searcher that scans all rows this is exact.

    Args:
        searcher: any.
        queries: (q, d).
        K: results a query.
        exclude: ids that each query leaves out; see ``Exclusion.of``.
    """
    left_out = Exclusion.of(exclude, len(queries))
    hits = Hits.empty(len(queries), K)
    counts = np.diff(left_out.indptr)
    order = np.argsort(counts, kind="stable")  # So that few queries take the most results.
    for start in range(0, len(order), _TOGETHER):
        some = order[start : start + _TOGETHER]
        more = searcher.search(queries[some], K + int(counts[some].max()))
        for query, ids, scores in zip(some, more.ids, more.scores, strict=True):
            first_others(ids, scores, left_out.of_query(query), hits, query)
    return hits


def first_others(
    ids: np.ndarray, scores: np.ndarray, excluded: np.ndarray, hits: Hits, query: int
) -> None:
    """Write the first of ids (m,) that are not among ``excluded``, ascending, into a row of hits.

    >>> hits = Hits.empty(1, 2)
    >>> first_others(np.array([7, 3, 5, -1]), np.array([3, 2, 1, 0]), np.array([3]), hits, 0)
    >>> hits.ids
    array([[7, 5]])
    """
    left = np.flatnonzero(without(ids, excluded) & (ids >= 0))[: hits.ids.shape[1]]
    hits.ids[query, : len(left)], hits.scores[query, : len(left)] = ids[left], scores[left]


def without(rows: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Whether each of ``rows`` (m,) is not among ``excluded``, ascending: (m,) bool.

    >>> without(np.array([1, 4, 6]), np.array([4, 5]))
    array([ True, False,  True])
    """
    if not len(excluded):
        return np.ones(len(rows), bool)
    place = np.minimum(np.searchsorted(excluded, rows), len(excluded) - 1)
    return excluded[place] != rows
