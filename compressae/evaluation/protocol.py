"""What is measured of each method: recall against exact dense search, bytes and time."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from compressae.compress import check_width
from compressae.kernels.threads import available_threads
from compressae.model import CompresSAE
from compressae.retrieval.embeddings import Embeddings
from compressae.retrieval.exact import ExactIndex, exact_search
from compressae.retrieval.metrics import recall_per_query
from compressae.retrieval.searcher import Hits
from compressae.retrieval.storage import library_version
from compressae.search import CompressedIndex, Scoring

#: The methods and what they are, for the table's legend.
METHODS = {
    "dense": "exact cosine over float32 rows",
    "sparse": "cos(s_x, s_y) by posting lists, the query coded with k nonzeros as the items are",
    "sparse-wide": "the same with 8k nonzeros in the query, which is not stored",
    "reconstructed": "x̂·ŷ, in two stages",
    "asymmetric": "x·ŷ, in two stages",
    "asymmetric-all": "x·ŷ of every item, by a scan of the codes",
}
TOP = 100
_TIMED_QUERIES = 200


@dataclass(frozen=True)
class Record:
    """One method as measured; ``error`` says why there are no figures.

    Attributes:
        code_bytes: bytes of an item's code (of its row, for dense).
        bytes_an_item: all that search reads and that grows with n, divided by n.
        constant_bytes: weights that search needs, whatever n.
        build_seconds: from embeddings to a ready index, training not included.
        p50_ms, p99_ms: of single queries, encoding included.
        queries_per_second: all queries in one call.
        recall10, recall100: of each query.
        found: ids (q, 100).
    """

    method: str
    settings: dict[str, Any]
    code_bytes: float = float("nan")
    bytes_an_item: float = float("nan")
    constant_bytes: int = 0
    build_seconds: float = float("nan")
    p50_ms: float = float("nan")
    p99_ms: float = float("nan")
    queries_per_second: float = float("nan")
    recall10: list[float] = field(default_factory=list)
    recall100: list[float] = field(default_factory=list)
    found: list[list[int]] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """The records of a run and what they were measured on."""

    about: dict[str, Any]
    records: list[Record]


def evaluate(
    model: CompresSAE,
    corpus: Embeddings,
    queries: np.ndarray,
    methods: Sequence[str] = tuple(METHODS),
    codes: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Measure methods on one corpus and one set of queries, one after another.

    Args:
        model: trained on rows that are not among the queries.
        corpus: (n, d) items.
        queries: (q, d).
        methods: names from ``METHODS``. One that fails becomes a record with its reason.
        codes: arguments of ``model.compress``: values, nonzeros, residual_bytes, budget …
        about: more facts to keep in the report.
        progress: called before each method with (methods done, methods, its name).

    Raises:
        InputError: the table's width is not the model's; a row is NaN, infinite or zero.
    """
    check_width(model, corpus)
    truth = exact_search(corpus, queries, TOP).ids
    built: list[tuple[CompressedIndex, float]] = []
    records = []
    for done, method in enumerate(methods):
        if progress is not None:
            progress(done, len(methods), method)
        try:
            if method == "dense":
                records.append(_measure_dense(corpus, queries, truth))
                continue
            if not built:
                started = time.perf_counter()
                index = CompressedIndex(model, model.compress(corpus, **(codes or {})))
                built.append((index, time.perf_counter() - started))
            records.append(_measure_compressed(method, *built[0], queries, truth))
        except (ValueError, MemoryError, RuntimeError, OSError) as error:
            records.append(Record(method, {}, error=str(error) or type(error).__name__))
    if progress is not None:
        progress(len(methods), len(methods), "")
    facts = {
        "table": corpus.name,
        "items": len(corpus),
        "dim": corpus.shape[1],
        "queries": len(queries),
        "values": (codes or {}).get("values") or "int2",
        "residual_bytes": (codes or {}).get("residual_bytes", 0),
        "model": {"model_id": model.model_id, **model.artifact_settings()},
        "machine": machine(),
        **(about or {}),
    }
    return Evaluation(facts, records)


def machine() -> dict[str, Any]:
    """Processor, how many of them this process may use, and versions."""
    import numba
    import torch

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass  # Not Linux: the short name will do.
    return {
        "processor": name,
        "processors": available_threads(),
        "python": platform.python_version(),
        "compressae": library_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "numpy": np.__version__,
    }


def _measure_dense(corpus: Embeddings, queries: np.ndarray, truth: np.ndarray) -> Record:
    started = time.perf_counter()
    index = ExactIndex(corpus)
    seconds = time.perf_counter() - started
    row = index.nbytes / len(index)
    return Record(
        "dense",
        {},
        code_bytes=row,
        bytes_an_item=row,
        build_seconds=seconds,
        **_answers(index.search, queries, truth),
    )


def _measure_compressed(
    method: str, index: CompressedIndex, seconds: float, queries: np.ndarray, truth: np.ndarray
) -> Record:
    model, codes = index.model, index.codes
    scoring: Scoring = method.split("-")[0]  # type: ignore[assignment]
    wide = method == "sparse-wide"
    width = min(8 * model.nonzeros, model.latents) if wide else None
    candidates: Literal["all"] | None = "all" if method == "asymmetric-all" else None

    def search(x: np.ndarray, K: int) -> Hits:
        return index.search(x, K, scoring, candidates, width)

    held = codes.nbytes if method == "asymmetric-all" else index.nbytes_for(scoring)
    return Record(
        method,
        {"scoring": scoring, "query_nonzeros": width, "candidates": candidates},
        code_bytes=codes.nbytes / len(codes),
        bytes_an_item=held / len(codes),
        constant_bytes=index.constant_nbytes_for(scoring),
        build_seconds=seconds,
        **_answers(search, queries, truth),
    )


def _answers(
    search: Callable[[np.ndarray, int], Hits], queries: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """Times and recalls of one searcher, as fields of a Record."""
    for query in queries[:3]:  # Compile and warm up.
        search(query[None], TOP)
    times = []
    for query in queries[:_TIMED_QUERIES]:
        started = time.perf_counter()
        search(query[None], TOP)
        times.append(1e3 * (time.perf_counter() - started))
    started = time.perf_counter()
    hits = search(queries, TOP)
    seconds = time.perf_counter() - started
    return {
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "queries_per_second": len(queries) / seconds,
        "recall10": recall_per_query(hits.ids, truth, 10).tolist(),
        "recall100": recall_per_query(hits.ids, truth, TOP).tolist(),
        "found": hits.ids.tolist(),
    }
