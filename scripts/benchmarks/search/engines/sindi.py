"""VSAG's SINDI with float32 values and nothing pruned.

Queries: bounds, ids (uint32) and values (float32) of one row, the arrays of its ``knn_search``.

In 0.18.5, documents of the first window with negative products disturb scores of later windows
until its heap is full. 1,000 documents that hold one more latent, which every query holds too,
fill the heap first and are dropped from the answers.
"""

import json

import numpy as np
from benchmarks.search.engines import Engine, Setting, padded, saved_size
from scipy.sparse import csr_array

GUARDS = 1000


def build(documents: csr_array) -> Engine:
    import pyvsag

    pyvsag.set_logger_off()
    n, h = documents.shape
    indptr = np.concatenate([np.arange(GUARDS), documents.indptr + GUARDS]).astype(np.uint32)
    ids = np.concatenate([np.full(GUARDS, h), documents.indices]).astype(np.uint32)
    values = np.concatenate([np.full(GUARDS, 1e-20, np.float32), documents.data])
    settings = {
        "term_id_limit": h,
        "window_size": 60_000,
        "doc_prune_ratio": 0.0,
        "use_quantization": False,
        "use_reorder": False,
        "avg_doc_term_length": round(documents.nnz / n),
    }
    kind = {"dtype": "sparse", "metric_type": "ip", "dim": h, "index_param": settings}
    index = pyvsag.Index("sindi", json.dumps(kind))
    index.build(indptr, ids, values, np.arange(n + GUARDS, dtype=np.int64))
    pruning = {"query_prune_ratio": 0.0, "term_prune_ratio": 0.0, "n_candidate": 0}
    parameters = json.dumps({"sindi": {**pruning, "use_term_lists_heap_insert": True}})

    def prepare(row: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        bounds = np.array([0, row.nnz + 1], np.uint32)
        terms = np.append(row.indices, h).astype(np.uint32)
        return bounds, terms, np.append(row.data, 1e10).astype(np.float32)

    def search(query: tuple[np.ndarray, np.ndarray, np.ndarray], K: int) -> np.ndarray:
        first, second = index.knn_search(*query, K, parameters)
        rows = np.ravel(first if first.dtype.kind in "iu" else second) - GUARDS
        return padded(rows[rows >= 0], K)

    return Engine(saved_size(index.save), 0, [Setting("", search, prepare)])
