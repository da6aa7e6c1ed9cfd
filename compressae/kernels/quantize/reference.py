"""Definition of the quantisation of values, in plain numpy."""

from itertools import pairwise

import numpy as np


def quantize_rows(values: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes (nnz,) and float32 scales (n,): scale = max|v| / 127, code = rint(v / scale)."""
    codes = np.empty(len(values), np.int8)
    scales = np.ones(len(indptr) - 1, np.float32)
    for i, (start, stop) in enumerate(pairwise(indptr)):
        row = values[start:stop]
        if np.any(row):
            scales[i] = np.float32(np.abs(row).max()) / np.float32(127)
        codes[start:stop] = np.rint(row / scales[i])
    return codes, scales


def quantize_on_support(
    x: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    levels: np.ndarray,
    sizes: np.ndarray,
    sweeps: int,
) -> np.ndarray:
    """Codes (n, k) uint8 by coordinate descent on the reconstruction error."""
    codes = np.empty(indices.shape, np.uint8)
    for i, ids in enumerate(indices):
        w, v = weights[ids].astype(np.float64), values[i].astype(np.float64)
        for _ in range(sweeps):
            for a in range(len(ids)):
                residual = x[i] - v @ w + v[a] * w[a]
                target = residual @ w[a] / (w[a] @ w[a])
                codes[i, a] = np.abs(levels[a, : sizes[a]] - target).argmin()
                v[a] = levels[a, codes[i, a]]
    return codes
