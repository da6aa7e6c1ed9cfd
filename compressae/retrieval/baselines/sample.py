"""The rows that a baseline learns its codebooks from."""

import numpy as np

from compressae.retrieval.io.embeddings import Embeddings

#: Rows that codebooks are trained on at most: faiss's own bound for 256 centroids.
TRAIN_ROWS = 65_536
#: Rows a centroid that k-means needs (faiss's own bound).
ROWS_A_LIST = 39


def sample_rows(n: int, most: int) -> np.ndarray:
    """Row numbers (min(n, most),) drawn by seed 0, ascending; a smaller sample is part of a larger.

    >>> sample_rows(10, 4), sample_rows(10, 3), sample_rows(2, 4)
    (array([2, 4, 6, 7]), array([2, 4, 6]), array([0, 1]))
    """
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).permutation(n)[:most])


def training_rows(items: Embeddings, most: int) -> np.ndarray:
    """Rows (min(n, most), d) of ``sample_rows``."""
    if len(items) <= most:
        return items.to_array()
    return items.take(sample_rows(len(items), most))
