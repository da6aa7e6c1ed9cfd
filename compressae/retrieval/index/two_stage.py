"""The two-stage search of dense queries: candidates from posting lists, then exact rescoring."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from compressae.kernels.candidates import TOGETHER, TOGETHER_FROM_DISK, find_candidates
from compressae.kernels.pages import random_access
from compressae.kernels.topk import abs_topk, best
from compressae.retrieval.errors import RerankError
from compressae.retrieval.index.exclusion import without
from compressae.retrieval.index.hits import Hits, merge_hits
from compressae.retrieval.index.hot import HotRows
from compressae.retrieval.index.request import SearchRequest
from compressae.retrieval.index.segments import Segment, watched
from compressae.retrieval.index.table_rows import TableRows
from compressae.retrieval.io.embeddings import Embeddings, dots

_NO_ROWS = np.empty(0, np.int64)
#: One row of so many is scored in the time in which all are searched by lists.
_SHARE_SCANNED = 40
#: Rows read ahead at a time to be rescored: 16 MB where each is in a page of its own.
ROWS_AHEAD = 1 << 12


@dataclass(frozen=True, eq=False)
class TwoStageSearch:
    """Candidates from the lists and rescoring, or a scan of all codes.

    Attributes:
        request: the search.
        project: maps unit queries (m, d) to q' = W·x (m, h).
        scored: numbers of rows that were scored so far; threads append to it.
    """

    request: SearchRequest
    project: Callable[[np.ndarray], np.ndarray]
    scored: list[int] = field(default_factory=list)

    @cached_property
    def _searchable_rows(self) -> list[np.ndarray | None]:
        """For each segment its searchable rows; None for all."""
        return [None if mask is None else np.flatnonzero(mask) for mask in self.request.masks]

    @cached_property
    def scans(self) -> bool:
        """Every searchable row is scored: all are wanted, or fewer than candidates; or a filter
        leaves so few that scoring them takes less time than reading the lists of all rows."""
        request = self.request
        if request.candidates == "all":
            return True
        count = sum(
            len(segment) if mask is None or mask is segment.alive else int(np.count_nonzero(mask))
            for segment, mask in zip(request.segments, request.masks, strict=True)
        )
        few = request.rows // _SHARE_SCANNED if request.filtered else 0
        return count <= max(request.candidates, few)

    def __call__(
        self, x: np.ndarray, start: int, stop: int, hits: Hits, first: int, number: int
    ) -> None:
        """Answer unit queries x[start:stop] into hits[first + start : first + stop].

        ``number`` is that of the query x[0] in the request.
        """
        segments = self.request.segments
        from_disk = any(segment.from_disk for segment in segments)
        together = TOGETHER_FROM_DISK if from_disk else TOGETHER
        for a in range(start, stop, together):
            with watched(segments):
                self._answer(x[a : min(a + together, stop)], hits, first + a, number + a)

    def _answer(self, x: np.ndarray, hits: Hits, first: int, number: int) -> None:
        """Answer unit queries (m, d) into hits[first : first + m]; see ``__call__``."""
        exclude, segments = self.request.exclude, self.request.segments
        projected = self.project(x)
        tables = segments[0].codes.query_tables(x)
        chosen: list[list[Any]]
        scores = None
        if self.scans:
            chosen = [self._searchable_rows] * len(x)
        else:
            chosen = self._candidate_rows(projected, number)
            if any(segment.from_disk for segment in segments):
                scores = [
                    _scores_from_disk(segment, projected, tables, [rows[s] for rows in chosen])
                    for s, segment in enumerate(segments)
                ]
        for i, query in enumerate(projected):
            table = None if tables is None else tables[i]
            parts = []
            for s, (segment, rows) in enumerate(zip(segments, chosen[i], strict=True)):
                excluded = None
                if exclude is not None and self.scans:  # Candidates are without them.
                    excluded = exclude.rows(number + i, number + i + 1, segment).rows
                if scores is not None:
                    row_scores = scores[s][i]
                else:
                    row_scores = segment.codes.scores(query, table, rows)
                self.scored.append(len(row_scores))
                place, top = _best_left(row_scores, hits.ids.shape[1], rows, excluded)
                parts.append((segment.ids_of(place if rows is None else rows[place]), top))
            merge_hits(parts, hits, first + i)

    def _candidate_rows(self, projected: np.ndarray, number: int) -> list[list[np.ndarray]]:
        """For each query and segment, the ascending rows of largest sums over the lists.

        ``number`` is that of the first query.
        """
        # The largest entries of q' are the terms that search the lists.
        request, C = self.request, self.request.candidates
        assert C != "all"
        m, kq = len(projected), request.query_nonzeros
        ids, values = abs_topk(projected, kq, 1)
        bounds = np.arange(m + 1, dtype=np.int64) * kq
        ids, values = ids.reshape(-1), values.reshape(-1)
        found, left_out = [], []
        for segment, mask in zip(request.segments, request.masks, strict=True):
            assert segment.lists is not None
            excluded = None
            if request.exclude is not None:
                excluded = request.exclude.rows(number, number + m, segment)
            left_out.append(excluded)
            found.append(
                find_candidates(
                    segment.lists, bounds, ids, values, C, False, mask, excluded, segment.from_disk
                )
            )
        chosen = []
        for i in range(m):
            rows = [part.rows[i] for part in found]
            is_cut = [not part.complete[i] and len(part.rows[i]) >= C for part in found]
            missing = C - sum(map(len, rows))
            for s, (segment, mask) in enumerate(zip(request.segments, request.masks, strict=True)):
                if not is_cut[s] and missing <= 0:
                    continue
                n, excluded = len(segment.codes), left_out[s]
                passed_over = _NO_ROWS if excluded is None else excluded.of_query(i)
                if is_cut[s]:  # Too many equal sums to cut: every row is scored.
                    rows[s] = _others(passed_over, mask, n, n)
                else:  # Few rows of positive sum: fill up with the first others.
                    passed_over = np.union1d(rows[s], passed_over)
                    more = _others(passed_over, mask, n, missing)
                    rows[s] = np.sort(np.concatenate([rows[s], more]))
                    missing -= len(more)
            if len(rows) > 1 and missing < 0 and not any(is_cut):
                # Of all segments together the C of largest sum.
                sums = [part.scores[i] * part.unit[i] for part in found]
                everything = np.concatenate(sums)
                least = -np.partition(-everything, C - 1)[C - 1]
                rows = [part[score >= least] for part, score in zip(rows, sums, strict=True)]
            chosen.append(rows)
        return chosen


def _scores_from_disk(
    segment: Segment,
    projected: np.ndarray,
    tables: np.ndarray | None,
    rows: list[np.ndarray],
) -> list[np.ndarray]:
    """Scores of rows that are read ahead, in the order of the file, for all queries together.

    Args:
        segment: mapped.
        projected: q' (m, h).
        tables: (m, residual bytes, 256) of ``Codes.query_tables``, or None.
        rows: for each query its rows, ascending.

    Returns:
        For each query the scores of its rows, float32.
    """
    every = rows[0] if len(rows) == 1 else np.unique(np.concatenate(rows))
    parts: list[list[np.ndarray]] = [[np.empty(0, np.float32)] for _ in rows]
    begins = [0] * len(rows)
    arrays = segment.codes.row_arrays().values()
    with random_access(*arrays):
        for start in range(0, len(every), ROWS_AHEAD):
            group = every[start : start + ROWS_AHEAD]
            segment.codes.read_ahead(group)
            for i, own in enumerate(rows):
                end = int(np.searchsorted(own, group[-1], "right"))
                if end > begins[i]:
                    table = None if tables is None else tables[i]
                    own_rows = own[begins[i] : end]
                    parts[i].append(segment.codes.scores(projected[i], table, own_rows))
                    begins[i] = end
    return [np.concatenate(part) for part in parts]


def _best_left(
    scores: np.ndarray, K: int, rows: np.ndarray | None, excluded: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Top K of scores (m,) of rows (m,), ascending, or of all: places and scores, best first.

    ``excluded`` rows, ascending, are left out.
    """
    if excluded is None or not len(excluded):
        return best(scores, K)
    if rows is None:
        scores[excluded] = -np.inf
    else:
        scores[~without(rows, excluded)] = -np.inf
    place, top = best(scores, K)
    left = int(np.count_nonzero(top > -np.inf))
    return place[:left], top[:left]


def _others(rows: np.ndarray, mask: np.ndarray | None, n: int, count: int) -> np.ndarray:
    """The first ``count`` searchable rows that are not among ``rows``."""
    pool = np.arange(min(n, count + len(rows))) if mask is None else np.flatnonzero(mask)
    return np.setdiff1d(pool[: count + len(rows)], rows)[:count]


def rerank(
    table: Embeddings | HotRows | TableRows, x: np.ndarray, found: Hits, hits: Hits, first: int
) -> None:
    """Rerank hits with full-precision vectors: by exact cosine or dot product with table rows.

    Args:
        table: (n, d), row numbers being ids, read as rows to compare; or rows by id, of which
            ``HotRows`` are some.
        x: (m, d) unit queries.
        found: (m, ≥ K) hits of the stage before.
        hits: results; rows first..first + m are written.
        first: see ``hits``.

    Raises:
        RerankError: rows of the table cannot be read, or hold NaN or infinity.
    """
    for i, (query, candidates) in enumerate(zip(x, found.ids, strict=True)):
        order = np.argsort(candidates)[np.count_nonzero(candidates < 0) :]
        ids = candidates[order]
        if len(ids):
            if isinstance(table, HotRows):
                scores = table.rescore(query, ids, found.scores[i, order])
            else:
                try:
                    scores = dots(table.take(ids), query)
                except RerankError:
                    raise
                except (OSError, ValueError) as error:  # Of a map that is longer than its file.
                    raise RerankError(f"rerank: {table.name} cannot be read ({error})") from error
            place, top = best(scores, hits.ids.shape[1])
            hits.ids[first + i, : len(place)] = ids[place]
            hits.scores[first + i, : len(place)] = top
