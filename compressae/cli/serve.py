"""Command serve: answer searches of an index over HTTP."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compressae.cli import common, inputs
from compressae.kernels.threads import available_threads
from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.service import Limits, Service
from compressae.retrieval.store import CatalogueReader
from compressae.retrieval.store.sharded import open_catalogue

#: Seconds that running requests may take when the service is stopped.
_GRACE = 30
#: Connections, which may be idle or slow, for each request that may run.
_CONNECTIONS = 16


def _limit(name: str, default: int, what: str) -> Callable[..., Any]:
    """An option of what one client may ask for."""
    return click.option(
        name, default=default, show_default=True, type=click.IntRange(min=1), help=what
    )


@click.command(
    cls=common.Command,
    examples=(
        "serve index",
        "serve index --port 9000 --cache 100000 --rerank items.npy",
        "serve served --rerank items.parquet --rerank-id-column sku",
    ),
)
@click.argument("index", type=common.PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen at; 0 for any that is free.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Searches at a time.  [default: the processors]"
)
@click.option(
    "--cache",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Results of queries that are kept, in 256 MB at most, until there is a new version.",
)
@click.option(
    "--refresh",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.01),
    help="Seconds between two looks for a new version.",
)
@click.option(
    "--rerank",
    type=common.TABLE,
    help="The items' embeddings: the best items are reranked with these full-precision vectors.",
)
@inputs.rerank_id_column_option
@_limit("--max-results", Limits.results, "Results of a query.")
@_limit("--max-queries", Limits.queries, "Queries of one request.")
@_limit("--max-candidates", Limits.candidates, "Rows scored for a query, in each shard.")
@_limit("--max-requests", Limits.concurrent, "Requests at a time; more are refused with 503.")
@_limit("--max-bytes", Limits.body_bytes, "Bytes of one request.")
@common.column_option
def serve(
    index: Path,
    host: str,
    port: int,
    threads: int | None,
    cache: int,
    refresh: float,
    rerank: Path | None,
    rerank_id_column: str | None,
    max_results: int,
    max_queries: int,
    max_candidates: int,
    max_requests: int,
    max_bytes: int,
) -> None:
    """Answer searches of INDEX, in shards too, over HTTP, as JSON.

    POST /search takes queries, POST /similar ids; GET / says what is served, /health whether it is
    well, /metrics what was counted, in Prometheus' text form. New versions are searched as soon as
    they are there. Nothing is ever written. The service has no passwords and no encryption: beyond
    this machine it belongs behind something that has.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "serve", "serving") from None
    catalogue = open_catalogue(index, threads=1)
    table = inputs.rerank_table(rerank, rerank_id_column, catalogue)
    limits = Limits(max_bytes, max_queries, max_results, max_candidates, max_requests)
    service = Service(catalogue, threads or available_threads(), cache, refresh, table, limits)
    app = service.app()
    service.warm()
    try:
        listener = listen(host, port)
    except OSError as error:
        raise InputError(
            f"{host}:{port}: cannot be listened at ({error.strerror}); choose another --port or "
            "--host"
        ) from error
    with listener:
        at = f"[{host}]" if ":" in host else host
        click.echo(
            f"serving {index} ({_versions(catalogue)}, {len(catalogue):,} rows) at "
            f"http://{at}:{listener.getsockname()[1]}",
            err=True,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE,
            limit_concurrency=_CONNECTIONS * max_requests,
        )
        uvicorn.Server(config).run([listener])


def _versions(catalogue: CatalogueReader) -> str:
    """The version that is served, or how many shards are."""
    version = catalogue.version
    return f"version {version}" if isinstance(version, int) else f"{len(version)} shards"


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address, for connections that send what is written at once.

    Connections inherit TCP_NODELAY. asyncio sets it for sockets it has made itself only; without it
    the body of an answer waits until the client acknowledges the headers, 40 ms later.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
