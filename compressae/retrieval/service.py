"""HTTP service: searches of a catalogue, or of shards as one, by many clients. It never writes.

    POST /search    {"queries": [[0.1, …], …], "k": 10, "where": "price < 30", "exclude": [[7], …]}
    POST /similar   {"ids": ["a", …], "k": 10, …}           rows like those of the ids
    GET  /          what is served
    GET  /health    200 while searches are answered
    GET  /metrics   counters in Prometheus' text form

Queries of a catalogue without a model are sparse: {"latents": [3, 17], "values": [0.5, 1]}. Options
of both searches: k, where, allowed (ids), exclude (ids to leave out, a list a query), candidates
(in each shard), query_nonzeros, metadata (true for the columns of each hit).

An answer is {"version": 3, "hits": [[{"id": 7, "score": 0.9}, …], …]}. Of shards the version is a
list, such as [3, 1, 1], a number a shard in the order of their names: each only grows, and answers
of equal lists are of the same rows. An error is {"error": "one line"} with status 400 (a request
that cannot be), 404 (no such id), 408 (too slow), 413 (too long) or 503 (too many at once, or the
embeddings to rerank with cannot be read; then /health says so, with 503 too). Numbers that are not
finite become null, dates and what else JSON lacks texts; ids are whole numbers of 64 bits, of which
JavaScript keeps 53.
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from compressae.retrieval.errors import InputError, MissingExtraError, RerankError, UnknownIdError
from compressae.retrieval.io.schema import Positive, as_type
from compressae.retrieval.store import CachedSearch, CatalogueReader, RerankTable
from compressae.retrieval.store.counters import BUCKETS
from compressae.retrieval.store.names import encoded

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

#: Seconds in which the body of a request must be there.
_SLOWEST = 10
#: Pause before the next look for a new version, as a multiple of the time that the last one took.
_REST = 9


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Attributes:
        body_bytes: of a request.
        queries: of a request.
        results: a query.
        candidates: rows scored a query, in each shard.
        concurrent: requests at a time; more are refused.
    """

    body_bytes: int = 1 << 20
    queries: int = 64
    results: int = 1000
    candidates: int = 100_000
    concurrent: int = 64


@dataclass(frozen=True)
class _Options:
    """Options of both searches."""

    k: Positive = 10
    where: str | None = None
    allowed: list[int | str] | None = None
    exclude: list[list[int | str]] | None = None
    candidates: Positive | Literal["all"] | None = None
    query_nonzeros: Positive | None = None
    metadata: bool = False


@dataclass(frozen=True, kw_only=True)
class _Search(_Options):
    queries: list[Any]


@dataclass(frozen=True, kw_only=True)
class _Similar(_Options):
    ids: list[int | str]


class _Refused(Exception):
    """A request that is refused with a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """Answers requests over a catalogue or shards, which it follows to each new version.

    Args:
        catalogue: to search, a ``Catalogue`` or ``ShardedCatalogue``; opened with ``threads=1``,
            since requests run side by side.
        threads: searches that run at a time.
        entries: results that are kept; see ``CachedSearch``.
        refresh: seconds between two looks for a newer version.
        rerank: embeddings that each search is reranked with; (table, ids) or a ``RerankTable``
            where its row numbers are not the ids. A new version is searched once these have a row
            for each of its own; until then the older one is.
        limits: of requests.

    Attributes:
        cached: what searches and counts.
        responses: how many of each status.

    >>> import tempfile
    >>> from compressae.retrieval import Catalogue
    >>> rows = sparse.csr_array(np.eye(3, dtype=np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     service = Service(Catalogue.create(f"{folder}/lists", None, rows), threads=1)
    ...     service.search(b'{"queries": [{"latents": [2], "values": [1]}], "k": 1}')
    {'version': 1, 'hits': [[{'id': 2, 'score': 1.0}]]}
    """

    def __init__(
        self,
        catalogue: CatalogueReader,
        threads: int,
        entries: int = 0,
        refresh: float = 1.0,
        rerank: Any = None,
        limits: Limits | None = None,
    ) -> None:
        self.cached = CachedSearch(catalogue.pin(), entries)
        self.responses: Counter[int] = Counter()
        self._threads, self._refresh = threads, refresh
        self._rerank = RerankTable(*rerank) if isinstance(rerank, tuple) else rerank
        self._limits = limits or Limits()
        self._running = 0
        self._stale: str | None = None
        self._failing: str | None = None

    def warm(self) -> None:
        """Search once, so that kernels are compiled and the first client need not wait.

        Raises:
            InputError: the table to rerank from does not go with the catalogue.
        """
        self._try(self.cached.catalogue)

    def advance(self) -> None:
        """Move to the newest version; ``health`` names one that cannot be searched."""
        newest, stale = self.cached.catalogue.pin(), None
        try:
            newest.refresh()
        except InputError as error:
            stale = str(error)
        try:
            if newest.version != self.cached.catalogue.version:
                if self._rerank is not None:  # The first client need not wait for its rows.
                    self._try(newest)
                self.cached.catalogue = newest
        except InputError as error:
            stale = str(error)
        self._stale = stale

    def _try(self, catalogue: CatalogueReader) -> None:
        """Search a catalogue once; see ``warm``."""
        projection, options = catalogue.projection, {}
        if self._rerank is not None:
            options["rerank"] = self._rerank
        query = sparse.csr_array(np.ones((1, catalogue.like.shape[1]), np.float32))
        if projection is not None:
            query = np.random.default_rng(0).standard_normal((1, projection.dim), np.float32)
        elif options:
            raise InputError("rerank: the catalogue has no model; its searches are exact")
        catalogue.search(query, 1, **options)

    # Answers, in plain Python.

    def search(self, body: bytes) -> dict[str, Any]:
        """Answer a body of POST /search.

        Raises:
            InputError: it cannot be answered.
        """
        request = self._parsed(body, _Search)
        self._check(len(request.queries), request)
        return self._answer(self._queries(request.queries), len(request.queries), request)

    def similar(self, body: bytes) -> dict[str, Any]:
        """Answer a body of POST /similar: rows like those of ids, without themselves.

        Raises:
            InputError: it cannot be answered.
        """
        request = self._parsed(body, _Similar)
        count = len(request.ids)
        self._check(count, request)
        ids = self._typed(request.ids, "ids")
        catalogue = self.cached.catalogue
        distinct, places = np.unique(ids, return_inverse=True)
        try:
            rows = catalogue.as_queries(distinct)
        except UnknownIdError as error:
            raise _Refused(404, str(error)) from error
        own = [[one] for one in ids.tolist()]
        if request.exclude is not None and len(request.exclude) == count:
            own = [[*one, *others] for one, others in zip(own, request.exclude, strict=True)]
        return self._answer(rows[places], count, request, own)

    def described(self) -> dict[str, Any]:
        """What is served."""
        catalogue = self.cached.catalogue.pin()
        projection = catalogue.projection
        return {
            "version": catalogue.version,
            "rows": len(catalogue),
            "ids": "texts" if catalogue.has_text_ids else "integers",
            "queries": "sparse" if projection is None else "dense",
            "width": catalogue.like.shape[1] if projection is None else projection.dim,
            "similarity": catalogue.similarity,
            "metadata": catalogue.columns,
        }

    def health(self) -> dict[str, Any]:
        """State, version and rows; an error if searches cannot be reranked, or there is a newer
        version that cannot be opened."""
        catalogue = self.cached.catalogue.pin()
        state = {"status": "ok", "version": catalogue.version, "rows": len(catalogue)}
        if self._failing is not None:
            return state | {"status": "failing", "error": self._failing}
        return state if self._stale is None else state | {"status": "stale", "error": self._stale}

    def _answer(
        self, queries: Any, count: int, request: _Options, own: list[list[Any]] | None = None
    ) -> dict[str, Any]:
        """Search, and put the hits into words."""
        options: dict[str, Any] = {}
        for name in ("where", "candidates", "query_nonzeros"):
            if getattr(request, name) is not None:
                options[name] = getattr(request, name)
        if request.allowed is not None:
            options["allowed"] = self._typed(request.allowed, "allowed")
        exclude = request.exclude
        if exclude is not None:
            if len(exclude) != count:
                raise InputError(f"exclude: {len(exclude)} lists; expected one a query: {count}")
            for some in exclude:
                self._typed(some, "exclude")
        if own is not None or exclude is not None:
            options["exclude"] = own or exclude
        if self._rerank is not None:
            options["rerank"] = self._rerank
        if self.cached.catalogue.projection is None:
            for name in ("candidates", "query_nonzeros"):
                if name in options:
                    raise InputError(f"{name}: the catalogue has no model; its searches are exact")
        hits, catalogue = self.cached.answer(queries, request.k, **options)
        found: list[list[dict[str, Any]]] = [
            [
                {"id": id, "score": _finite(score)}
                for id, score in zip(ids, scores, strict=True)
                if score > -np.inf
            ]
            for ids, scores in zip(hits.ids.tolist(), hits.scores.tolist(), strict=True)
        ]
        if request.metadata:
            all_hits = [hit for hits_of_query in found for hit in hits_of_query]
            distinct = list(dict.fromkeys(hit["id"] for hit in all_hits))
            rows = _plain(catalogue.metadata(distinct)) if distinct else []
            columns = dict(zip(distinct, rows, strict=True))
            for hit in all_hits:
                hit["metadata"] = columns[hit["id"]]
        return {"version": catalogue.version, "hits": found}

    def _parsed(self, body: bytes, kind: type[Any]) -> Any:
        """A body as a request."""
        try:
            return as_type(json.loads(body, parse_constant=_refuse), kind)
        except (ValueError, RecursionError) as error:
            known = ", ".join(field.name for field in fields(kind))
            raise InputError(f"request: {error}; expected a JSON object of {known}") from error

    def _check(self, count: int, request: _Options) -> None:
        """Refuse too many queries or results."""
        limits = self._limits
        if not 1 <= count <= limits.queries:
            raise InputError(f"{count} queries; expected 1 to {limits.queries}")
        if request.k > limits.results:
            raise InputError(f"k = {request.k}; expected at most {limits.results}")
        candidates = request.candidates
        if candidates == "all":
            candidates = len(self.cached.catalogue)
        if candidates is not None and candidates > limits.candidates:
            raise InputError(f"{candidates} candidates; expected at most {limits.candidates}")

    def _queries(self, queries: list[Any]) -> Any:
        """Queries of a body: (q, d) float32, or CSR (q, h)."""
        if self.cached.catalogue.projection is not None:
            is_even = all(_are_numbers(query) for query in queries)
            if not is_even or len(set(map(len, queries))) != 1:
                raise InputError("queries: expected lists of as many numbers each")
            return _float32(queries)
        latents, values, counts = [], [], []
        width = self.cached.catalogue.like.shape[1]
        for query in queries:
            if not isinstance(query, dict) or set(query) != {"latents", "values"}:
                raise InputError('queries: expected {"latents": [...], "values": [...]} for each')
            ids, numbers = query["latents"], query["values"]
            is_whole = _are_numbers(ids) and set(map(type, ids)) <= {int}
            if not is_whole or not _are_numbers(numbers) or len(ids) != len(numbers):
                raise InputError("queries: expected as many values, numbers, as latents, integers")
            if len(set(ids)) < len(ids) or not all(0 <= latent < width for latent in ids):
                raise InputError(f"queries: latents must be distinct, from 0 to {width - 1}")
            latents.append(np.array(ids, np.int64))
            values.append(_float32(numbers))
            counts.append(len(ids))
        indptr = np.cumsum([0, *counts])
        return sparse.csr_array(
            (np.concatenate(values), np.concatenate(latents), indptr), (len(queries), width)
        )

    def _typed(self, ids: list[int | str], name: str) -> np.ndarray:
        """Ids of the catalogue's kind."""
        kind = str if self.cached.catalogue.has_text_ids else int
        wrong = next((one for one in ids if type(one) is not kind), None)
        if wrong is not None:
            kinds = "texts" if kind is str else "integers"
            raise InputError(f"{name}: {str(wrong)[:50]!r}; the catalogue's ids are {kinds}")
        if kind is str:
            encoded(ids)  # Refuses what is no id.
            return np.array(ids)
        try:
            return np.array(ids, np.int64)
        except OverflowError:
            raise InputError(f"{name}: a number too large for an id") from None

    # The application.

    def app(self) -> "Starlette":
        """The service as an ASGI application.

        Raises:
            MissingExtraError: the libraries are not installed.
        """
        try:
            import anyio
            import prometheus_client
            from starlette.applications import Starlette
            from starlette.exceptions import HTTPException
            from starlette.requests import ClientDisconnect
            from starlette.responses import PlainTextResponse
            from starlette.routing import Route
        except ImportError as error:
            raise MissingExtraError(str(error.name), "serve", "serving") from None

        limiter: anyio.CapacityLimiter | None = None

        def answered(status: int, text: str) -> "Response":
            self.responses[status] += 1
            headers = {"retry-after": "1"} if status == 503 else None
            return PlainTextResponse(text, status, headers, "application/json")

        def refused(status: int, reason: str) -> "Response":
            return answered(status, _text({"error": reason}))

        def post(answer: Callable[[bytes], dict[str, Any]]) -> Any:
            async def endpoint(request: "Request") -> "Response":
                try:
                    body = await self._body(request)
                    if self._running >= self._limits.concurrent:
                        return refused(503, "too many requests at once; try again")
                    self._running += 1
                    try:
                        text = await anyio.to_thread.run_sync(
                            lambda: _text(answer(body)), limiter=limiter
                        )
                    finally:
                        self._running -= 1
                    return answered(200, text)
                except RerankError as error:
                    self._failing = str(error)
                    return refused(503, self._failing)
                except InputError as error:
                    return refused(400, str(error))
                except _Refused as error:
                    return refused(error.status, str(error))
                except ClientDisconnect:
                    return refused(400, "the client went away")

            return endpoint

        async def described(request: "Request") -> "Response":
            return answered(200, _text(self.described()))

        async def health(request: "Request") -> "Response":
            state = self.health()
            return answered(503 if state["status"] == "failing" else 200, _text(state))

        async def metrics(request: "Request") -> "Response":
            registry = prometheus_client.CollectorRegistry()
            registry.register(_Collector(self))
            text = prometheus_client.generate_latest(registry)
            return PlainTextResponse(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

        async def elsewhere(request: "Request", error: Any) -> "Response":
            return refused(
                error.status_code, f"{request.method} {request.url.path}: {error.detail}"
            )

        async def failed(request: "Request", error: Exception) -> "Response":
            return refused(500, "an error of the server; its log says more")

        @asynccontextmanager
        async def lifespan(app: "Starlette") -> AsyncIterator[None]:
            nonlocal limiter
            limiter = anyio.CapacityLimiter(self._threads)
            task = asyncio.create_task(self._follow())
            yield
            task.cancel()

        routes = [
            Route("/", described),
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/search", post(self.search), methods=["POST"]),
            Route("/similar", post(self.similar), methods=["POST"]),
        ]
        return Starlette(
            routes=routes,
            lifespan=lifespan,
            exception_handlers={HTTPException: elsewhere, Exception: failed},
        )

    async def _body(self, request: "Request") -> bytes:
        """The body of a request, as far as it may be long, and slow."""
        parts, length = [], 0
        try:
            async with asyncio.timeout(_SLOWEST):
                async for part in request.stream():
                    length += len(part)
                    if length > self._limits.body_bytes:
                        raise _Refused(413, f"more than {self._limits.body_bytes} bytes")
                    parts.append(part)
        except TimeoutError:
            raise _Refused(408, f"no whole request after {_SLOWEST} seconds") from None
        return b"".join(parts)

    async def _follow(self) -> None:
        """Move to each new version.

        After a search that could not be reranked, look whether one can be again.
        """
        pause = self._refresh
        while True:
            await asyncio.sleep(pause)
            started = time.perf_counter()
            try:
                await asyncio.to_thread(self.advance)
            except Exception as error:  # Told by /health; the next look may fare better.
                self._stale = f"{type(error).__name__}: {error}"
            if self._failing is not None:
                try:
                    await asyncio.to_thread(self.warm)
                    self._failing = None
                except Exception as error:
                    self._failing = str(error) or type(error).__name__
            pause = max(self._refresh, _REST * (time.perf_counter() - started))


class _Collector:
    """Counters of a service, as Prometheus collects them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        service, counters = self._service, self._service.cached.counters
        catalogue = service.cached.catalogue.pin()
        for name, text, value in (
            ("queries", "Queries searched or answered from the cache.", counters.queries),
            ("cache_hits", "Queries answered from the cache.", counters.hits),
            ("cache_misses", "Queries searched.", counters.misses),
            ("rows_scored", "Rows whose codes were scored.", counters.rows_scored),
        ):
            yield CounterMetricFamily(f"compressae_{name}", text, value)
        responses = CounterMetricFamily(
            "compressae_responses", "Responses by status.", labels=["status"]
        )
        for status, count in sorted(service.responses.items()):
            responses.add_metric([str(status)], count)
        yield responses
        for name, text, gauge in (
            ("version", "Version of the catalogue; the sum of shards'.", np.sum(catalogue.version)),
            ("rows", "Rows of the catalogue.", len(catalogue)),
            ("cached_results", "Results in the cache.", len(service.cached)),
            ("stale", "1 if a newer version cannot be opened.", int(service._stale is not None)),
        ):
            yield GaugeMetricFamily(f"compressae_{name}", text, gauge)
        below = np.cumsum(counters.latencies).tolist()
        bounds = [*map(str, BUCKETS), "+Inf"]
        yield HistogramMetricFamily(
            "compressae_search_seconds",
            "Time of a search call.",
            list(zip(bounds, below, strict=True)),
            counters.seconds,
        )


def _are_numbers(values: Any) -> bool:
    """Whether JSON is a list of numbers. An array of other things may take any memory."""
    return isinstance(values, list) and set(map(type, values)) <= {int, float}


def _float32(numbers: list[Any]) -> np.ndarray:
    """Numbers, or lists of as many each, as float32; the search refuses what becomes infinite.

    Raises:
        InputError: an integer that no float holds.
    """
    try:
        array = np.array(numbers, np.float64)
    except OverflowError:
        raise InputError("queries: a number too large") from None
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _text(content: dict[str, Any]) -> str:
    """JSON of an answer."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _plain(table: Any) -> list[dict[str, Any]]:
    """Rows of a pyarrow table as JSON may hold them."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            values = column.to_pylist()
        except (ValueError, OverflowError):  # Times finer or later than Python's.
            values = column.cast("string").to_pylist()
        columns[name] = [_finite(value) for value in values]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _finite(value: Any) -> Any:
    """A value as JSON may hold it: null for a number that is not finite, texts for other types."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return value.hex() if isinstance(value, bytes) else str(value)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
