"""Reference implementation in numpy."""

import numpy as np


def best_blocks(
    queries: np.ndarray,
    rows: np.ndarray,
    count: int,
    lengths: np.ndarray | None,
    mask: np.ndarray | None,
    block: int,
) -> np.ndarray:
    """Blocks (q, count) of largest product, ascending; see ``kernels.sketch``."""
    numbers = np.stack([(rows << 4) >> 4, rows >> 4], 2).reshape(len(rows), -1).astype(np.int32)
    products = (queries.astype(np.float32) @ numbers.T.astype(np.float32)).astype(np.float64)
    if lengths is not None:
        products = (products.astype(np.float32) * lengths).astype(np.float64)
    if mask is not None:
        products[:, ~mask] = -(2.0**31)
    padding = -len(rows) % block
    padded = np.pad(products, ((0, 0), (0, padding)), constant_values=-np.inf)
    maxima = padded.reshape(len(queries), -1, block).max(2)
    return np.sort(np.argsort(-maxima, 1, kind="stable")[:, :count], 1)
