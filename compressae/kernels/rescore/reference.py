"""Definition of rescoring, in plain numpy."""

import numpy as np


def rescore(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray | None,
    dense_query: np.ndarray,
    rows: np.ndarray | None,
) -> np.ndarray:
    """Dot products of the query with rows of the codes, all when None: (m,) float32."""
    rows = np.arange(len(indptr) - 1) if rows is None else rows
    out = np.zeros(len(rows))
    for r, row in enumerate(rows):
        row_slice = slice(indptr[row], indptr[row + 1])
        row_values = values[row_slice].astype(np.float64)
        out[r] = dense_query[indices[row_slice]].astype(np.float64) @ row_values
        if scales is not None:
            out[r] *= scales[row]
    return out.astype(np.float32)
