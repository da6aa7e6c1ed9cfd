"""Exact search over sparse rows by posting lists."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from compressae.kernels.candidates import (
    TOGETHER,
    TOGETHER_FROM_DISK,
    Candidates,
    find_candidates,
)
from compressae.kernels.postings import touched
from compressae.kernels.threads import over_rows
from compressae.kernels.topk import best
from compressae.retrieval.codes import Codes, as_codes, query_rows
from compressae.retrieval.codes.sparse import CsrRows
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.exclusion import ExcludedRows, Exclusion, without
from compressae.retrieval.index.hits import Hits, Ranked, check_count, merge_hits
from compressae.retrieval.index.postings import (
    ListType,
    build_segment,
)
from compressae.retrieval.index.segments import Segment, SegmentedIndex, Segments, watched
from compressae.retrieval.io.embeddings import Similarity

KIND = "inverted"
#: Where no more rows than these are allowed, they are scored one by one, without lists.
_FEW = 4096
#: Rows from which upper bounds of scores are summed first, and nonzeros of a query up to which: the
#: bounds of longer queries seldom decide.
_BOUNDED_FROM, _BOUNDED_NONZEROS = 1 << 15, 128


class InvertedIndex(SegmentedIndex):
    """Posting lists over sparse rows (n, h); answers equal brute force over every row.

    Lists hold row numbers and int8 values, three bytes a nonzero. Integer sums over them find the
    rows that may be among the best, with a proven bound (``compressae.kernels.candidates``): first
    sums of the products alone that raise a score, half of the postings of signed rows, then of all
    if those do not decide. The rows are scored from the codes, which the index keeps: summed in
    float64 (packed codes in float32), rounded to float32, ties by smaller id. A row that shares no
    latent with the query scores 0 and ranks before rows of negative score; a query without nonzeros
    has no results.

    Args:
        codes: the rows: ``SparseCodes``, a scipy sparse matrix, a sparse torch tensor, or
            ``PackedCodes``, whose nonzeros are searched. Rows of any lengths and signs; h costs 8
            bytes for each 65,536 rows.
        threads: processors to use; all that the process may use when None. Results do not depend
            on it.
        similarity: "dot" or "cosine" of the sparse rows.
        list_type: dtype of the lists' values: "float32" takes six bytes a nonzero and leaves fewer
            rows to score where a few values are much larger than the rest.
        ids: (n,) whole numbers ≥ 0, the rows' ids; 0…n − 1 when None.

    Raises:
        InputError: no codes, or ids that do not fit them.

    >>> import scipy.sparse
    >>> rows = scipy.sparse.csr_array([[0, 2.0, 0], [1.0, 0, -1.0], [0.5, 1.0, 0]])
    >>> index = InvertedIndex(rows)
    >>> index.search(scipy.sparse.csr_array([[1.0, 1.0, 0]]), 2).ids
    array([[0, 2]])
    """

    def __init__(
        self,
        codes: Any,
        threads: int | None = None,
        *,
        similarity: Similarity = "dot",
        list_type: ListType = "int8",
        ids: Any = None,
    ) -> None:
        self._set(similarity, list_type, threads)
        codes = as_codes(codes, "codes")
        self.latents = codes.latents
        self.segments = Segments(codes, self.build, ids)

    def _set(self, similarity: Similarity, list_type: ListType, threads: int | None) -> None:
        if similarity not in ("dot", "cosine") or list_type not in ("int8", "float32"):
            raise InputError(
                f"similarity {similarity!r}, list_type {list_type!r}; expected dot or cosine, int8 "
                "or float32"
            )
        self.similarity, self.list_type, self.threads = similarity, list_type, threads

    def build(self, codes: Codes, ids: np.ndarray | None) -> Segment:
        """Build a segment of rows as this index holds them; see ``segments.Build``."""
        return build_segment(codes, ids, self.similarity, self.list_type, self.threads)

    def __repr__(self) -> str:
        return (
            f"InvertedIndex({len(self):,} rows over {self.latents:,} latents, {self.similarity}, "
            f"{self.nbytes / max(len(self), 1):.4g} bytes a row)"
        )

    @property
    def nbytes(self) -> int:
        """Bytes that grow with n: lists and codes."""
        return self.segments.nbytes

    def search(self, queries: Any, K: int, allowed: Any = None, exclude: Any = None) -> Hits:
        """Find the K rows of largest score for each query.

        Args:
            queries: (q, h) sparse rows: a scipy sparse matrix, a sparse torch tensor or codes.
            K: results a query; above n, rows are padded.
            allowed: only these may be found: ids (m,), or bool (m,) by id with m above the
                largest id; all when None.
            exclude: ids that each query leaves out; see ``CompressedIndex.search``.

        Raises:
            InputError: queries of another width, NaN or infinite; K < 1; another form of allowed or
                exclude.
        """
        check_count(K)
        terms = query_rows(queries, self.latents)
        if self.similarity == "cosine":
            terms = terms._replace(values=_unit(terms.indptr, terms.values))
        segments, masks = self.segments.snapshot(allowed)
        left_out = None if exclude is None else Exclusion.of(exclude, len(terms.indptr) - 1)
        return search_lists(
            segments, masks, allowed is not None, terms, self.latents, K, self.threads, left_out
        )

    def add(self, codes: Any, ids: Any = None) -> np.ndarray:
        """Add rows, which searches find from now on.

        Args:
            codes: (m, h) rows of the index's own kind of codes; a scipy sparse matrix or a sparse
                torch tensor for an index of ``SparseCodes``.
            ids: (m,) whole numbers ≥ 0 that the index does not hold; the next ones when None.

        Returns:
            The ids (m,) int64.

        Raises:
            InputError: codes that do not go with the index's, or an id that it holds. Nothing was
                changed.
        """
        return self.segments.add(self.as_ours(codes), ids)

    def update(self, ids: Any, codes: Any) -> None:
        """Replace the rows of ids (m,) by codes (m, h).

        Raises:
            InputError: see ``add`` and ``remove``. Nothing was changed.
        """
        self.segments.update(ids, self.as_ours(codes))

    @classmethod
    def of(
        cls,
        parts: Sequence[Segment],
        next_id: int = 0,
        threads: int | None = None,
        similarity: Similarity = "dot",
        list_type: ListType = "int8",
    ) -> "InvertedIndex":
        """Wrap segments that ``build_segment`` made; see the class and ``Segments.of``.

        Raises:
            InputError: a segment lacks its lists or factors.
        """
        for segment in parts:
            if segment.lists is None or (segment.factors is None) != (similarity == "dot"):
                raise InputError("a segment lacks its posting lists; build the index again")
        index = cls.__new__(cls)
        index._set(similarity, list_type, threads)
        index.latents = parts[0].codes.latents
        index.segments = Segments.of(parts, index.build, next_id)
        return index


def search_lists(
    segments: Sequence[Segment],
    masks: list[np.ndarray | None],
    filtered: bool,
    terms: CsrRows,
    latents: int,
    K: int,
    threads: int | None,
    exclude: Exclusion | None = None,
    number: int = 0,
) -> Hits:
    """Find the K rows of largest dot product with each query, exactly.

    Args:
        segments: with lists.
        masks: for each its searchable rows (n,) bool, or None for all.
        filtered: the masks are of a filter, which may leave few rows.
        terms: (q, h) queries; values float32, for cosines float64 of unit length.
        latents: h.
        K: results.
        threads: processors to use.
        exclude: ids that queries leave out; the first query is its query ``number``.
    """
    indptr, ids, values = terms
    q = len(indptr) - 1
    few = [_few_rows(mask) if filtered else None for mask in masks]
    hits, scored = Hits.empty(q, K), [0]

    def fill(start: int, stop: int) -> None:
        dense = np.zeros(latents, values.dtype)
        from_disk = any(segment.from_disk for segment in segments)
        together = TOGETHER_FROM_DISK if from_disk else TOGETHER
        for first in range(start, stop, together):
            ends = indptr[first : min(first + together, stop) + 1]
            begin, end = ends[0], ends[-1]
            batch = (ends - begin, ids[begin:end], values[begin:end])
            answers = []
            with watched(segments):
                for segment, mask, rows in zip(segments, masks, few, strict=True):
                    excluded = None
                    if exclude is not None:
                        start_number = number + first
                        excluded = exclude.rows(start_number, start_number + len(ends) - 1, segment)
                    ranked, count = _answers(segment, *batch, dense, K, mask, rows, excluded)
                    answers.append(ranked)
                    scored.append(count)
            for i, parts in enumerate(zip(*answers, strict=True)):
                merge_hits(parts, hits, first + i)

    over_rows(fill, q, threads)
    return Hits(hits.ids, hits.scores, sum(scored))


def _unit(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (nnz,) float64 of sparse rows divided by each row's length."""
    exact, counts = values.astype(np.float64), np.diff(indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    norms = np.sqrt(np.bincount(row, exact**2, minlength=len(counts)))[row]
    return np.divide(exact, norms, where=norms > 0, out=np.zeros(len(exact)))


def _answers(
    segment: Segment,
    ends: np.ndarray,
    ids: np.ndarray,
    values: np.ndarray,
    dense: np.ndarray,
    K: int,
    mask: np.ndarray | None,
    few: np.ndarray | None,
    excluded: ExcludedRows | None,
) -> tuple[list[Ranked], int]:
    """Find the K best rows of a segment for each of m queries; and how many rows were scored.

    Args:
        segment: with lists.
        ends, ids, values: the queries as CSR; values float32, for cosines float64 of unit length.
        dense: (h,) zeros of the same dtype, and zeros afterwards.
        K: results.
        mask: (n,) bool, the searchable rows; all when None.
        few: the searchable rows where they are so few that each is scored; else None.
        excluded: rows that each query leaves out; None for none.
    """
    lists, m, scored = segment.lists, len(ends) - 1, 0
    assert lists is not None
    rounded = values.astype(np.float32, copy=False)
    answers: list[Ranked | None] = [None] * m

    def find(first: int, last: int, count: int, upper: bool) -> Candidates:
        """Candidates of queries first..last."""
        part = slice(ends[first], ends[last])
        own = None if excluded is None else excluded.of_queries(first, last)
        bounds = ends[first : last + 1] - ends[first]
        return find_candidates(
            lists, bounds, ids[part], rounded[part], count, not upper, mask, own,
            segment.from_disk, upper,
        )  # fmt: skip

    def rank(i: int, rows: np.ndarray) -> Ranked:
        """The K best of rows for query i."""
        nonlocal scored
        scored += len(rows)
        if segment.from_disk:
            segment.codes.read_ahead(rows)
        latents = ids[ends[i] : ends[i + 1]]
        dense[latents] = values[ends[i] : ends[i + 1]]
        place, top = best(segment.codes.dots(dense, rows, segment.factors), K)
        dense[latents] = 0
        return segment.ids_of(rows[place]), top

    # By upper bounds, where they leave out many postings.
    is_short = len(segment.codes) >= _BOUNDED_FROM and len(ids) <= _BOUNDED_NONZEROS * m
    if few is None and is_short and lists.has_both_signs:
        bounded = find(0, m, _BOUNDED * K + _MORE, True)
        for i in range(m):
            if len(bounded.rows[i]) < K or bounded.floor[i] == np.inf:
                continue
            ranked = rank(i, bounded.rows[i])
            if bounded.is_below(i, float(ranked[1][-1])):
                answers[i] = ranked

    # By whole sums: neighbours together, which share the reads of a window.
    for first, last in _undecided(answers):
        candidates = None if few is not None else find(first, last, K, False)
        for i in range(first, last):
            excluded_rows = _NO_ROWS if excluded is None else excluded.of_query(i)
            if ends[i] == ends[i + 1]:
                rows = _NO_ROWS
            elif candidates is None:
                assert few is not None
                rows = few[without(few, excluded_rows)]
            elif candidates.complete[i - first]:
                rows = candidates.rows[i - first]
            else:
                latents = ids[ends[i] : ends[i + 1]]
                rows = _every_row(segment, latents, K, mask, excluded_rows)
            answers[i] = rank(i, rows)
    return [ranked for ranked in answers if ranked is not None], scored


def _undecided(answers: list[Ranked | None]) -> Iterator[tuple[int, int]]:
    """Runs first..last of queries without an answer."""
    if None not in answers:
        return
    first = 0
    for is_decided, run in groupby(list(answers), lambda ranked: ranked is not None):
        last = first + len(list(run))
        if not is_decided:
            yield first, last
        first = last


_NO_ROWS = np.empty(0, np.int64)
#: Rows whose upper bounds are found, as a multiple of K, and some more.
_BOUNDED, _MORE = 3, 32


def _few_rows(mask: np.ndarray | None) -> np.ndarray | None:
    """The rows of a mask where they are few."""
    if mask is None or int(np.count_nonzero(mask)) > _FEW:
        return None
    return np.flatnonzero(mask)


def _every_row(
    segment: Segment,
    latents: np.ndarray,
    K: int,
    mask: np.ndarray | None,
    excluded_rows: np.ndarray,
) -> np.ndarray:
    """Rows that hold every one of the K best where sums cannot decide: all that share a latent with
    the query, and the first K that share none, which score 0; none that is left out."""
    assert segment.lists is not None
    searchable = np.ones(len(segment.codes), bool) if mask is None else mask.copy()
    searchable[excluded_rows] = False
    sharing = touched(segment.lists, latents.astype(np.int64))
    others = searchable & ~sharing
    sharing &= searchable
    return np.sort(np.concatenate([np.flatnonzero(sharing), np.flatnonzero(others)[:K]]))
