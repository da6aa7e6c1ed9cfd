"""Filtered search: a catalogue's ``where`` beside an HNSW graph and LanceDB."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.catalogue.engines import QUERIES, K, Lance, Ours, Reranked
from benchmarks.catalogue.rows import (
    DIM,
    RESIDUAL_BYTES,
    about,
    folder_bytes,
    planted,
    timed,
    write_record,
)
from compressae import compress
from compressae.retrieval import Catalogue, exact_search, recall_at

#: Prices are uniform from 0 to 9,999: the shares of rows below the limits.
PRICES = 10_000
LIMITS = {"all": PRICES, "50 %": 5_000, "1 %": 100, ".01 %": 1}

#: A setting that has searched for so long is left at the queries it has answered.
SECONDS = 30


def prices(count: int) -> np.ndarray:
    """Prices (count,) int64."""
    return np.random.default_rng(7).integers(0, PRICES, count)


class OursFiltered(Ours):
    """Packed codes with lists; the condition is evaluated by DuckDB."""

    def build(self, rows: np.ndarray) -> None:
        codes = compress(self.model, rows, residual_bytes=RESIDUAL_BYTES)
        columns = {"price": prices(len(rows))}
        self.catalogue = Catalogue.create(
            self.path, self.model.projection, codes, metadata=columns, threads=1
        )

    def settings(self) -> list[Any]:
        return [3000]

    def filtered(self, query: np.ndarray, limit: int, setting: Any, turn: int) -> np.ndarray:
        where = f"price < {limit} and price > {-1 - turn}"  # Another condition each turn.
        return self.catalogue.search(query, K, candidates=setting, where=where).ids


class RerankedFiltered(Reranked, OursFiltered):
    """The same, reranked from float32 rows on disk."""

    def build(self, rows: np.ndarray) -> None:
        OursFiltered.build(self, rows)
        np.save(self.path.parent / "rows.npy", rows)

    def settings(self) -> list[Any]:
        return [3000]

    def filtered(self, query: np.ndarray, limit: int, setting: Any, turn: int) -> np.ndarray:
        where = f"price < {limit} and price > {-1 - turn}"
        rerank = self.path.parent / "rows.npy"
        return self.catalogue.search(query, K, candidates=setting, where=where, rerank=rerank).ids


class Graph:
    """faiss HNSW32 over float32 vectors. Results beyond K are fetched until K are allowed, four
    times as many at a time."""

    name = "faiss HNSW32, over-fetching"

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path / "index.faiss"

    def build(self, rows: np.ndarray) -> None:
        import faiss

        self.prices = prices(len(rows))
        shared = Path(self.path.parents[2]) / "hnsw.faiss"  # Built once for both ways to filter.
        if shared.exists():
            self.index = faiss.read_index(str(shared))
        else:
            threads = faiss.omp_get_max_threads()
            faiss.omp_set_num_threads(2)
            self.index = faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT)
            self.index.hnsw.efConstruction = 100
            self.index.add(rows)
            faiss.omp_set_num_threads(threads)
            faiss.write_index(self.index, str(shared))
        shutil.copy(shared, self.path)

    def settings(self) -> list[Any]:
        return [64, 256]

    def filtered(self, query: np.ndarray, limit: int, setting: Any, turn: int) -> np.ndarray:
        count = K
        while True:
            self.index.hnsw.efSearch = max(setting, count)
            ids = self.index.search(query, count)[1][0]
            allowed = ids[(ids >= 0) & (self.prices[ids] < limit)][:K]
            if len(allowed) == K or count >= self.index.ntotal:
                return np.pad(allowed, (0, K - len(allowed)), constant_values=-1)[None]
            count = min(4 * count, self.index.ntotal)


class Selector(Graph):
    """The same graph; the search passes over what a bitmap does not allow."""

    name = "faiss HNSW32, bitmap in the search"

    def filtered(self, query: np.ndarray, limit: int, setting: Any, turn: int) -> np.ndarray:
        import faiss

        if limit not in (bitmaps := self.__dict__.setdefault("bitmaps", {})):
            bits = np.packbits(self.prices < limit, bitorder="little")
            bitmaps[limit] = faiss.SearchParametersHNSW(
                sel=faiss.IDSelectorBitmap(bits), efSearch=setting
            )
        bitmaps[limit].efSearch = setting
        return self.index.search(query, K, params=bitmaps[limit])[1]


class LanceFiltered(Lance):
    """IVF-PQ of 32 bytes, refined; a B-tree of the prices, evaluated before the search."""

    def build(self, rows: np.ndarray) -> None:
        import lancedb
        import pyarrow as pa

        table = self._arrow(rows, 0).append_column("price", pa.array(prices(len(rows))))
        self.table = lancedb.connect(self.path).create_table("rows", table)
        self.table.create_index(
            metric="dot", num_partitions=1024, num_sub_vectors=32, index_type="IVF_PQ"
        )
        self.table.create_scalar_index("price")

    def settings(self) -> list[Any]:
        return [16, 64]

    def filtered(self, query: np.ndarray, limit: int, setting: Any, turn: int) -> np.ndarray:
        search = self.table.search(query[0]).distance_type("dot").nprobes(setting)
        search = search.refine_factor(4).where(f"price < {limit}", prefilter=True)
        ids = search.limit(K).select(["id", "_distance"]).to_arrow()["id"].to_numpy()
        return np.pad(ids, (0, K - len(ids)), constant_values=-1)[None]


ENGINES: tuple[Callable[[Path], Any], ...] = (
    OursFiltered, RerankedFiltered, Graph, Selector, LanceFiltered,
)  # fmt: skip


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--queries", "count", default=QUERIES, show_default=True)
@click.option("--without", default="", help="Engines to leave out, by the first letters.")
def filters(output: Path, rows: int, count: int, without: str) -> None:
    """Search among all rows, a half, 1 % and .01 % of them by a column of random prices.

    One query at a time on one thread. recall@10 is against exact dot products over the rows that
    the filter allows. "new" is the time of a search whose condition was not asked before, for an
    engine that keeps the rows of conditions. OUTPUT gets filters.json, an engine at a time.
    """
    output.mkdir(parents=True, exist_ok=True)
    command = f"python scripts/benchmarks/catalogue filters --rows {rows}"
    record = about(command, ("faiss-cpu", "lancedb", "duckdb"))
    record |= {"rows": rows, "dim": DIM, "points": []}
    table, queries = planted(rows, 2), planted(count, 4)
    truth = {}
    for share, limit in LIMITS.items():
        allowed = np.flatnonzero(prices(rows) < limit)
        found = exact_search(table[allowed], queries, K, "dot").ids
        truth[share] = np.where(found < 0, -1, allowed[found])
    for make in ENGINES:
        name = make.name  # type: ignore[attr-defined]
        if without and any(name.startswith(part) for part in without.split(",")):
            continue
        home = output / "engine"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        try:
            point = _all_filters(make(home / "data"), home, table, queries, truth)
        except Exception as error:  # An engine that fails is named, the others go on.
            point = {"failed": repr(error)}
        point = {"engine": name, **point}
        record["points"].append(point)
        write_record(output / "filters.json", record)
        click.echo(str(point))
        shutil.rmtree(home)
    (output / "hnsw.faiss").unlink(missing_ok=True)


def _all_filters(
    engine: Any, home: Path, table: np.ndarray, queries: np.ndarray, truth: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Build an engine, and search with each filter."""
    point: dict[str, Any] = {"build_s": timed(lambda: engine.build(table))[0]}
    point |= {"bytes": folder_bytes(home), "searches": []}
    for share, limit in LIMITS.items():
        for setting in engine.settings():
            measured = _measure(engine, queries, limit, setting, truth[share])
            point["searches"].append({"share": share, "setting": setting} | measured)
    return point


def _measure(
    engine: Any, queries: np.ndarray, limit: int, setting: Any, truth: np.ndarray
) -> dict[str, Any]:
    """Recall and times in milliseconds of one filter."""
    new, ids, times = [], [], []
    for i, query in enumerate(queries[:10]):
        new.append(timed(lambda q=query, i=i: engine.filtered(q[None], limit, setting, 1 + i))[0])
        if sum(new) > SECONDS:
            break
    for query in queries:  # The condition is known from the first on.
        seconds, found = timed(lambda q=query: engine.filtered(q[None], limit, setting, 1))
        times.append(seconds)
        ids.append(found)
        if sum(times) > SECONDS:
            break
    return {
        "queries": len(ids),
        "recall@10": recall_at(np.concatenate(ids), truth[: len(ids)], K),
        "p50_ms": 1e3 * float(np.median(times)),
        "new_p50_ms": 1e3 * float(np.median(new[1:] or new)),
    }
