"""Choosing the settings of the two-stage search on a sample of queries."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.kernels.candidates import find_candidates
from compressae.kernels.topk import abs_topk
from compressae.retrieval.embeddings import as_embeddings, unit_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.metrics import recall_at
from compressae.retrieval.searcher import check_count

if TYPE_CHECKING:
    from compressae.search import Candidates, CompressedIndex

#: Query nonzeros that are tried.
WIDTHS = (8, 16, 32, 64, 128, 256)
_TIMED = 100


@dataclass(frozen=True)
class Setting:
    """One setting of the two-stage search as measured.

    Attributes:
        query_nonzeros, candidates: the setting.
        recall: share of the K best of a scan of all codes that the setting finds, over the sample.
        p50_ms: the median time of a single query.
    """

    query_nonzeros: int
    candidates: "Candidates"
    recall: float
    p50_ms: float


def tune(
    index: "CompressedIndex",
    queries: Any,
    K: int,
    recall: float,
    progress: Callable[[int, int, str], None] | None,
) -> list[Setting]:
    """For each number of query nonzeros the fewest candidates that reach the recall, and the scan,
    the fastest first; see ``CompressedIndex.tune``."""
    check_count(K)
    if not 0 < recall <= 1:
        raise InputError(f"recall {recall}: expected above 0, to 1")
    if len(index) <= K:
        raise InputError(f"{len(index)} items and K = {K}: a scan finds them all; nothing to tune")
    x = unit_rows(as_embeddings(queries, "queries").to_array())
    index.compact()
    truth = index.search(x, K, candidates="all").ids
    widths = [kq for kq in WIDTHS if kq <= index.model.latents]
    if not index.list_nbytes:
        widths = []
    found = []
    for done, kq in enumerate(widths):
        if progress is not None:
            progress(done, len(widths) + 1, f"{kq} query nonzeros")
        places = np.sort(_places(index, x, truth, kq), axis=None)
        last = places[int(np.ceil(recall * places.size)) - 1]
        if last < len(index) // 2:  # Else a scan is no slower.
            C = max(_round_up(int(last) + 1), K)
            found.append(_measure(index, x, truth, kq, C))
    if progress is not None:
        progress(len(widths), len(widths) + 1, "a scan")
    found.append(_measure(index, x, truth, index.query_nonzeros, "all"))
    if progress is not None:
        progress(len(widths) + 1, len(widths) + 1, "")
    return sorted(found, key=lambda one: (one.recall < recall, one.p50_ms))


def _places(index: "CompressedIndex", x: np.ndarray, truth: np.ndarray, kq: int) -> np.ndarray:
    """(q, K): how many rows the lists put before each true one, or tie with it."""
    segment = index.catalogue.segments[0]
    assert segment.lists is not None
    n = len(segment.codes)
    places = np.full(truth.shape, n)
    for i, query in enumerate(x):
        ids, values = abs_topk(index._project(query[None]), kq, 1)
        bounds = np.array([0, kq], np.int64)
        part = find_candidates(segment.lists, bounds, ids[0], values[0], n // 2, False)
        rows = segment.rows_of(truth[i])
        at = np.minimum(np.searchsorted(part.rows[0], rows), max(len(part.rows[0]) - 1, 0))
        if len(part.rows[0]):
            here = part.rows[0][at] == rows
            scores = np.sort(part.scores[0])
            before = len(scores) - np.searchsorted(scores, part.scores[0][at[here]], "left")
            places[i, here] = before - 1
    return places


def _measure(
    index: "CompressedIndex", x: np.ndarray, truth: np.ndarray, kq: int, C: "Candidates"
) -> Setting:
    K, times = truth.shape[1], []
    found = index.search(x, K, candidates=C, query_nonzeros=kq).ids
    for query in x[:_TIMED]:
        started = time.perf_counter()
        index.search(query[None], K, candidates=C, query_nonzeros=kq)
        times.append(1e3 * (time.perf_counter() - started))
    return Setting(kq, C, recall_at(found, truth, K), float(np.median(times)))


def _round_up(count: int) -> int:
    """To two digits."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // unit) * unit
