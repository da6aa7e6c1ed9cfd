"""usearch, 16 links a node. Queries: one dense row (1, d); the batch is (q, d)."""

from collections.abc import Iterator

import numpy as np
from benchmarks.search.engines import Engine, Setting


def build(rows: np.ndarray, dtype: str) -> Engine:
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="cos", dtype=dtype, connectivity=16)
    index.add(np.arange(len(rows)), rows, threads=1)

    def search(queries: np.ndarray, K: int) -> np.ndarray:
        return np.asarray(index.search(queries, K, threads=1).keys).reshape(len(queries), K)

    def settings() -> Iterator[Setting]:
        for ef in (16, 64, 128):
            index.expansion_search = ef
            yield Setting(f"ef {ef}", search, batch=search)

    return Engine(index.serialized_length, 0, settings())
