"""Engines within the process as stores of exported rows: Qdrant, Milvus Lite, DuckDB, scipy; and
the catalogue that the rows are of."""

from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.catalogue.rows import folder_bytes, timed
from benchmarks.export.setting import Setting, Source
from scipy import sparse

from compressae.retrieval.export import ExportRows, to_milvus, to_postings, to_scipy

#: Ids of the C best rows for a query, as ``Setting.search``.
Search = Callable[[Any, int], np.ndarray]


class Qdrant:
    """Qdrant's engine, embedded: its default index of sparse vectors, in memory and exact.

    One segment and one search thread, no write-ahead log.
    """

    name = "Qdrant edge"

    def __init__(self, source: Source) -> None:
        import qdrant_edge as q

        from compressae.retrieval.export.qdrant import VECTOR, points

        home = source.folder / "qdrant"
        home.mkdir()
        vectors = {VECTOR: q.EdgeSparseVectorParams()}
        config = q.EdgeConfig(sparse_vectors=vectors, max_search_threads=1, wal_enabled=False)
        self._shard = q.EdgeShard.create(str(home), config)
        made = [
            q.Point(id, {VECTOR: q.SparseVector(indices, values)}, None)
            for id, indices, values, _ in points(ExportRows(source.catalogue))
        ]
        for start in range(0, len(made), 1000):
            self._shard.update(q.UpdateOperation.upsert_points(made[start : start + 1000]))
        self._shard.optimize()
        self._shard.flush()

        def prepare(row: sparse.csr_array) -> Any:
            vector = q.SparseVector(row.indices.tolist(), row.data.tolist())
            return q.Query.Nearest(vector, using=VECTOR)

        def search(query: Any, count: int) -> np.ndarray:
            found = self._shard.query(q.QueryRequest(limit=count, query=query))
            return np.array([point.id for point in found], np.int64)

        nbytes = sum(512 * file.stat().st_blocks for file in home.rglob("*"))
        self.facts: dict[str, Any] = {}
        self.settings = [
            Setting(
                name, lambda x, query=query: prepare(query(x)), search, nbytes,
                "disk blocks of the shard's files, of which much is set aside",
            )
            for name, query in source.queries().items()
        ]  # fmt: skip

    def close(self) -> None:
        self._shard.close()


class Milvus:
    """Milvus Lite: its inverted index over halves, served by threads of this process."""

    name = "Milvus Lite"

    def __init__(self, source: Source) -> None:
        import milvus_lite  # noqa: F401 (pymilvus starts it.)
        from pymilvus import MilvusClient

        from compressae.retrieval.export.milvus import ID, VECTOR

        self._path = source.folder / "milvus.db"
        self._client = MilvusClient(str(self._path))
        to_milvus(source.catalogue, self._client, "items")

        def prepare(row: sparse.csr_array) -> dict[int, float]:
            return dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))

        def search(query: dict[int, float], count: int) -> np.ndarray:
            (hits,) = self._client.search("items", [query], anns_field=VECTOR, limit=count)
            return np.array([hit[ID] for hit in hits], np.int64)

        nbytes = folder_bytes(self._path)
        self.facts: dict[str, Any] = {}
        self.settings = [
            Setting(
                f"halves, {name}", lambda x, query=query: prepare(query(x)), search, nbytes,
                "files of the database; lists are in memory alone",
            )
            for name, query in source.queries("halves").items()
        ]  # fmt: skip

    def close(self) -> None:
        import milvus_lite

        self._client.close()
        milvus_lite.server_manager_instance.release_server(str(self._path))


class DuckDB:
    """DuckDB over postings: a table in memory or the parquet file, whichever is faster.

    The SQL is that of docs/export.md with the entries as two arrays, or as an Arrow table; which
    of the four ways is fastest is tried first.
    """

    name = "DuckDB"

    def __init__(self, source: Source) -> None:
        import duckdb
        import pyarrow as pa

        path = source.folder / "postings.parquet"
        to_postings(source.catalogue, path)
        self._connection = duckdb.connect()
        self._connection.execute("SET threads = 1")
        self._connection.execute(f"CREATE TABLE postings AS FROM '{path}'")
        memory = "SELECT sum(memory_usage_bytes) FROM duckdb_memory() WHERE tag = 'IN_MEMORY_TABLE'"
        places = {
            "table in memory": ("postings", self._connection.execute(memory).fetchone()[0]),
            "parquet": (f"'{path}'", path.stat().st_size),
        }
        arrays = "(SELECT unnest($1::INT[]) AS latent, unnest($2::FLOAT[]) AS value)"
        text = """SELECT id, sum(p.value * q.value) AS score FROM {} p JOIN {} q USING (latent)
                  GROUP BY id ORDER BY score DESC LIMIT {}"""

        def searcher(relation: str, by_arrays: bool) -> Search:
            def search(row: sparse.csr_array, count: int) -> np.ndarray:
                if by_arrays:
                    sql, parameters = text.format(relation, arrays, count), [row.indices, row.data]
                else:
                    entries = pa.table({"latent": row.indices, "value": row.data})
                    self._connection.register("entries", entries)
                    sql, parameters = text.format(relation, "entries", count), []
                found = self._connection.execute(sql, parameters).fetchnumpy()
                return found["id"].astype(np.int64)

            return search

        rows_held = len(source.catalogue)
        self.facts: dict[str, Any] = {
            f"{place}, bytes a row": nbytes / rows_held for place, (_, nbytes) in places.items()
        }
        self.settings = []
        for name, query in source.queries().items():
            rows, ways = [query(x[None]) for x in source.trial], []
            for place, (relation, nbytes) in places.items():
                for by_arrays in (True, False):
                    search = searcher(relation, by_arrays)
                    times = [timed(lambda row=row: search(row, 100))[0] for row in rows]
                    ways.append((float(np.median(times)), place, nbytes, search))
            _, place, nbytes, search = min(ways, key=lambda way: way[0])
            counted = "file" if place == "parquet" else "memory of tables"
            self.settings.append(Setting(f"{place}, {name}", query, search, nbytes, counted))

    def close(self) -> None:
        self._connection.close()


class Scipy:
    """scipy's CSR matrix: its product with q' as a dense vector, then a partition; exact."""

    name = "scipy"

    def __init__(self, source: Source) -> None:
        path = source.folder / "rows.npz"
        to_scipy(source.catalogue, path)
        matrix = sparse.load_npz(path)

        def search(query: np.ndarray, count: int) -> np.ndarray:
            scores = matrix @ query
            best = np.argpartition(-scores, min(count, len(scores) - 1))[:count]
            return best[np.argsort(-scores[best])]

        nbytes = sum(part.nbytes for part in (matrix.indptr, matrix.indices, matrix.data))
        self.facts: dict[str, Any] = {}
        self.settings = [
            Setting(
                f"product, {name}", lambda x, query=query: query(x).toarray()[0], search, nbytes,
                "arrays of the matrix",
            )
            for name, query in source.queries().items()
        ]  # fmt: skip

    def close(self) -> None:
        pass


class Ours:
    """The catalogue itself: candidates from its lists, or all rows scored by their codes."""

    name = "compressae"

    def __init__(self, source: Source) -> None:
        catalogue = source.catalogue
        codes = catalogue.stored[0].segment.codes.nbytes
        self.facts: dict[str, Any] = {"folder, bytes": folder_bytes(catalogue.path)}

        def of(candidates: Any) -> Search:
            return lambda x, count: catalogue.search(x, count, candidates=candidates).ids[0]

        self.settings = [
            Setting(
                f"lists, {count:,} candidates", lambda x: x, of(count), catalogue.nbytes,
                "codes and lists", count, True,
            )
            for count in (1000, 3000)
        ]  # fmt: skip
        scan = Setting("all rows", lambda x: x, of("all"), codes, "codes", None, True)
        self.settings.append(scan)

    def close(self) -> None:
        pass
