"""Encode and search over a Ray cluster: tasks that are retried, actors that are restarted."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from compressae.cluster.encode import encode_unit
from compressae.cluster.units import Failure, FinishedUnit, Job, Unit
from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.io.remote import as_path
from compressae.retrieval.store.rerank_table import RerankTable
from compressae.retrieval.store.sharded import (
    CatalogueRecord,
    ShardedHits,
    merge_hits_of_shards,
    open_shard,
    read_catalogues,
    search_shards,
)

#: How often a task whose worker died is tried again, and a local cluster is started.
_TRIES = 3
#: Seconds between two looks at a task that runs.
_WAIT = 5.0


def connect(address: str) -> Any:
    """Connect to a cluster, or start one on this machine; return the module ``ray``.

    Args:
        address: "local", "auto", "host:6379" or "ray://host:10001".

    Raises:
        MissingExtraError: ray is not installed.
        InputError: no cluster answers there.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", f"--ray {address}") from None
    if ray.is_initialized():
        return ray
    _check_reachable(address)
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        # Paths of Ray's sockets must be short.
        settings |= {"include_dashboard": False, "_temp_dir": tempfile.mkdtemp(prefix="ray")}
    for tried in range(1, _TRIES + 1):
        try:
            ray.init(address=address, **settings)
            return ray
        except Exception as error:  # Ray raises errors of many kinds.
            if address != "local" or tried == _TRIES:
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"--ray {address}: no Ray cluster ({reason})") from error
            time.sleep(1)
    raise AssertionError


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing listens, for which Ray itself waits minutes.

    Raises:
        InputError: see above.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--ray {address}: no Ray cluster ({error}); start one with 'ray start --head', or "
            "give 'local'"
        ) from error


@dataclass(frozen=True)
class RayRunner:
    """Runs units as Ray tasks.

    The package, the model, the quantiser, the table and the output must be there on each node under
    the same path.

    Attributes:
        address: of the cluster; see ``connect``.
        work: what they do with a unit.
    """

    address: str
    work: Callable[[Job, Unit], FinishedUnit | Failure] = encode_unit

    def run(self, job: Job, units: list[Unit]) -> Iterator[FinishedUnit | Failure]:
        """See ``Runner``: a task whose worker dies is tried again, an input at fault is not.

        Raises:
            InputError: no cluster, or workers that die again and again.
        """
        ray = connect(self.address)
        is_on_gpu = job.device.startswith("cuda")
        settings = {"num_cpus": job.threads or 1, "num_gpus": int(is_on_gpu)}
        task = ray.remote(max_retries=_TRIES, **settings)(self.work)
        pending = {task.remote(job, unit): unit for unit in units}
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_WAIT)
            for reference in ready:
                unit = pending.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield Failure(unit, f"{unit.name} of {unit.source}: {_reason(error)}")


class _Shards:
    """Catalogues that one actor searches.

    Args:
        folder: of the catalogues.
        records: the shards.
        threads: processors to use.
    """

    def __init__(self, folder: str, records: Sequence[CatalogueRecord], threads: int) -> None:
        self.folder, self.threads = Path(folder), threads
        self.opened = {r: open_shard(self.folder, r, threads=threads) for r in records}
        self._reranked: tuple[Any, RerankTable | None] = None, None

    def newest(self) -> list[int]:
        """Numbers of the newest versions, which are opened."""
        for catalogue in self.opened.values():
            catalogue.refresh()
        return [catalogue.version for catalogue in self.opened.values()]

    def search(self, versions: Sequence[int], request: tuple, table: list[Any]) -> list[Hits]:
        """Hits of each catalogue, at those versions; an actor that was restarted opens them.

        Args:
            versions: one a catalogue.
            request: queries, K and options.
            table: the reference of a table to rerank with, or nothing. The last one stays here,
                with its rows matched.
        """
        queries, K, options = request
        if table:
            import ray

            if self._reranked[0] != table[0]:
                self._reranked = table[0], ray.get(table[0])
            options = options | {"rerank": self._reranked[1]}
        for (record, catalogue), version in zip(self.opened.items(), versions, strict=True):
            if catalogue.version != version:
                self.opened[record] = open_shard(self.folder, record, version, self.threads)
        return search_shards(list(self.opened.values()), queries, K, **options)

    def process(self) -> int:
        """Process id of the actor."""
        return os.getpid()


class RayCatalogue:
    """Catalogues of shards, searched by actors of a Ray cluster.

    Searches like ``ShardedCatalogue``. An actor that dies is restarted, and its search done again.
    All shards answer from the versions that were the newest when this was made, or at the last
    ``refresh``.

    Args:
        folder: of the shards' catalogues, under the same path on each node.
        address: of the cluster; see ``connect``.
        actors: number of actors, each for neighbouring shards of about equal rows; one a shard, but
            no more than the cluster has processors, when None.
        threads: processors of one actor.

    Raises:
        InputError: no such folder, or no cluster.
        MissingExtraError: ray is not installed.
    """

    def __init__(
        self, folder: str | Path, address: str, actors: int | None = None, threads: int = 1
    ) -> None:
        self.path = Path(folder).absolute()
        records = read_catalogues(self.path)
        self._ray = ray = connect(address)
        processors = int(ray.cluster_resources().get("CPU", 1)) // threads
        count = min(len(records), actors or max(1, processors))
        remote = ray.remote(num_cpus=threads, max_restarts=-1, max_task_retries=_TRIES)(_Shards)
        self._groups = _groups(records, count)
        self._actors = [remote.remote(str(self.path), group, threads) for group in self._groups]
        self._versions = self._newest()
        self._tables: WeakKeyDictionary[RerankTable, Any] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Rows of all shards when their catalogues were made."""
        return sum(record.rows for group in self._groups for record in group)

    def refresh(self) -> None:
        """Move all shards to their newest versions."""
        self._versions = self._newest()

    def _newest(self) -> list[list[int]]:
        return [self._fetch(actor.newest.remote()) for actor in self._actors]

    def search(self, queries: Any, K: int, *, partial: bool = False, **options: Any) -> ShardedHits:
        """Find the K best rows of each query; see ``ShardedCatalogue.search``.

        Args:
            queries, K, options: see ``Catalogue.search``; they are sent to the cluster once. Of
                files to rerank with only the path is sent, which must be that of each node. A
                ``RerankTable`` is sent and matched once for all searches.
            partial: answer without shards whose actors are lost.

        Raises:
            InputError: see ``Catalogue.search``; or an actor is lost and ``partial`` is not given.
        """
        if not hasattr(queries, "toarray") and hasattr(queries, "to_array"):
            queries = queries.to_array()
        if options.get("rerank") is not None:
            options["rerank"] = absolute(options["rerank"])
        table = []
        if isinstance(options.get("rerank"), RerankTable):
            table = [self._reference(options.pop("rerank"))]
        request = self._ray.put((queries, K, options))
        versions = self._versions
        references = [
            actor.search.remote(own, request, table)
            for actor, own in zip(self._actors, versions, strict=True)
        ]
        hits, missing = [], []
        for reference, group in zip(references, self._groups, strict=True):
            try:
                hits += self._fetch(reference)
            except _Lost as error:
                if not partial:
                    raise InputError(
                        f"{group[0].name}: {error}; search again, or with partial=True"
                    ) from error
                missing += [record.name for record in group]
        return merge_hits_of_shards(hits, K, missing)

    def _reference(self, table: RerankTable) -> Any:
        """Reference of a table in the cluster, which holds it while the table lives."""
        if table not in self._tables:
            self._tables[table] = self._ray.put(table)
        return self._tables[table]

    def close(self) -> None:
        """Stop the actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _fetch(self, reference: Any) -> Any:
        """What an actor answered; its own errors as they are."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError as error:
            raise _Lost(f"its actor is lost ({_reason(error)})") from error


def absolute(rerank: Any) -> Any:
    """What is reranked with, by absolute paths: actors and replicas run in folders of their own."""
    if isinstance(rerank, tuple) and len(rerank) == 2:
        return RerankTable(absolute(rerank[0]), rerank[1])
    if not isinstance(rerank, str | Path):
        return rerank
    path = as_path(rerank)
    return path.absolute() if isinstance(path, Path) else path


class _Lost(InputError):
    """An actor that cannot be reached."""


def _reason(error: Exception) -> str:
    """What Ray says of an error last, in one line."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _groups(records: Sequence[CatalogueRecord], count: int) -> list[list[CatalogueRecord]]:
    """Cut shards into ``count`` runs of about equal rows, none empty.

    >>> records = [CatalogueRecord("part-00000", rows, "0" * 32) for rows in (4, 1, 1)]
    >>> [[record.rows for record in group] for group in _groups(records, 2)]
    [[4], [1, 1]]
    """
    total, done = sum(record.rows for record in records), 0
    groups: list[list[CatalogueRecord]] = [[] for _ in range(count)]
    for place, record in enumerate(records):
        middle = (done + record.rows / 2) / total
        least = count - (len(records) - place)  # Groups that the rest could not fill.
        group = max(int(middle * count), least, 0)
        last = max((g for g in range(count) if groups[g]), default=-1)
        groups[min(group, last + 1)].append(record)
        done += record.rows
    return groups
