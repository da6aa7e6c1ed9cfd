"""SearchRequest: one search of dense queries, checked once for every index that answers it."""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, Protocol

import numpy as np

from compressae.retrieval.codes import Codes
from compressae.retrieval.errors import InputError, RerankError
from compressae.retrieval.index.exclusion import Exclusion
from compressae.retrieval.index.hits import check_count
from compressae.retrieval.index.hot import HotRows
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.index.segments import Segment, Segments
from compressae.retrieval.index.table_rows import TableRows
from compressae.retrieval.io.embeddings import (
    Embeddings,
    Similarity,
    as_embeddings,
    check_rows,
    split_lengths,
)

Scoring = Literal["asymmetric", "sparse", "reconstructed"]
SCORINGS: tuple[Scoring, ...] = ("asymmetric", "sparse", "reconstructed")
CandidateCount = int | Literal["all"] | None

#: Candidates of the two-stage search, or ten times K, until ``tune`` sets them; chosen on WordNet
#: (docs/results/recall_wordnet.md).
CANDIDATES = 3000
#: Rows read for reranking unless told, as a multiple of K.
RERANK_FACTOR = 4
#: Queries that are answered together.
QUERY_BATCH = 1024
#: Squared lengths between which float32 neither under- nor overflows.
_SMALL, _LARGE = 1e-20, 1e20


class Searchable(Protocol):
    """What a request needs to know of an index."""

    projection: Projection
    segments: Segments

    @property
    def has_lists(self) -> bool:
        """Whether posting lists are there for candidates."""

    @property
    def query_nonzeros(self) -> int:
        """Entries of q' that search the lists unless told."""

    @property
    def candidates(self) -> CandidateCount:
        """Rows rescored a query unless told."""

    @property
    def tuned(self) -> tuple[int, CandidateCount]:
        """K that ``candidates`` were tuned for, and the candidates."""


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """A search as it will be run: every setting resolved and checked. Make one by ``of``.

    Attributes:
        projection: of the index.
        similarity: of the index's codes.
        queries: (q, d) dense queries: an array, a reader of a table, or codes that are decoded.
        K: results a query.
        scoring: how queries are compared with codes.
        candidates: rows rescored a query, or "all".
        query_nonzeros: entries of q' that search the lists; nonzeros of the query for "sparse".
        segments: the rows.
        masks: for each segment its searchable rows (n,) bool, or None for all.
        filtered: ``allowed`` was given.
        exclude: (q, any) CSR of ids that each query leaves out, or None.
        rerank: (n, d) table of full-precision rows by number, or rows by id, or None.
        first_stage: results a query of the stage before reranking; K without.
    """

    projection: Projection
    similarity: Similarity
    queries: np.ndarray | Embeddings | Codes
    K: int
    scoring: Scoring
    candidates: int | Literal["all"]
    query_nonzeros: int
    segments: tuple[Segment, ...]
    masks: list[np.ndarray | None]
    filtered: bool
    exclude: Exclusion | None
    rerank: Embeddings | HotRows | TableRows | None
    first_stage: int

    @classmethod
    def of(
        cls,
        index: Searchable,
        queries: Any,
        K: int,
        scoring: Scoring = "asymmetric",
        candidates: CandidateCount = None,
        query_nonzeros: int | None = None,
        allowed: Any = None,
        rerank: Any = None,
        rerank_candidates: int | None = None,
        exclude: Any = None,
    ) -> "SearchRequest":
        """Check the arguments of ``CompressedIndex.search`` against an index.

        Raises:
            InputError: see ``CompressedIndex.search``.
        """
        # How to score, how many results, how many query nonzeros.
        if scoring not in SCORINGS:
            raise InputError(f"scoring {scoring!r}: expected one of {', '.join(SCORINGS)}")
        check_count(K)
        projection = index.projection
        usual = projection.nonzeros if scoring == "sparse" else index.query_nonzeros
        kq = usual if query_nonzeros is None else query_nonzeros
        if not isinstance(kq, Integral) or not 1 <= kq <= projection.latents:
            raise InputError(f"{kq} query nonzeros; expected 1 to {projection.latents}")
        # The queries, of the width of the index.
        similarity = index.segments.parts[0].codes.similarity
        rows: np.ndarray | Embeddings | Codes
        if isinstance(queries, Codes):
            projection.check_made(queries.model_id)
            rows = queries
        else:
            rows = queries if _is_plain(queries) else as_embeddings(queries, "queries")
        if isinstance(rows, Embeddings):
            rows = rows.compared_by("dot") if similarity == "dot" else rows
        if not isinstance(rows, Codes) and rows.shape[1] != projection.dim:
            raise InputError(
                f"{getattr(rows, 'name', 'queries')}: rows of {rows.shape[1]} columns; expected "
                f"{projection.dim}, the width of the indexed embeddings"
            )
        # The rows as they are now, those that may be found, and how many are rescored.
        segments, masks = index.segments.snapshot(allowed)
        n = sum(map(len, segments))
        table, first_stage = _rerank(
            projection.dim, similarity, segments, rerank, rerank_candidates, K, candidates
        )
        count = _resolve_candidates(index, candidates, first_stage, n)
        return cls(
            projection,
            similarity,
            rows,
            int(K),
            scoring,
            count,
            int(kq),
            segments,
            masks,
            allowed is not None,
            None if exclude is None else Exclusion.of(exclude, len(rows)),
            table,
            first_stage,
        )

    def __len__(self) -> int:
        """q."""
        return len(self.queries)

    @property
    def rows(self) -> int:
        """Rows that are not removed."""
        return sum(map(len, self.segments))

    def batches(
        self, size: int = QUERY_BATCH
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        """``size`` queries at a time: the first one's number, unit rows (m, d) float32, and the
        lengths (m,) that multiply scores, None for cosine.

        Raises:
            InputError: a query holds NaN or infinity, or for cosine only zeros.
        """
        is_dot = self.similarity == "dot"
        if isinstance(self.queries, Codes):
            for start in range(0, len(self.queries), size):
                codes = self.queries.take(np.arange(start, min(start + size, len(self.queries))))
                x, lengths = split_lengths(codes.reconstruct(self.projection.decoder))
                yield start, x, lengths if is_dot else None
            return
        if isinstance(self.queries, np.ndarray):
            for start in range(0, len(self.queries), size):
                x, lengths = _unit_queries(self.queries[start : start + size], start, is_dot)
                yield start, x, lengths if is_dot else None
            return
        for start, rows in self.queries.batches(size):  # Rounded as those of an array.
            x, lengths = _unit_queries(rows, start, is_dot)
            yield start, x, lengths if is_dot else None


def _is_plain(queries: Any) -> bool:
    """Whether queries are an array that needs no reader, which takes longer than a search."""
    return (
        isinstance(queries, np.ndarray)
        and queries.ndim == 2
        and queries.size > 0
        and queries.dtype.kind == "f"
        and queries.dtype.itemsize <= 8
    )


def _unit_queries(rows: np.ndarray, first: int, zeros: bool) -> tuple[np.ndarray, np.ndarray]:
    """Equal to ``split_lengths`` of checked rows (m, d) but for rounding, in fewer passes.

    A row is rounded the same whatever the others are.

    Args:
        rows: (m, d) floats.
        first: number of the first row.
        zeros: allow rows of zeros.
    """
    with np.errstate(over="ignore"):  # Infinite rows are refused below.
        x = np.ascontiguousarray(rows, np.float32)
    squares = np.einsum("ij,ij->i", x, x)
    if _SMALL < squares.min() <= squares.max() < _LARGE:
        length = np.sqrt(squares)
        return x / length[:, None], length
    check_rows(x, "queries", np.arange(first, first + len(x)), zeros)
    unusual = ~((squares > _SMALL) & (squares < _LARGE))
    length = np.sqrt(np.where(unusual, 1, squares))
    unit = x / length[:, None]
    unit[unusual], length[unusual] = split_lengths(x[unusual])
    return unit, length


def _resolve_candidates(
    index: Searchable, candidates: CandidateCount, K: int, n: int
) -> int | Literal["all"]:
    """Rows rescored a query, of n: what was asked for, or the index's own setting."""
    if candidates is None and not index.has_lists:
        candidates = "all"
    if candidates is None:
        candidates = index.candidates
        tuned_for, tuned = index.tuned
        if candidates is None:
            return max(CANDIDATES, 10 * K)
        if candidates == tuned and isinstance(candidates, int) and tuned_for < K:
            candidates = -(-candidates * K // tuned_for)
    if candidates == "all":
        return "all"
    if not isinstance(candidates, Integral):
        raise InputError(f"candidates {candidates!r}: expected a number or 'all'")
    if candidates < min(K, n):
        raise InputError(f"{candidates} candidates for {K} results; expected at least {K}")
    if not index.has_lists and candidates < n:
        raise InputError(
            f"{candidates} candidates of an index without posting lists; expected 'all', or "
            "build it with lists"
        )
    return int(candidates)


def _rerank(
    dim: int,
    similarity: Similarity,
    segments: tuple[Segment, ...],
    rerank: Any,
    rerank_candidates: int | None,
    K: int,
    candidates: CandidateCount,
) -> tuple[Embeddings | HotRows | TableRows | None, int]:
    """The table to rerank from, if any, and the results that the stage before it gives."""
    if rerank is None:
        if rerank_candidates is not None:
            raise InputError("rerank_candidates without rerank: give the embeddings to read")
        return None, K
    table: Embeddings | HotRows | TableRows
    if isinstance(rerank, HotRows | TableRows):
        table = rerank
        if table.shape[1] != dim or table.similarity != similarity:
            kind = "hot rows" if isinstance(table, HotRows) else f"{table.name}: rows"
            raise InputError(
                f"{kind} of {table.shape[1]} columns for {table.similarity}; expected {dim} for "
                f"{similarity}, as the index has"
            )
    else:
        table = as_embeddings(rerank, "rerank").compared_by(similarity)
        last = max(segment.last_id for segment in segments)
        if table.shape[1] != dim or len(table) <= last:
            raise RerankError(
                f"{table.name}: {table.shape}; expected rows of {dim} for ids up to {last}, the "
                "embeddings of the indexed items"
            )
    if rerank_candidates is None:
        most = candidates if isinstance(candidates, int) else RERANK_FACTOR * K
        return table, max(K, min(RERANK_FACTOR * K, most))
    if not isinstance(rerank_candidates, Integral) or rerank_candidates < K:
        raise InputError(
            f"{rerank_candidates} rerank candidates for {K} results; expected at least {K}"
        )
    return table, int(rerank_candidates)
