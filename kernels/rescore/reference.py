"""The definition of rescoring, in plain numpy."""

import numpy as np


def rescore(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray | None,
    dense_query: np.ndarray,
    rows: np.ndarray | None,
) -> np.ndarray:
    """q · s of the given rows of the codes (all when None): (m,) float32."""
    rows = np.arange(len(indptr) - 1) if rows is None else rows
    out = np.zeros(len(rows))
    for r, row in enumerate(rows):
        here = slice(indptr[row], indptr[row + 1])
        out[r] = dense_query[indices[here]].astype(np.float64) @ values[here].astype(np.float64)
        if scales is not None:
            out[r] *= scales[row]
    return out.astype(np.float32)
