"""Scores of all rows for one sparse query, by posting lists."""

import numpy as np

from compressae.kernels.accumulate import cpu


def accumulate(
    starts: np.ndarray,
    docs: np.ndarray,
    values: np.ndarray,
    query_indices: np.ndarray,
    query_values: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Fill scores with the query's dot product with every row; work is the postings touched.

    Equal to ``(csr @ query)`` up to float32 rounding; sums run in the order of the query's
    entries, so that a row's score does not depend on the other rows.

    Args:
        starts, docs, values: posting lists of ``build_postings``.
        query_indices: (kq,) latents, each once.
        query_values: (kq,) float32.
        scores: (n,) float32, overwritten.
    """
    cpu.accumulate(starts, docs, values, query_indices, query_values, scores)
