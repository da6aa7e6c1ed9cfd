"""Indexes of faiss's factory. Queries: one dense row (1, d); the batch is (q, d)."""

from collections.abc import Iterator

import faiss
import numpy as np
from benchmarks.search.engines import Engine, Setting

_TRAIN_ROWS = 20_000


def build(
    rows: np.ndarray, spec: str, parameter: str | None = None, values: tuple[int, ...] = (0,)
) -> Engine:
    """Build an index of unit rows (n, d); ``parameter`` is a name of faiss's ParameterSpace.

    Quantisers train on 20,000 rows; reranking reads 10·K rows.
    """
    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(rows.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
    if spec.startswith("HNSW"):
        index.hnsw.efConstruction = 100
    if spec.endswith("RFlat"):
        index.k_factor = 10
    sample = np.random.default_rng(0).permutation(len(rows))[:_TRAIN_ROWS]
    index.train(rows[np.sort(sample)])
    constant = len(faiss.serialize_index(index))
    index.add(rows)
    total = len(faiss.serialize_index(index))

    def search(queries: np.ndarray, K: int) -> np.ndarray:
        return index.search(queries, K)[1]

    def settings() -> Iterator[Setting]:
        for value in values:
            if parameter is not None:
                faiss.ParameterSpace().set_index_parameter(index, parameter, value)
            name = "" if parameter is None else f"{parameter} {value}"
            yield Setting(name, search, batch=search)

    return Engine(total - constant, constant, settings())
