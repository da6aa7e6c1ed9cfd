"""Measurement of methods on one table: results, speed, bytes, build time."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from compressae.coding.compress import check_width
from compressae.evaluation.interactions import POPULARITY, Interactions
from compressae.evaluation.methods import Builder, Method, parse, variants
from compressae.kernels.threads import available_threads
from compressae.model import CompresSAE
from compressae.retrieval.baselines import Baseline
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.exact import exact_search
from compressae.retrieval.index.exclusion import search_without
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.io.artifacts import library_version
from compressae.retrieval.io.embeddings import Embeddings, Similarity, as_embeddings
from compressae.retrieval.metrics import Labels

#: Results of every search, timed ones too.
TOP = 100
_TIMED_QUERIES = 200
#: Timing of single queries stops after this time, but not before this many.
_TIMED_SECONDS = 10.0
_LEAST_TIMED = 20


@dataclass(frozen=True)
class Record:
    """One method at one setting, as measured; ``error`` says why there are no figures.

    Attributes:
        method: name of the method.
        settings: settings that were set, and the form of the codes of compressed search.
        code_bytes: bytes of an item's code (of its row, for dense).
        bytes_an_item: bytes that search reads and that grow with n, divided by n: code, ids, links,
            posting lists.
        constant_bytes: bytes that search needs whatever n: weights, codebooks, centroids.
        trained_rows: rows that weights and codebooks were learned from; 0 where nothing is learned.
        build_seconds: from embeddings to a ready index; training of quantisers is part of it,
            training of the model is not.
        times_ms: (≤ 200,) times of single queries, encoding included.
        queries_per_second: of all queries in one call.
        hits: (q, 100) results, ids as row numbers of the table.
        exact: (q, 100) float32 exact scores of the results; −inf for padding.
    """

    method: str
    settings: dict[str, Any]
    code_bytes: float = float("nan")
    bytes_an_item: float = float("nan")
    constant_bytes: int = 0
    trained_rows: int = 0
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
        truth: the exact top 100 of each query by float32 cosine or dot product, ids as row numbers
            of the table.
        queries: (q,) names of the queries: row numbers of the table they come from.
        labels: relevant row numbers of each query, where there are labels.
        interactions: of a recommender, where they were given; ``labels`` are then their held-out
            pairs.
        group_labels: those among the items of each group of ``interactions.POPULARITY``.
    """

    about: dict[str, Any]
    truth: Hits
    queries: np.ndarray
    records: list[Record]
    labels: Labels | None = None
    interactions: Interactions | None = None
    group_labels: list[Labels] = field(default_factory=list)


def evaluate(
    items: Any,
    queries: Any,
    methods: str | Sequence[Any] = "all",
    model: CompresSAE | None = None,
    code_bytes: Sequence[int] = (64,),
    rows: np.ndarray | None = None,
    query_names: np.ndarray | None = None,
    labels: Labels | None = None,
    about: dict[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    train_rows: int | None = None,
    similarity: Similarity | None = None,
    interactions: Interactions | None = None,
    query_sample: Any = None,
    importance: Any = None,
) -> Evaluation:
    """Measure methods on one table and one set of queries, one after another.

    Args:
        items: (n, d) embeddings.
        queries: (q, d), not among the items.
        methods: ``Method``s, or what ``methods.parse`` reads. One that fails becomes a record with
            its reason.
        model: for compressed search, trained on rows that are not queries.
        code_bytes: sizes of the methods that take one and do not name any.
        rows: (n,) names of the items in the results; 0 to n − 1 when None.
        query_names: (q,) names of the queries.
        labels: grades of relevant items by name, for each query.
        about: more facts to keep in the report.
        progress: called before each method with (methods done, methods, its name).
        train_rows: learn every codebook from this many items, ``sample_rows(n, train_rows)``, and
            encode the others unseen; the model is then to be trained on the same rows. When None,
            each method trains on as many as it likes.
        similarity: "cosine" or "dot", of the truth and of every method; the model's when None, or
            "cosine" without one.
        interactions: of a recommender whose users are the queries: what they have seen is left out
            of all results, and what they take next is looked for.
        query_sample: (m, d) other queries, by whose second moment compressed search and baselines
            with ``weighted`` weight errors; the items' own when None.
        importance: (n,) of the items, for codes under a budget; equal when None.

    Raises:
        InputError: the table's width is not the model's or the queries'; a row is NaN, infinite or
            zero; methods that cannot be read; train_rows outside 1…n.

    >>> items = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    >>> result = evaluate(items[20:], items[:20], "dense, pq", code_bytes=(8,))
    >>> [(record.method, record.code_bytes) for record in result.records]
    [('dense', 64.0), ('pq', 8.0)]
    """
    items = as_embeddings(items)
    if model is not None:
        check_width(model, items)
    if train_rows is not None and not 1 <= train_rows <= len(items):
        raise InputError(
            f"{train_rows} rows to train on: expected 1 to {len(items)}, the rows that are searched"
        )
    if similarity is None:
        similarity = "cosine" if model is None else model.similarity
    parsed = parse(methods)
    items = items.compared_by(similarity)
    asked = as_embeddings(queries, "queries").compared_by(similarity)
    if interactions is not None:
        interactions.check(len(asked), len(items))
    seen = None if interactions is None else interactions.seen
    truth = exact_search(items, asked, TOP, similarity, seen)
    x = asked.to_array()
    judge = _Judge(items, x, np.arange(len(items)) if rows is None else rows, seen)
    builder = Builder(items, model, train_rows, query_sample, importance)
    records: list[Record] = []
    for done, method in enumerate(parsed):
        if progress is not None:
            progress(done, len(parsed), method.name)
        records += _measure(builder, method, code_bytes, judge)
    if progress is not None:
        progress(len(parsed), len(parsed), "")
    facts = {
        "table": items.name,
        "items": len(items),
        "dim": items.shape[1],
        "queries": len(x),
        "similarity": similarity,
        "results": TOP,
        "code_bytes": list(code_bytes),
        "train_rows": train_rows,
        "machine": machine(),
        **(about or {}),
    }
    if model is not None:
        facts["model"] = {"model_id": model.model_id, **model.projection.artifact_settings()}
    group_labels: list[Labels] = []
    if interactions is not None:
        facts |= interactions.facts()
        labels = interactions.labels(judge.rows)
        group_labels = [interactions.labels(judge.rows, g) for g in range(len(POPULARITY))]
    names = np.arange(len(x)) if query_names is None else query_names
    return Evaluation(facts, judge.named(truth), names, records, labels, interactions, group_labels)


def machine() -> dict[str, Any]:
    """Processor, number of processors that this process may use, and versions."""
    import numba
    import torch

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass  # Not Linux.
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
        **{name: _version(name) for name in ("annoy", "rabitqlib", "scann", "turbovec")},
    }


def _version(name: str) -> str:
    """Version of a library that not every machine has."""
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
        choices = list(variants(method, code_bytes))
    except Exception as error:
        return [_failed(method.name, dict(method.settings), error)]
    records: list[Record] = []
    measured: dict[Any, list[Record]] = {}
    for settings, searches in choices:
        try:
            key = builder.key(method.name, settings)
            if key in measured:  # Another size that ends in the same index.
                records += [
                    replace(record, settings={**record.settings, **settings})
                    for record in measured[key]
                ]
                continue
            searcher, seconds = builder.build(method.name, settings)
        except Exception as error:
            records.append(_failed(method.name, settings, error))
            continue
        measured[key] = []
        for search in searches:
            shown = {**settings, **getattr(searcher, "form", {}), **search}
            try:
                for name, value in search.items():
                    setattr(searcher, name, value)
                record = _measured(method.name, shown, searcher, seconds, judge)
            except Exception as error:
                record = _failed(method.name, shown, error)
            measured[key].append(record)
        records += measured[key]
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
        trained_rows=int(searcher.trained_rows),
        build_seconds=seconds,
        **judge(searcher),
    )


def _failed(name: str, settings: dict[str, Any], error: Exception) -> Record:
    return Record(name, settings, error=" ".join(str(error).split()) or type(error).__name__)


@dataclass(frozen=True, eq=False)
class _Judge:
    """Runs all queries on a searcher.

    Attributes:
        items: (n, d), read as rows to compare.
        queries: (q, d) rows to compare.
        rows: (n,) names of the items.
        seen: (q, n) rows that each query leaves out; None for none.
    """

    items: Embeddings
    queries: np.ndarray
    rows: np.ndarray
    seen: Any = None

    def __call__(self, searcher: Baseline) -> dict[str, Any]:
        """Times and results, as fields of a Record."""

        def search(x: np.ndarray, seen: Any) -> Hits:
            if seen is None:
                return searcher.search(x, TOP)
            if getattr(searcher, "excludes", False):
                return searcher.search(x, TOP, exclude=seen)  # type: ignore[call-arg]
            return search_without(searcher, x, TOP, seen)

        count = min(_TIMED_QUERIES, len(self.queries))
        alone = [
            (self.queries[i : i + 1], None if self.seen is None else self.seen[[i]])
            for i in range(count)
        ]
        for one in alone[:3]:  # Compile and warm up.
            search(*one)
        times: list[float] = []
        for one in alone:
            if len(times) >= _LEAST_TIMED and sum(times) > 1e3 * _TIMED_SECONDS:
                break
            started = time.perf_counter()
            search(*one)
            times.append(1e3 * (time.perf_counter() - started))
        started = time.perf_counter()
        hits = search(self.queries, self.seen)
        seconds = time.perf_counter() - started
        return {
            "times_ms": np.array(times),
            "queries_per_second": len(self.queries) / seconds,
            "hits": self.named(hits),
            "exact": self._exact_scores(hits.ids),
        }

    def named(self, hits: Hits) -> Hits:
        """The same hits with items by name."""
        return Hits(np.where(hits.ids < 0, -1, self.rows[hits.ids]), hits.scores)

    def _exact_scores(self, ids: np.ndarray) -> np.ndarray:
        """Exact scores (q, K) float32 of results; −inf for padding."""
        exact = np.full(ids.shape, -np.inf, np.float32)
        for i, (query, row) in enumerate(zip(self.queries, ids, strict=True)):
            present = row >= 0
            if present.any():
                exact[i, present] = self.items.take(row[present]) @ query
        return exact
