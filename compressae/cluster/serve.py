"""The HTTP service as an application of Ray Serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressae.cluster.ray import absolute
from compressae.retrieval.errors import MissingExtraError
from compressae.retrieval.service import Limits, Service
from compressae.retrieval.store.sharded import open_catalogue

if TYPE_CHECKING:
    from starlette.applications import Starlette


def application(
    folder: str | Path,
    *,
    replicas: int = 1,
    threads: int = 1,
    entries: int = 0,
    refresh: float = 1.0,
    rerank: Any = None,
    limits: Limits | None = None,
) -> Any:
    """Make an application of Ray Serve that answers as ``compressae serve`` does.

    Each replica opens the catalogue, whose files it maps, and follows it to new versions by itself.
    ``/health`` and ``/metrics`` are those of the replica that answers.

    Args:
        folder: a catalogue, or catalogues of shards, under the same path on each node.
        replicas: processes that answer.
        threads: searches that one runs at a time, and processors that it takes.
        entries: results that one keeps; see ``CachedSearch``.
        refresh: seconds between two looks for a newer version.
        rerank: see ``Service``; embeddings in files are under the same path on each node.
        limits: of requests to a replica; more at once wait for Ray Serve to pass them on.

    Returns:
        The application, for ``ray.serve.run`` and the command ``serve run``.

    Raises:
        InputError: no whole catalogue.
        MissingExtraError: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError(str(error.name), "ray", "Ray Serve") from None
    path, bounds, table = Path(folder).absolute(), limits or Limits(), absolute(rerank)
    open_catalogue(path, threads=1)  # Refused here, and not by each replica.

    def build() -> "Starlette":
        service = Service(open_catalogue(path, threads=1), threads, entries, refresh, table, bounds)
        service.warm()
        return service.app()

    deployment = serve.deployment(
        name="compressae",
        num_replicas=replicas,
        max_ongoing_requests=bounds.concurrent,
        ray_actor_options={"num_cpus": threads},
    )
    return deployment(serve.ingress(build)()).bind()
