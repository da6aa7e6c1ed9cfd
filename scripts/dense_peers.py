"""Libraries that search dense vectors, for scripts/bench_search.py: built once, tried at several
settings of their search. All run on one thread; rows and queries are of unit length."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

#: Unit queries (m, d) and K to ids (m, K).
Search = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Built:
    """A library's index.

    Attributes:
        nbytes: all that grows with the rows: codes, links, ids.
        constant: what does not: codebooks, centroids.
        settings: (what is set, search) for each setting tried.
    """

    nbytes: int
    constant: int
    settings: Iterator[tuple[str, Search]]


Peer = Callable[[np.ndarray], Built]
_TRAIN_ROWS = 20_000


def _faiss(spec: str, parameter: str | None = None, values: tuple = (0,)) -> Peer:
    """An index of faiss's factory; ``parameter`` is a name of its ParameterSpace. Quantisers train
    on 20,000 rows; reranking reads 10·K rows."""

    def build(rows: np.ndarray) -> Built:
        index = faiss.index_factory(rows.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
        if spec.startswith("HNSW"):
            index.hnsw.efConstruction = 100
        some = np.random.default_rng(0).permutation(len(rows))[:_TRAIN_ROWS]
        if spec.endswith("RFlat"):
            index.k_factor = 10
        index.train(rows[np.sort(some)])
        constant = len(faiss.serialize_index(index))
        index.add(rows)
        total = len(faiss.serialize_index(index))

        def settings() -> Iterator[tuple[str, Search]]:
            for value in values:
                if parameter is not None:
                    faiss.ParameterSpace().set_index_parameter(index, parameter, value)
                name = "" if parameter is None else f"{parameter} {value}"
                yield name, lambda x, K: index.search(x, K)[1]

        return Built(total - constant, constant, settings())

    return build


def _file_size(save: Callable[[str], object]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/index")
        return Path(f"{folder}/index").stat().st_size


def hnswlib_flat(rows: np.ndarray) -> Built:
    """hnswlib, 16 links a node."""
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), M=16, ef_construction=100, random_seed=0)
    index.set_num_threads(1)
    index.add_items(rows)

    def settings() -> Iterator[tuple[str, Search]]:
        for ef in (16, 32, 64, 128):
            index.set_ef(ef)
            yield f"ef {ef}", lambda x, K: index.knn_query(x, K)[0]

    return Built(_file_size(index.save_index), 0, settings())


def _usearch(kind: str) -> Peer:
    def build(rows: np.ndarray) -> Built:
        from usearch.index import Index

        index = Index(ndim=rows.shape[1], metric="cos", dtype=kind, connectivity=16)
        index.add(np.arange(len(rows)), rows, threads=1)

        def settings() -> Iterator[tuple[str, Search]]:
            for ef in (16, 64, 128):
                index.expansion_search = ef

                def search(x: np.ndarray, K: int) -> np.ndarray:
                    return np.asarray(index.search(x, K, threads=1).keys).reshape(len(x), K)

                yield f"ef {ef}", search

        return Built(index.serialized_length, 0, settings())

    return build


def annoy_trees(rows: np.ndarray) -> Built:
    """annoy, 20 trees."""
    from annoy import AnnoyIndex

    index = AnnoyIndex(rows.shape[1], "angular")
    index.set_seed(0)
    for i, row in enumerate(rows):
        index.add_item(i, row)
    index.build(20, n_jobs=1)

    def settings() -> Iterator[tuple[str, Search]]:
        for nodes in (1000, 10_000):

            def search(x: np.ndarray, K: int, nodes: int = nodes) -> np.ndarray:
                found = np.full((len(x), K), -1, np.int64)
                for i, one in enumerate(x):
                    ids = index.get_nns_by_vector(one, K, nodes)
                    found[i, : len(ids)] = ids
                return found

            yield f"search_k {nodes}", search

    return Built(_file_size(index.save), 0, settings())


def peers(n: int) -> dict[str, Peer]:
    """By name; lists as many as the rows ask for."""
    lists = 512 if n < 500_000 else 2048
    probes = (1, 4, 16, 64)
    return {
        "faiss Flat": _faiss("Flat"),
        "faiss IVF-SQ4": _faiss(f"IVF{lists},SQ4", "nprobe", probes),
        "faiss IVF-PQ48": _faiss(f"IVF{lists},PQ48", "nprobe", probes),
        "faiss IVF-PQ96": _faiss(f"IVF{lists},PQ96", "nprobe", probes),
        "faiss IVF-OPQ96": _faiss(f"OPQ96,IVF{lists},PQ96", "nprobe", probes),
        "faiss IVF-PQ128x4 fast scan": _faiss(f"IVF{lists},PQ128x4fs", "nprobe", probes),
        "faiss IVF-PQ192x4 fast scan": _faiss(f"IVF{lists},PQ192x4fs", "nprobe", probes),
        "faiss IVF-RaBitQ": _faiss(f"IVF{lists},RaBitQ", "nprobe", probes),
        "faiss IVF-PQ64x4 fast scan + rows": _faiss(
            f"IVF{lists},PQ64x4fs,RFlat", "nprobe", (16, 64)
        ),
        "faiss HNSW16": _faiss("HNSW16", "efSearch", (16, 32, 64, 128)),
        "faiss HNSW16 SQ8": _faiss("HNSW16,SQ8", "efSearch", (16, 32, 64, 128)),
        "faiss HNSW16 PQ48": _faiss("HNSW16,PQ48", "efSearch", (16, 64, 128)),
        "hnswlib M 16": hnswlib_flat,
        "usearch f32": _usearch("f32"),
        "usearch i8": _usearch("i8"),
        "annoy 20 trees": annoy_trees,
    }
