"""Seismic (SIGIR 2024, arXiv 2404.18812), approximate.

Queries: ids (int32, ascending) and values (float32) of one row, the arrays of its ``search``.

It keeps postings and query terms of the largest values. Signed values are made non-negative in the
query: (t, v) of a document becomes (2t, v) and (2t + 1, −v), (t, q) of a query becomes
(2t + (q < 0), |q|); products are the same, and recall is far better than without.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.search.engines import Engine, Setting, padded, saved_size
from scipy.sparse import csr_array

QUERY_CUTS = (4, 8, 16, 32)
_ROWS = 100_000


def build(documents: csr_array) -> Engine:
    import seismic as library

    terms = np.repeat(2 * documents.indices.astype(np.uint32), 2)
    terms[1::2] += 1
    values = np.repeat(documents.data.astype(np.float32), 2)
    values[1::2] *= -1
    with TemporaryDirectory() as folder:
        path = Path(folder) / "documents"
        _write(path, 2 * documents.indptr.astype(np.int64), terms, values)
        index = library.SeismicIndexRaw.build(
            str(path),
            n_postings=1000,
            centroid_fraction=0.1,
            min_cluster_size=2,
            summary_energy=0.8,
            max_fraction=6.0,
            doc_cut=15,
            nknn=0,
        )

    def search(query: tuple[np.ndarray, np.ndarray], K: int, query_cut: int) -> np.ndarray:
        hits = index.search(*query, K, query_cut, 0.9, 0, True)
        return padded([document for _, document, *_ in hits], K)

    settings = [
        Setting(f"query_cut {cut}, heap_factor 0.9", partial(search, query_cut=cut), _prepare)
        for cut in QUERY_CUTS
    ]
    return Engine(saved_size(index.save), 0, settings)


def _prepare(row: csr_array) -> tuple[np.ndarray, np.ndarray]:
    terms = 2 * row.indices.astype(np.int32) + (row.data < 0)
    order = np.argsort(terms)
    return terms[order].astype(np.int32), np.abs(row.data)[order].astype(np.float32)


def _write(path: Path, indptr: np.ndarray, ids: np.ndarray, values: np.ndarray) -> None:
    """Write its input: a uint32 count; of each row a uint32 length, its ids and its values."""
    with path.open("wb") as file:
        file.write(np.uint32(len(indptr) - 1).tobytes())
        for first in range(0, len(indptr) - 1, _ROWS):
            bounds = indptr[first : first + _ROWS + 1]
            counts, total = np.diff(bounds), int(bounds[-1] - bounds[0])
            before = bounds[:-1] - bounds[0]
            words = np.empty(2 * total + len(counts), np.uint32)
            heads = 2 * before + np.arange(len(counts))
            words[heads] = counts
            places = np.repeat(heads + 1 - before, counts) + np.arange(total)
            part = slice(bounds[0], bounds[-1])
            words[places] = ids[part]
            words[places + np.repeat(counts, counts)] = values[part].view(np.uint32)
            words.tofile(file)
