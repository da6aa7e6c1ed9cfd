"""hnswlib, 16 links a node. Queries: one dense row (1, d); the batch is (q, d)."""

from collections.abc import Iterator

import numpy as np
from benchmarks.search.engines import Engine, Setting, saved_size


def build(rows: np.ndarray) -> Engine:
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), M=16, ef_construction=100, random_seed=0)
    index.set_num_threads(1)
    index.add_items(rows)

    def search(queries: np.ndarray, K: int) -> np.ndarray:
        return index.knn_query(queries, K)[0]

    def settings() -> Iterator[Setting]:
        for ef in (16, 32, 64, 128):
            index.set_ef(ef)
            yield Setting(f"ef {ef}", search, batch=search)

    return Engine(saved_size(index.save_index), 0, settings())
