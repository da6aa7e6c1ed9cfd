"""Our posting lists. Queries: one scipy CSR row a call; the batch is one CSR matrix."""

import time
from functools import partial

from benchmarks.search.engines import Engine, Setting
from scipy.sparse import csr_array

from compressae.retrieval import InvertedIndex


def build(documents: csr_array, list_type: str = "int8") -> Engine:
    InvertedIndex(documents[:10], 1, list_type=list_type).search(documents[:20], 1)  # Compile.
    index = InvertedIndex(documents, 1, list_type=list_type)
    facts = {"bytes_a_posting": index.list_nbytes / documents.nnz}

    def search(queries: csr_array, K: int):
        return index.search(queries, K).ids

    return Engine(index.nbytes, 0, [Setting("", search, batch=search)], facts)


def two_threads_over_one(documents: csr_array, queries: csr_array) -> float:
    """Queries a second of a batch on two threads over those on one, the best of three each."""
    index = InvertedIndex(documents, 1)
    seconds = {}
    for threads in (1, 2):
        index.threads, taken = threads, []
        for _ in range(3):
            started = time.perf_counter()
            index.search(queries, 100)
            taken.append(time.perf_counter() - started)
        seconds[threads] = min(taken)
    return seconds[1] / seconds[2]


build_float32 = partial(build, list_type="float32")
