"""The stages of a search of dense queries."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from compressae.kernels.candidates import TOGETHER, find_candidates
from compressae.kernels.topk import abs_topk, best
from compressae.retrieval.catalogue import Codes, Segment
from compressae.retrieval.embeddings import Embeddings, unit_rows
from compressae.retrieval.inverted import merge_hits
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.searcher import Hits


@dataclass(frozen=True, eq=False)
class Stages:
    """A search of dense queries: candidates from the lists and rescoring, or a scan of all codes.

    Attributes:
        segments: of the catalogue.
        masks: for each, the rows that may be found; all where None.
        project: unit queries (m, d) to q' (m, h).
        view: unit queries to what is scored in their place; themselves when None.
        candidates: C; all rows are scored where there are no more.
        query_nonzeros: entries of q' that search the lists.
    """

    segments: tuple[Segment, ...]
    masks: list[np.ndarray | None]
    project: Callable[[np.ndarray], np.ndarray]
    view: Callable[[np.ndarray], np.ndarray] | None
    candidates: int
    query_nonzeros: int

    @cached_property
    def scans(self) -> bool:
        """No row is left out by the lists."""
        found = [
            len(segment.codes) if mask is None else int(np.count_nonzero(mask))
            for segment, mask in zip(self.segments, self.masks, strict=True)
        ]
        return self.candidates >= sum(found)

    def __call__(self, x: np.ndarray, start: int, stop: int, hits: Hits, first: int) -> None:
        """Answer unit queries x[start:stop] into hits[first + start : first + stop]."""
        for a in range(start, stop, TOGETHER):
            block = x[a : min(a + TOGETHER, stop)]
            if self.view is not None:
                block = self.view(block)
            projected = self.project(block)
            codes = self.segments[0].codes
            tables = codes.quantizer.tables(block) if isinstance(codes, PackedCodes) else None
            chosen = None if self.scans else self._candidate_rows(projected)
            for i, q in enumerate(projected):
                table = None if tables is None else tables[i]
                parts = []
                for number, segment in enumerate(self.segments):
                    mask = self.masks[number]
                    rows = None if mask is None else np.flatnonzero(mask)
                    if chosen is not None:
                        rows = chosen[i][number]
                    scores = _scores(segment.codes, q, table, rows)
                    place, top = best(scores, hits.ids.shape[1])
                    found = place if rows is None else rows[place]
                    parts.append((segment.ids_of(found), top))
                merge_hits(parts, hits, first + a + i)

    def _candidate_rows(self, projected: np.ndarray) -> list[list[np.ndarray]]:
        """For each query and segment, ascending rows whose sums over the lists are largest."""
        ids, values = abs_topk(projected, self.query_nonzeros, 1)
        m, C = len(projected), self.candidates
        bounds = np.arange(m + 1, dtype=np.int64) * self.query_nonzeros
        found = []
        for segment, mask in zip(self.segments, self.masks, strict=True):
            assert segment.lists is not None
            found.append(
                find_candidates(
                    segment.lists, bounds, ids.reshape(-1), values.reshape(-1), C, False, mask
                )
            )
        chosen = []
        for i in range(m):
            rows, sums = [], []
            for segment, mask, part in zip(self.segments, self.masks, found, strict=True):
                mine, score = part.rows[i], part.scores[i] * part.unit[i]
                if len(mine) < C:
                    more = _others(mine, mask, len(segment.codes), C - len(mine))
                    mine = np.concatenate([mine, more])
                    score = np.concatenate([score, np.zeros(len(more))])
                    order = np.argsort(mine)
                    mine, score = mine[order], score[order]
                rows.append(mine)
                sums.append(score)
            if len(rows) > 1 and sum(map(len, rows)) > C:
                least = -np.partition(-np.concatenate(sums), C - 1)[C - 1]
                rows = [mine[score >= least] for mine, score in zip(rows, sums, strict=True)]
            chosen.append(rows)
        return chosen


def _scores(
    codes: Codes, projected: np.ndarray, table: np.ndarray | None, rows: np.ndarray | None
) -> np.ndarray:
    """q'·s and what the residual codes add, of rows (m,), of all when None."""
    if isinstance(codes, PackedCodes):
        assert table is not None
        return codes.rescore(projected, table, rows)
    return codes.dots(projected, rows)


def _others(rows: np.ndarray, mask: np.ndarray | None, n: int, count: int) -> np.ndarray:
    """The first ``count`` rows that may be found and are not among ``rows``."""
    pool = np.arange(min(n, count + len(rows))) if mask is None else np.flatnonzero(mask)
    return np.setdiff1d(pool[: count + len(rows)], rows)[:count]


def rank_dense(table: Embeddings, x: np.ndarray, found: Hits, hits: Hits, first: int) -> None:
    """The best of what was found for unit queries x (m, d), by exact cosine with rows of the table,
    into hits[first : first + m]."""
    for i, (query, near) in enumerate(zip(x, found.ids, strict=True)):
        ids = np.sort(near[near >= 0])
        if len(ids):
            place, top = best(unit_rows(table.take(ids)) @ query, hits.ids.shape[1])
            hits.ids[first + i, : len(place)] = ids[place]
            hits.scores[first + i, : len(place)] = top
