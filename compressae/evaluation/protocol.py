"""What is measured of each method: what it finds and how fast, what it holds, how long it took."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from compressae.compress import check_width
from compressae.evaluation.methods import Builder, Method, parse, variants
from compressae.kernels.threads import available_threads
from compressae.model import CompresSAE
from compressae.retrieval.baselines import Baseline
from compressae.retrieval.embeddings import Embeddings, as_embeddings, unit_rows
from compressae.retrieval.exact import exact_search
from compressae.retrieval.metrics import Labels
from compressae.retrieval.searcher import Hits
from compressae.retrieval.storage import library_version

#: Results of every search, timed ones too.
TOP = 100
_TIMED_QUERIES = 200
#: Single queries are timed for so long at most, and at least so many of them.
_TIMED_SECONDS = 10.0
_LEAST_TIMED = 20


@dataclass(frozen=True)
class Record:
    """One method with one setting, as measured; ``error`` says why there are no figures.

    Attributes:
        method: its name.
        settings: those that were set, and the form of the codes of compressed search.
        code_bytes: bytes of an item's code (of its row, for dense).
        bytes_an_item: all that search reads and that grows with n, divided by n: code, ids, links,
            posting lists.
        constant_bytes: what search needs whatever n: weights, codebooks, centroids.
        build_seconds: from embeddings to a ready index; training of quantisers is part of it,
            training of the model is not.
        times_ms: (≤ 200,) of single queries, encoding included.
        queries_per_second: all queries in one call.
        hits: what was found, ids as row numbers of the table: (q, 100).
        exact: (q, 100) float32 cosines of what was found; −inf for padding.
    """

    method: str
    settings: dict[str, Any]
    code_bytes: float = float("nan")
    bytes_an_item: float = float("nan")
    constant_bytes: int = 0
    build_seconds: float = float("nan")
    times_ms: np.ndarray = field(default_factory=lambda: np.empty(0))
    queries_per_second: float = float("nan")
    hits: Hits = field(default_factory=lambda: Hits.empty(0, TOP))
    exact: np.ndarray = field(default_factory=lambda: np.empty((0, TOP), np.float32))
    error: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """The records of a run and what they were measured on.

    Attributes:
        about: the table, the model, the machine.
        truth: the exact top 100 of each query by float32 cosine, ids as row numbers of the table.
        queries: (q,) what each query is called: row numbers of the table they come from.
        labels: relevant row numbers of each query, if there are.
    """

    about: dict[str, Any]
    truth: Hits
    queries: np.ndarray
    records: list[Record]
    labels: Labels | None = None


def evaluate(
    items: Any,
    queries: np.ndarray,
    methods: str | Sequence[Any] = "all",
    model: CompresSAE | None = None,
    code_bytes: Sequence[int] = (64,),
    rows: np.ndarray | None = None,
    query_names: np.ndarray | None = None,
    labels: Labels | None = None,
    about: dict[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Measure methods on one table and one set of queries, one after another.

    Args:
        items: (n, d) embeddings.
        queries: (q, d), not among the items.
        methods: ``Method``s, or what ``methods.parse`` reads. One that fails becomes a record with
            its reason.
        model: for the scorings of compressed search, trained on rows that are not queries.
        code_bytes: sizes of the methods that take one and were not told.
        rows: (n,) what the items are called in the results; 0 to n − 1 when None.
        query_names: (q,) the same of queries.
        labels: of each query, grades of relevant items by what they are called.
        about: more facts to keep in the report.
        progress: called before each method with (methods done, methods, its name).

    Raises:
        InputError: the table's width is not the model's or the queries'; a row is NaN, infinite or
            zero; methods that cannot be read.
    """
    items = as_embeddings(items)
    if model is not None:
        check_width(model, items)
    asked = parse(methods)
    truth = exact_search(items, queries, TOP)
    queries = as_embeddings(queries, "queries").to_array()
    judge = _Judge(items, unit_rows(queries), np.arange(len(items)) if rows is None else rows)
    builder = Builder(items, model)
    records: list[Record] = []
    for done, method in enumerate(asked):
        if progress is not None:
            progress(done, len(asked), method.name)
        records += _measure(builder, method, code_bytes, judge)
    if progress is not None:
        progress(len(asked), len(asked), "")
    facts = {
        "table": items.name,
        "items": len(items),
        "dim": items.shape[1],
        "queries": len(queries),
        "results": TOP,
        "code_bytes": list(code_bytes),
        "machine": machine(),
        **(about or {}),
    }
    if model is not None:
        facts["model"] = {"model_id": model.model_id, **model.artifact_settings()}
    names = np.arange(len(queries)) if query_names is None else query_names
    return Evaluation(facts, judge.named(truth), names, records, labels)


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
        "triton": _version("triton"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "numba": numba.__version__,
        "numpy": np.__version__,
        "faiss": _version("faiss"),
        "annoy": _version("annoy"),
    }


def _version(name: str) -> str:
    """Of a library that not every machine has."""
    for package in (name, f"{name}-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "not installed"


def _measure(
    builder: Builder, method: Method, code_bytes: Sequence[int], judge: "_Judge"
) -> list[Record]:
    """A record for each variant of a method, with the reason where it fails.

    Whatever a library raises is a reason: the other methods are measured all the same.
    """
    try:
        found = list(variants(method, code_bytes))
    except Exception as error:
        return [_failed(method.name, dict(method.settings), error)]
    records = []
    for settings, searches in found:
        try:
            searcher, seconds = builder.build(method.name, settings)
        except Exception as error:
            records.append(_failed(method.name, settings, error))
            continue
        for chosen in searches:
            shown = {**settings, **getattr(searcher, "form", {}), **chosen}
            try:
                for name, value in chosen.items():
                    setattr(searcher, name, value)
                records.append(_measured(method.name, shown, searcher, seconds, judge))
            except Exception as error:
                records.append(_failed(method.name, shown, error))
        del searcher  # Before the next is built.
    return records


def _measured(
    name: str, settings: dict[str, Any], searcher: Baseline, seconds: float, judge: "_Judge"
) -> Record:
    n = len(searcher)
    return Record(
        name,
        settings,
        code_bytes=searcher.code_nbytes / n,
        bytes_an_item=searcher.nbytes / n,
        constant_bytes=int(searcher.constant_nbytes),
        build_seconds=seconds,
        **judge(searcher.search),
    )


def _failed(name: str, settings: dict[str, Any], error: Exception) -> Record:
    return Record(name, settings, error=" ".join(str(error).split()) or type(error).__name__)


@dataclass(frozen=True, eq=False)
class _Judge:
    """Asks a searcher all queries.

    Attributes:
        items: (n, d).
        queries: (q, d) unit rows.
        rows: (n,) what items are called.
    """

    items: Embeddings
    queries: np.ndarray
    rows: np.ndarray

    def __call__(self, search: Callable[[np.ndarray, int], Hits]) -> dict[str, Any]:
        """Times and finds, as fields of a Record."""
        for query in self.queries[:3]:  # Compile and warm up.
            search(query[None], TOP)
        times: list[float] = []
        for query in self.queries[:_TIMED_QUERIES]:
            if len(times) >= _LEAST_TIMED and sum(times) > 1e3 * _TIMED_SECONDS:
                break
            started = time.perf_counter()
            search(query[None], TOP)
            times.append(1e3 * (time.perf_counter() - started))
        started = time.perf_counter()
        hits = search(self.queries, TOP)
        seconds = time.perf_counter() - started
        return {
            "times_ms": np.array(times),
            "queries_per_second": len(self.queries) / seconds,
            "hits": self.named(hits),
            "exact": self._cosines(hits.ids),
        }

    def named(self, hits: Hits) -> Hits:
        """The same with items as they are called."""
        return Hits(np.where(hits.ids < 0, -1, self.rows[hits.ids]), hits.scores)

    def _cosines(self, ids: np.ndarray) -> np.ndarray:
        """Exact cosines (q, K) float32 of what was found; −inf for padding."""
        exact = np.full(ids.shape, -np.inf, np.float32)
        for i, (query, found) in enumerate(zip(self.queries, ids, strict=True)):
            kept = found >= 0
            if kept.any():
                exact[i, kept] = unit_rows(self.items.take(found[kept])) @ query
        return exact
