"""scipy: CSC columns times the query, then argpartition. Queries: one scipy CSR row a call."""

import numpy as np
from benchmarks.search.engines import Engine, Setting
from scipy.sparse import csc_array, csr_array


def build(documents: csr_array) -> Engine:
    columns = csc_array(documents)

    def search(query: csr_array, K: int) -> np.ndarray:
        scores = columns[:, query.indices] @ query.data
        best = np.argpartition(-scores, K)[:K]
        return best[np.lexsort((best, -scores[best]))]

    nbytes = columns.data.nbytes + columns.indices.nbytes
    return Engine(nbytes, columns.indptr.nbytes, [Setting("", search)])
