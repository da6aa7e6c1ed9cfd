"""Choose the settings of the two-stage search on a sample of queries."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressae.kernels.candidates import find_candidates
from compressae.kernels.topk import abs_topk
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.exact import exact_search
from compressae.retrieval.index.hits import check_count
from compressae.retrieval.index.request import CandidateCount
from compressae.retrieval.io.embeddings import as_embeddings
from compressae.retrieval.metrics import recall_at

#: Query nonzeros that are tried.
WIDTHS = (8, 16, 32, 64, 128, 256)
_TIMED = 100


@dataclass(frozen=True)
class Setting:
    """One setting of the two-stage search as measured.

    Attributes:
        query_nonzeros, candidates: the setting.
        recall: share of the K best of a scan of all codes that the setting finds, over the sample:
            what the first stage loses, not what the codes lost.
        p50_ms: median time of a single query, milliseconds.
        exact_recall: share of the K exact best rows, by cosine or dot product, that the setting
            finds; None where ``tune`` was not given the items' own embeddings.
    """

    query_nonzeros: int
    candidates: CandidateCount
    recall: float
    p50_ms: float
    exact_recall: float | None = None


def tune(
    index: CompressedIndex,
    queries: Any,
    K: int = 100,
    recall: float = 0.99,
    exact: Any = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Setting]:
    """Set an index's ``query_nonzeros`` and ``candidates`` to the fastest that reach a recall.

    For each number of query nonzeros the fewest candidates that reach the recall are timed, and a
    scan of all codes. Recall is against that scan: what the first stage loses, not what the codes
    lost; ``exact`` tells the latter. The index is compacted; a saved index keeps the setting.

    Args:
        index: with posting lists, or only the scan is timed.
        queries: (q, d) like those to come; some hundred.
        K: results a query; searches for more raise the candidates in proportion.
        recall: above 0, to 1.
        exact: the items' own embeddings by id, from which recall against exact scores is measured
            too; None to leave it out.
        progress: called with (settings tried, settings, the next).

    Returns:
        All settings tried, the one that is set first.

    Raises:
        InputError: bad queries, K or recall; no more than K items.
    """
    check_count(K)
    if not 0 < recall <= 1:
        raise InputError(f"recall {recall}: expected above 0, to 1")
    if len(index) <= K:
        raise InputError(f"{len(index)} items and K = {K}: a scan finds them all; nothing to tune")
    x = as_embeddings(queries, "queries").compared_by(index.similarity).to_array()
    index.compact()
    truth = index.search(x, K, candidates="all").ids
    exact_truth = None if exact is None else _exact_ids(index, x, K, exact)
    widths = [kq for kq in WIDTHS if kq <= index.projection.latents]
    if not index.list_nbytes:
        widths = []
    settings = []
    for done, kq in enumerate(widths):
        if progress is not None:
            progress(done, len(widths) + 1, f"{kq} query nonzeros")
        places = np.sort(_places(index, x, truth, kq), axis=None)
        last = places[int(np.ceil(recall * places.size)) - 1]
        if last < len(index) // 2:  # Else a scan is no slower.
            C = max(_round_up(int(last) + 1), K)
            settings.append(_measure(index, x, truth, exact_truth, kq, C))
    if progress is not None:
        progress(len(widths), len(widths) + 1, "a scan")
    settings.append(_measure(index, x, truth, exact_truth, index.query_nonzeros, "all"))
    if progress is not None:
        progress(len(widths) + 1, len(widths) + 1, "")
    settings.sort(key=lambda setting: (setting.recall < recall, setting.p50_ms))
    index.query_nonzeros, index.candidates = settings[0].query_nonzeros, settings[0].candidates
    index.tuned = (K, index.candidates)
    return settings


def _exact_ids(index: CompressedIndex, x: np.ndarray, K: int, exact: Any) -> np.ndarray:
    """Ids (q, K) of the exact best items of queries x, among those indexed."""
    table = as_embeddings(exact, "exact")
    segment = index.segments.parts[0]
    ids = segment.ids_of(np.arange(len(segment.codes)))
    if table.shape[1] != index.projection.dim or len(table) <= ids[-1]:
        raise InputError(
            f"{table.name}: {table.shape}; expected rows of {index.projection.dim} for ids up to "
            f"{ids[-1]}, the embeddings of the indexed items"
        )
    return ids[exact_search(table.subset(ids), x, K, index.similarity).ids]


def _places(index: CompressedIndex, x: np.ndarray, truth: np.ndarray, kq: int) -> np.ndarray:
    """(q, K): how many rows the lists put before each true one, or tie with it."""
    segment = index.segments.parts[0]
    assert segment.lists is not None
    n = len(segment.codes)
    places = np.full(truth.shape, n)
    for i, query in enumerate(x):
        ids, values = abs_topk(index.project(query[None]), kq, 1)
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
    index: CompressedIndex,
    x: np.ndarray,
    truth: np.ndarray,
    exact_truth: np.ndarray | None,
    kq: int,
    C: CandidateCount,
) -> Setting:
    K, times = truth.shape[1], []
    ids = index.search(x, K, candidates=C, query_nonzeros=kq).ids
    for query in x[:_TIMED]:
        started = time.perf_counter()
        index.search(query[None], K, candidates=C, query_nonzeros=kq)
        times.append(1e3 * (time.perf_counter() - started))
    exact = None if exact_truth is None else recall_at(ids, exact_truth, K)
    return Setting(kq, C, recall_at(ids, truth, K), float(np.median(times)), exact)


def _round_up(count: int) -> int:
    """Round up to two significant digits."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // unit) * unit
