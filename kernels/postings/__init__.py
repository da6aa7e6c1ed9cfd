"""Posting lists: the codes grouped by latent."""

import numpy as np

from compressae.kernels.postings import cpu


def build_postings(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, h: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lists of h latents from CSR rows, in O(nnz + h). Equal to scipy's ``csr.tocsc()``.

    Args:
        indptr: (n + 1,) int64 row bounds, n below 2^32.
        indices: (nnz,) uint16 or uint32 latents.
        values: (nnz,) float32 or int8.
        h: number of latents.

    Returns:
        starts (h + 1,) int64: latent l's list is ``starts[l]:starts[l + 1]``; docs (nnz,) uint32,
        ascending within a list; values (nnz,) in the given dtype.
    """
    starts = np.zeros(h + 1, np.int64)
    docs, out = np.empty(len(indices), np.uint32), np.empty(len(indices), values.dtype)
    cpu.build_postings(indptr, indices, values, starts, docs, out)
    return starts, docs, out
