"""Our posting lists. Queries: one scipy CSR row a call; the batch is one CSR matrix."""

import time
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import numpy as np
from benchmarks.search.engines import Engine, Setting
from scipy.sparse import csr_array

from compressae.kernels.candidates import cpu as candidates
from compressae.kernels.postings import cpu as postings
from compressae.kernels.rescore import cpu as rescore
from compressae.kernels.topk import cpu as topk
from compressae.retrieval import InvertedIndex

#: The compiled functions of a search.
KERNELS = (
    (postings, "canonical_rows"), (candidates, "weigh"), (candidates, "find"),
    (rescore, "rescore"), (topk, "best"),
)  # fmt: skip


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


def outside_kernels_ms(documents: csr_array, queries: csr_array) -> float:
    """Milliseconds of a call outside its kernels: median over queries of the least of 10 calls."""
    index, spent = InvertedIndex(documents, 1), 0.0

    def timed(kernel):
        def run(*arguments):
            nonlocal spent
            started = time.perf_counter()
            result = kernel(*arguments)
            spent += time.perf_counter() - started
            return result

        return run

    rows = [queries[i : i + 1] for i in range(min(200, queries.shape[0]))]
    least = np.full(len(rows), np.inf)
    with ExitStack() as stack:
        for module, name in KERNELS:
            stack.enter_context(patch.object(module, name, timed(getattr(module, name))))
        for _ in range(10):
            for i, row in enumerate(rows):
                spent, started = 0.0, time.perf_counter()
                index.search(row, 100)
                least[i] = min(least[i], time.perf_counter() - started - spent)
    return 1e3 * float(np.median(least))


build_float32 = partial(build, list_type="float32")
