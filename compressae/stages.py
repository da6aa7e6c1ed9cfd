"""The stages of a search of dense queries."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from compressae.kernels.candidates import TOGETHER, find_candidates
from compressae.kernels.topk import abs_topk, best
from compressae.retrieval.catalogue import Codes, Segment
from compressae.retrieval.embeddings import Embeddings, as_embeddings, unit_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.inverted import merge_hits
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.searcher import Hits

#: With a dense last stage, how many times K rows are read for it unless told.
DENSE_FACTOR = 4


@dataclass(frozen=True, eq=False)
class Stages:
    """A search of dense queries: candidates from the lists and rescoring, or a scan of all codes.

    Attributes:
        segments: of the catalogue.
        masks: for each, the rows that may be found; all where None.
        project: unit queries (m, d) to q' (m, h).
        view: unit queries to what is scored in their place; themselves when None.
        candidates: C, or "all"; all rows are scored where there are no more.
        query_nonzeros: entries of q' that search the lists.
    """

    segments: tuple[Segment, ...]
    masks: list[np.ndarray | None]
    project: Callable[[np.ndarray], np.ndarray]
    view: Callable[[np.ndarray], np.ndarray] | None
    candidates: int | Literal["all"]
    query_nonzeros: int

    @cached_property
    def _every_row(self) -> list[np.ndarray | None]:
        """For each segment the rows that may be found; None for all."""
        return [None if mask is None else np.flatnonzero(mask) for mask in self.masks]

    @cached_property
    def scans(self) -> bool:
        """No row is left out by the lists."""
        found = [
            len(segment) if mask is None or mask is segment.alive else int(np.count_nonzero(mask))
            for segment, mask in zip(self.segments, self.masks, strict=True)
        ]
        return self.candidates == "all" or self.candidates >= sum(found)

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
                for segment, rows in zip(
                    self.segments, self._every_row if chosen is None else chosen[i], strict=True
                ):
                    scores = _scores(segment.codes, q, table, rows)
                    place, top = best(scores, hits.ids.shape[1])
                    found = place if rows is None else rows[place]
                    parts.append((segment.ids_of(found), top))
                merge_hits(parts, hits, first + a + i)

    def _candidate_rows(self, projected: np.ndarray) -> list[list[np.ndarray]]:
        """For each query and segment, ascending rows whose sums over the lists are largest."""
        ids, values = abs_topk(projected, self.query_nonzeros, 1)
        assert self.candidates != "all"
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
                if not part.complete[i] and len(mine) >= C:  # Too many alike: all are scored.
                    mine = np.arange(len(segment.codes)) if mask is None else np.flatnonzero(mask)
                    score = np.full(len(mine), np.inf)
                elif len(mine) < C:
                    more = _others(mine, mask, len(segment.codes), C - len(mine))
                    mine = np.concatenate([mine, more])
                    score = np.concatenate([score, np.zeros(len(more))])
                    order = np.argsort(mine)
                    mine, score = mine[order], score[order]
                rows.append(mine)
                sums.append(score)
            everything = np.concatenate(sums)
            if len(rows) > 1 and len(everything) > C and np.isfinite(everything).all():
                least = -np.partition(-everything, C - 1)[C - 1]
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


def dense_queries(queries: Any, dim: int) -> Embeddings:
    """Queries (q, dim) as a reader."""
    read = as_embeddings(queries, "queries")
    if read.shape[1] != dim:
        raise InputError(
            f"{read.name}: rows of {read.shape[1]} columns; expected {dim}, the width of the "
            "indexed embeddings"
        )
    return read


def dense_stage(
    dim: int,
    segments: tuple[Segment, ...],
    dense: Any,
    dense_candidates: int | None,
    K: int,
    candidates: Any,
) -> tuple[Embeddings | None, int]:
    """The table of the last stage, if there is one, and how many results the others give it."""
    if dense is None:
        if dense_candidates is not None:
            raise InputError("dense_candidates without dense: give the embeddings to read")
        return None, K
    table = as_embeddings(dense, "dense")
    last = max(segment.last_id for segment in segments)
    if table.shape[1] != dim or len(table) <= last:
        raise InputError(
            f"{table.name}: {table.shape}; expected rows of {dim} for ids up to {last}, the "
            "embeddings of the indexed items"
        )
    if dense_candidates is None:
        most = candidates if isinstance(candidates, int) else DENSE_FACTOR * K
        return table, max(K, min(DENSE_FACTOR * K, most))
    if dense_candidates < K:
        raise InputError(
            f"{dense_candidates} dense candidates for {K} results; expected at least {K}"
        )
    return table, int(dense_candidates)
