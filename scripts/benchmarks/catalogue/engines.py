"""A catalogue beside LanceDB, Qdrant's embedded engine and faiss: additions, opening, search."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.catalogue.rows import (
    DIM,
    RESIDUAL_BYTES,
    about,
    dictionary,
    folder_bytes,
    p50,
    planted,
    timed,
    write_record,
)
from compressae import compress, encode_like
from compressae.retrieval import Catalogue, exact_search, recall_at

K, QUERIES, ADDED = 10, 200, 1000


class Ours:
    """A catalogue of packed codes; additions are encoded first, which is counted."""

    name = "compressae"

    def __init__(self, path: Path) -> None:
        self.path, self.model = path, dictionary()

    def build(self, rows: np.ndarray) -> None:
        codes = compress(self.model, rows, residual_bytes=RESIDUAL_BYTES)
        self.catalogue = Catalogue.create(self.path, self.model.projection, codes, threads=1)

    def add(self, rows: np.ndarray, first: int) -> None:
        self.catalogue.add(encode_like(self.model, rows, self.catalogue.like))

    def open(self) -> None:
        self.catalogue = Catalogue.open(self.path, threads=1)

    def settings(self) -> list[Any]:
        return [200, 1000, 3000]

    def search(self, query: np.ndarray, setting: Any) -> np.ndarray:
        return self.catalogue.search(query, K, candidates=setting).ids


class Reranked(Ours):
    """The same with the float32 rows in a file, from which the best 40 are reranked."""

    name = "compressae, reranked from float32 on disk"

    def build(self, rows: np.ndarray) -> None:
        super().build(rows)
        np.save(self.path.parent / "rows.npy", rows)

    def add(self, rows: np.ndarray, first: int) -> None:
        super().add(rows, first)
        # A .npy that grows: its header is rewritten, its rows are appended, then synced.
        path = self.path.parent / "rows.npy"
        n = first + len(rows)
        with path.open("r+b") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (n, DIM)}
            )
            file.seek(0, os.SEEK_END)
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def search(self, query: np.ndarray, setting: Any) -> np.ndarray:
        rerank = self.path.parent / "rows.npy"
        return self.catalogue.search(query, K, candidates=setting, rerank=rerank).ids


class Faiss:
    """IVF with product codes of 32 bytes; the file is written anew at each addition."""

    name = "faiss IVF1024,PQ32"

    def __init__(self, path: Path) -> None:
        self.path = path / "index.faiss"
        path.mkdir()

    def build(self, rows: np.ndarray) -> None:
        import faiss

        self.index = faiss.index_factory(DIM, "IVF1024,PQ32", faiss.METRIC_INNER_PRODUCT)
        self.index.train(rows[:100_000])
        self.index.add(rows)
        self._write()

    def _write(self) -> None:
        import faiss

        faiss.write_index(self.index, str(self.path))
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def add(self, rows: np.ndarray, first: int) -> None:
        self.index.add(rows)
        self._write()

    def open(self) -> None:
        import faiss

        self.index = faiss.read_index(str(self.path), faiss.IO_FLAG_MMAP)

    def settings(self) -> list[Any]:
        return [4, 16, 64]

    def search(self, query: np.ndarray, setting: Any) -> np.ndarray:
        self.index.nprobe = setting
        return self.index.search(query, K)[1]


class Lance:
    """IVF-PQ of 32 bytes beside the vectors, from which results are refined."""

    name = "LanceDB IVF-PQ, refined"

    def __init__(self, path: Path) -> None:
        self.path = path

    def _arrow(self, rows: np.ndarray, first: int) -> Any:
        import pyarrow as pa

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), DIM)
        ids = pa.array(np.arange(first, first + len(rows)))
        return pa.table({"id": ids, "vector": vectors})

    def build(self, rows: np.ndarray) -> None:
        import lancedb

        self.table = lancedb.connect(self.path).create_table("rows", self._arrow(rows, 0))
        self.table.create_index(
            metric="dot", num_partitions=512, num_sub_vectors=32, index_type="IVF_PQ"
        )

    def add(self, rows: np.ndarray, first: int) -> None:
        self.table.add(self._arrow(rows, first))

    def open(self) -> None:
        import lancedb

        self.table = lancedb.connect(self.path).open_table("rows")

    def settings(self) -> list[Any]:
        return [4, 16, 64]

    def search(self, query: np.ndarray, setting: Any) -> np.ndarray:
        found = self.table.search(query[0]).distance_type("dot").nprobes(setting).refine_factor(4)
        ids = found.limit(K).select(["id", "_distance"]).to_arrow()["id"].to_numpy()
        return np.pad(ids, (0, K - len(ids)), constant_values=-1)[None]


class Qdrant:
    """HNSW (m = 16) over float32 vectors."""

    name = "Qdrant edge, HNSW"

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def _config(self) -> Any:
        import qdrant_edge as q

        vectors = q.EdgeVectorParams(size=DIM, distance=q.Distance.Dot)
        hnsw = q.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10)
        return q.EdgeConfig(vectors=vectors, hnsw_config=hnsw)

    def _upsert(self, rows: np.ndarray, first: int) -> None:
        import qdrant_edge as q

        for start in range(0, len(rows), 1000):
            block = rows[start : start + 1000]
            points = [q.Point(first + start + i, row.tolist()) for i, row in enumerate(block)]
            self.shard.update(q.UpdateOperation.upsert_points(points))

    def build(self, rows: np.ndarray) -> None:
        import qdrant_edge as q

        self.shard = q.EdgeShard.create(str(self.path), self._config())
        self._upsert(rows, 0)
        self.shard.optimize()
        self.shard.flush()

    def add(self, rows: np.ndarray, first: int) -> None:
        self._upsert(rows, first)
        self.shard.flush()

    def open(self) -> None:
        import qdrant_edge as q

        self.shard.close()
        self.shard = q.EdgeShard.load(str(self.path))

    def settings(self) -> list[Any]:
        return [32, 128, 512]

    def search(self, query: np.ndarray, setting: Any) -> np.ndarray:
        import qdrant_edge as q

        request = q.SearchRequest(
            q.Query.Nearest(query[0].tolist()), K, params=q.SearchParams(hnsw_ef=setting)
        )
        ids = np.array([point.id for point in self.shard.search(request)])
        return np.pad(ids, (0, K - len(ids)), constant_values=-1)[None]


ENGINES: tuple[Callable[[Path], Any], ...] = (Ours, Reranked, Faiss, Lance, Qdrant)


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=200_000, show_default=True)
@click.option("--without", default="", help="Engines to leave out, by the first letters.")
def engines(output: Path, rows: int, without: str) -> None:
    """Build each engine over the same planted rows; add 1,000, open and search.

    An addition ends when it is durable: synced where the engine lets one ask for it. Search is one
    query at a time, vectors in, ids out, at three settings of each; recall@10 is against exact dot
    products over all rows, the added ones too. OUTPUT gets engines.json, an engine at a time.
    """
    output.mkdir(parents=True, exist_ok=True)
    libraries = ("faiss-cpu", "lancedb", "qdrant-edge-py")
    record = about(f"python scripts/benchmarks/catalogue engines --rows {rows}", libraries)
    record |= {"rows": rows, "dim": DIM, "points": []}
    table, queries = planted(rows, 2), planted(QUERIES, 4)
    added = [planted(ADDED, 10 + i) for i in range(5)]
    truth = exact_search(np.concatenate([table, *added]), queries, K, "dot").ids
    for make in ENGINES:
        name = make.name  # type: ignore[attr-defined]
        if without and any(name.startswith(part) for part in without.split(",")):
            continue
        home = output / "engine"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        try:
            point = _measure(make(home / "data"), home, table, queries, added, truth)
        except Exception as error:  # An engine that fails is named, the others go on.
            point = {"failed": repr(error)}
        point = {"engine": name, **point}
        record["points"].append(point)
        write_record(output / "engines.json", record)
        click.echo(str(point))
        shutil.rmtree(home)


def _measure(
    engine: Any,
    home: Path,
    table: np.ndarray,
    queries: np.ndarray,
    added: list[np.ndarray],
    truth: np.ndarray,
) -> dict[str, Any]:
    point: dict[str, Any] = {"build_s": timed(lambda: engine.build(table))[0]}
    first, times = len(table), []
    for rows in added:
        times.append(1e3 * timed(lambda rows=rows: engine.add(rows, first))[0])
        first += len(rows)
    point["add_1000_ms"] = float(np.median(times))
    point["bytes"] = folder_bytes(home)
    point["open_ms"] = 1e3 * float(np.median([timed(engine.open)[0] for _ in range(5)]))
    point["searches"] = []
    for setting in engine.settings():
        ids = np.concatenate([engine.search(query[None], setting) for query in queries])
        milliseconds = p50(lambda query, s=setting: engine.search(query, s), queries)
        recall = recall_at(ids, truth, K)
        point["searches"].append({"setting": setting, "recall@10": recall, "p50_ms": milliseconds})
    return point
