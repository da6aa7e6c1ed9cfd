"""The definition of posting lists, in plain numpy."""

import numpy as np


def build_postings(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, h: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """starts (h + 1,), docs (nnz,) ascending within a latent's list, values (nnz,)."""
    order = np.argsort(indices, kind="stable")
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    starts = np.searchsorted(indices[order], np.arange(h + 1))
    return starts.astype(np.int64), rows[order].astype(np.uint32), values[order]
