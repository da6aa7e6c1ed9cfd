"""faiss IVF-PQ of a table in files, and the exact neighbours found in the same pass over it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue.rows import timed
from benchmarks.cluster.fresh import Figures, latencies, resident
from benchmarks.cluster.rows import GROUP, DenseTop, K
from compressae import open_embeddings

#: Rows a list that the lists are trained on; faiss warns of fewer than 39.
TRAINED_A_LIST = 40
#: Lists at most: the time to assign rows to lists grows with both.
MOST_LISTS = 6400
BATCH = 100_000


def lists_of(rows: int) -> int:
    """Lists of an IVF-PQ: 4 √n, up to a limit."""
    return min(MOST_LISTS, int(4 * np.sqrt(rows)))


def build(items: Path, queries: Path, folder: Path, sizes: tuple[int, ...]) -> Iterator[Figures]:
    """Write FOLDER/pq<bytes>.faiss for each size of PQ, and the neighbours to FOLDER/truth.npy.

    Lists are trained once, and rows are assigned to them once, for all sizes, by exact search. For
    queries a graph over the centroids (HNSW) takes the place of that search: faster for one query.
    """
    table = open_embeddings(items)
    rivals: dict[int, Any] = {}
    if sizes:
        import faiss

        lists = lists_of(len(table))
        wanted = min(len(table), max(TRAINED_A_LIST * lists, 256))
        sample = table.take(_spread(len(table), wanted))
        kmeans = faiss.Kmeans(table.shape[1], lists, niter=10, spherical=True, seed=0)
        train_s, _ = timed(lambda: kmeans.train(sample))
        coarse = faiss.IndexFlatIP(table.shape[1])
        coarse.add(kmeans.centroids)
        yield {"lists": lists, "rows_trained_on": len(sample), "train_lists_s": train_s}
        for size in sizes:  # The constructor leaves polysemous training out.
            rivals[size] = faiss.IndexIVFPQ(
                coarse, table.shape[1], lists, size, 8, faiss.METRIC_INNER_PRODUCT
            )
            yield {f"pq{size}_train_s": timed(lambda s=size: rivals[s].train(sample))[0]}
        del sample
    truth = DenseTop(np.load(queries))
    seconds = dict.fromkeys(("truth_s", "assign_s", *(f"pq{size}_add_s" for size in sizes)), 0.0)

    def clock(name: str, work: Any) -> Any:
        spent, result = timed(work)
        seconds[name] += spent
        return result

    began = time.perf_counter()
    for start, batch in table.batches(BATCH):
        clock("truth_s", lambda: truth.add(start, batch))
        if rivals:
            batch = np.ascontiguousarray(batch)
            cells = clock("assign_s", lambda: coarse.search(batch, 1)[1].ravel())
            ids = np.arange(start, start + len(batch))
            arrays = [faiss.swig_ptr(array) for array in (batch, ids, cells)]
            for size, index in rivals.items():
                clock(f"pq{size}_add_s", lambda: index.add_core(len(batch), *arrays))
    yield seconds | {"pass_s": time.perf_counter() - began, **resident()}
    for size, index in rivals.items():
        graph = faiss.IndexHNSWFlat(table.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        graph.add(kmeans.centroids)
        index.quantizer = graph
        path = folder / f"pq{size}.faiss"
        faiss.write_index(index, str(path))
        yield {f"pq{size}_bytes_a_row": size + 8, f"pq{size}_file_bytes": path.stat().st_size}
    np.save(folder / "truth.npy", truth.ids)


def search(path: Path, queries: Path, folder: Path, probes: tuple[int, ...]) -> Iterator[Figures]:
    """Search an index, a query at a time on one thread; ids go to FOLDER/<index>_<probes>.npy."""
    import faiss

    faiss.omp_set_num_threads(1)
    x, before = np.load(queries), resident()
    open_s, index = timed(lambda: faiss.read_index(str(path)))
    opened = resident()
    yield {"open_ms": 1e3 * open_s, "own_mb": opened["own_mb"] - before["own_mb"]}
    for count in probes:
        index.nprobe = count
        faiss.downcast_index(index.quantizer).hnsw.efSearch = max(64, count)
        np.save(folder / f"{path.stem}_{count}.npy", index.search(x, K)[1])
        yield {str(count): latencies(lambda query: index.search(query, K), x)}


def _spread(rows: int, wanted: int) -> np.ndarray:
    """Numbers of rows, ascending, in row groups that are evenly spaced over a table."""
    if wanted == rows:
        return np.arange(rows)
    groups = -(-wanted // GROUP)
    starts = np.linspace(0, max(0, rows - GROUP), groups).astype(int)
    return np.unique(starts[:, None] + np.arange(min(GROUP, wanted // groups)))
