"""Engines that search sparse vectors, for scripts/bench_search.py. All run on one thread."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

from compressae.retrieval import SparseCodes

#: One query's codes and K to ids (K,).
Search = Callable[[SparseCodes, int], np.ndarray]
#: Bytes that grow with the rows, bytes that do not, and (setting, search) for each setting tried.
Built = tuple[int, int, list[tuple[str, Search]]]


def _by_id(codes: SparseCodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds, ids ascending within rows, values."""
    csr = codes.to_scipy()
    csr.sort_indices()
    return csr.indptr.astype(np.int64), csr.indices.astype(np.uint32), csr.data


def scipy_product(codes: SparseCodes) -> Built:
    """CSC columns times the query, then argpartition."""
    columns = sparse.csc_array(codes.to_scipy())
    nbytes = columns.data.nbytes + columns.indices.nbytes

    def search(query: SparseCodes, K: int) -> np.ndarray:
        ids, values = query.row(0)
        scores = columns[:, ids.astype(np.int64)] @ values
        near = np.argpartition(-scores, K)[:K]
        return near[np.lexsort((near, -scores[near]))]

    return nbytes, columns.indptr.nbytes, [("", search)]


def sindi(codes: SparseCodes) -> Built:
    """VSAG's SINDI with float32 values and nothing pruned.

    In 0.18.5, documents of the first window with negative products disturb scores of later windows
    until its heap is full. 1,000 documents that hold one latent more, which every query asks for,
    fill the heap first and are dropped from the answers.
    """
    import pyvsag

    pyvsag.set_logger_off()
    guard, h = 1000, codes.latents
    indptr, ids, values = _by_id(codes)
    indptr = np.concatenate([np.arange(guard), indptr + guard]).astype(np.uint32)
    ids = np.concatenate([np.full(guard, h, np.uint32), ids])
    values = np.concatenate([np.full(guard, 1e-20, np.float32), values])
    n = len(indptr) - 1
    settings = {
        "term_id_limit": h,
        "window_size": 60_000,
        "doc_prune_ratio": 0.0,
        "use_quantization": False,
        "use_reorder": False,
        "avg_doc_term_length": round(codes.nnz / len(codes)),
    }
    index = pyvsag.Index(
        "sindi",
        json.dumps({"dtype": "sparse", "metric_type": "ip", "dim": h, "index_param": settings}),
    )
    index.build(indptr, ids, values, np.arange(n, dtype=np.int64))
    with tempfile.TemporaryDirectory() as folder:
        index.save(f"{folder}/index")
        nbytes = os.path.getsize(f"{folder}/index")
    how = {"query_prune_ratio": 0.0, "term_prune_ratio": 0.0, "n_candidate": 0}
    asked = json.dumps({"sindi": {**how, "use_term_lists_heap_insert": True}})

    def search(query: SparseCodes, K: int) -> np.ndarray:
        ids, values = query.row(0)
        one = np.array([0, len(ids) + 1], np.uint32)
        terms = np.append(ids, h).astype(np.uint32)
        weights = np.append(values, 1e10).astype(np.float32)
        first, second = index.knn_search(one, terms, weights, K, asked)
        found = np.ravel(first if first.dtype.kind in "iu" else second) - guard
        out = np.full(K, -1, np.int64)
        found = found[found >= 0]
        out[: len(found)] = found
        return out

    return nbytes, 0, [("", search)]


def seismic(codes: SparseCodes) -> Built:
    """Seismic (SIGIR 2024, arXiv 2404.18812), approximate.

    It keeps postings and query terms of the largest values. Signed ones are made non-negative in
    the query: (t, v) of a document becomes (2t, v) and (2t + 1, −v), (t, q) of a query becomes
    (2t + (q < 0), |q|); products are the same, and recall is far better than without.
    """
    import seismic as library

    indptr, ids, values = _by_id(codes)
    indptr = 2 * indptr
    terms, weights = np.empty(2 * len(ids), np.uint32), np.empty(2 * len(ids), np.float32)
    terms[0::2], terms[1::2] = 2 * ids, 2 * ids + 1
    weights[0::2], weights[1::2] = values, -values
    with tempfile.TemporaryDirectory() as folder:
        _write_seismic(Path(folder) / "documents", indptr, terms, weights)
        index = library.SeismicIndexRaw.build(
            f"{folder}/documents",
            n_postings=1000,
            centroid_fraction=0.1,
            min_cluster_size=2,
            summary_energy=0.8,
            max_fraction=6.0,
            doc_cut=15,
            nknn=0,
        )
        os.remove(f"{folder}/documents")
        index.save(f"{folder}/index")
        nbytes = sum(file.stat().st_size for file in Path(folder).iterdir())

    def at(query_cut: int) -> Search:
        def search(query: SparseCodes, K: int) -> np.ndarray:
            ids, values = query.row(0)
            terms = 2 * ids.astype(np.int32) + (values < 0)
            order = np.argsort(terms)
            terms, weights = terms[order].astype(np.int32), np.abs(values)[order]
            found = index.search(terms, weights, K, query_cut, 0.9, 0, True)
            out = np.full(K, -1, np.int64)
            out[: len(found)] = [document for _, document, *_ in found]
            return out

        return search

    return nbytes, 0, [(f"query_cut {cut}, heap_factor 0.9", at(cut)) for cut in (4, 8, 16, 32)]


def _write_seismic(path: Path, indptr: np.ndarray, ids: np.ndarray, values: np.ndarray) -> None:
    """Its input: a uint32 count; of each vector a uint32 length, its ids and its values."""
    with path.open("wb") as file:
        file.write(np.uint32(len(indptr) - 1).tobytes())
        for first in range(0, len(indptr) - 1, 100_000):
            bounds = indptr[first : first + 100_001]
            counts, rows = np.diff(bounds), len(bounds) - 1
            before = bounds[:-1] - bounds[0]
            place = 2 * before + np.arange(rows)
            words = np.empty(2 * int(counts.sum()) + rows, np.uint32)
            words[place] = counts
            inside = np.arange(int(counts.sum())) - np.repeat(before, counts)
            at = np.repeat(place + 1, counts) + inside
            here = slice(bounds[0], bounds[-1])
            words[at] = ids[here]
            words[at + np.repeat(counts, counts)] = values[here].view(np.uint32)
            words.tofile(file)


PEERS: dict[str, Callable[[SparseCodes], Built]] = {
    "VSAG SINDI float32": sindi,
    "Seismic": seismic,
    "scipy": scipy_product,
}
