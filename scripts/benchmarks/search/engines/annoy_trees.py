"""annoy, 20 trees. Queries: one dense row (d,); it has no call for a batch."""

from functools import partial

import numpy as np
from benchmarks.search.engines import Engine, Setting, padded, saved_size


def build(rows: np.ndarray) -> Engine:
    from annoy import AnnoyIndex

    index = AnnoyIndex(rows.shape[1], "angular")
    index.set_seed(0)
    for i, row in enumerate(rows):
        index.add_item(i, row)
    index.build(20, n_jobs=1)

    def search(query: np.ndarray, K: int, nodes: int) -> np.ndarray:
        return padded(index.get_nns_by_vector(query, K, nodes), K)

    settings = [
        Setting(f"search_k {nodes}", partial(search, nodes=nodes), lambda row: row[0])
        for nodes in (1000, 10_000)
    ]
    return Engine(saved_size(index.save), 0, settings)
