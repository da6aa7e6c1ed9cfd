"""Jittered rows: those of the sample that ships, each many times, with noise."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from compressae import load_sample

#: Length of the noise that is added to unit rows of the sample.
JITTER = 0.5
#: Rows of a row group; rows that are made at a time.
GROUP = 25_000
QUERIES, QUERY_SEED, K = 200, 10_000, 100


def jittered(count: int, seed: int) -> np.ndarray:
    """Rows (count, d) float32 of unit length: sample rows with noise."""
    rng = np.random.default_rng(seed)
    sample = load_sample().embeddings
    x = sample.take(rng.integers(0, len(sample), count))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    x += JITTER * noise / np.sqrt(x.shape[1])
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def write_files(folder: Path, rows: int, files: int, workers: int = 0) -> None:
    """Write parquet files of float16 vectors with int64 ids; the seed of each is its number.

    Processes write them; this one when ``workers`` is 0.
    """
    folder.mkdir()
    bounds = [int(bound) for bound in np.linspace(0, rows, files + 1)]
    jobs = list(enumerate(pairwise(bounds)))
    if not workers:
        for job in jobs:
            _write_file(folder, job)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(partial(_write_file, folder), jobs))


def _write_file(folder: Path, job: tuple[int, tuple[int, int]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, (start, stop) = job
    x = jittered(stop - start, number).astype(np.float16)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    table = pa.table({"id": np.arange(start, stop), "vector": vectors})
    pq.write_table(table, folder / f"{number:03d}.parquet", row_group_size=GROUP)


class DenseTop:
    """The K rows of largest dot product with each query, of rows that come a batch at a time.

    Args:
        queries: (q, d).

    Attributes:
        ids: (q, ≤ K) numbers of rows, best first.
    """

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries
        self.ids = np.empty((len(queries), 0), np.int64)
        self._scores = np.empty((len(queries), 0), np.float32)

    def add(self, start: int, batch: np.ndarray) -> None:
        """Take rows (b, d) whose numbers begin at ``start``."""
        scores = self._queries @ batch.T
        top = np.argpartition(-scores, min(K, len(batch)) - 1, axis=1)[:, :K]
        ids = np.concatenate([self.ids, top + start], 1)
        scores = np.concatenate([self._scores, np.take_along_axis(scores, top, 1)], 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        self.ids = np.take_along_axis(ids, order, 1)
        self._scores = np.take_along_axis(scores, order, 1)
