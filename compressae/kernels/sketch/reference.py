"""Reference implementation in numpy."""

import numpy as np


def block_maxima(
    queries: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray | None,
    mask: np.ndarray | None,
    block: int,
) -> np.ndarray:
    """Largest product (q, ⌈n / block⌉) float32 of each block of rows; see ``sketch.gpu``."""
    numbers = np.concatenate([rows & 15, (rows >> 4) & 15], 1)
    products = queries.astype(np.float32) @ numbers.T.astype(np.float32)  # Whole, below 2^24.
    lowest = -(2.0**31)
    if lengths is not None:
        middle = np.float32(7.5) * queries.sum(1, dtype=np.int32).astype(np.float32)
        products, lowest = (products - middle[:, None]) * lengths, -np.inf
    if mask is not None:
        products[:, ~mask] = lowest
    padding = ((0, 0), (0, -len(rows) % block))
    padded = np.pad(products, padding, constant_values=lowest)
    return padded.reshape(len(queries), -1, block).max(2)


def best_blocks(
    queries: np.ndarray,
    rows: np.ndarray,
    count: int,
    lengths: np.ndarray | None,
    mask: np.ndarray | None,
    block: int,
) -> np.ndarray:
    """Blocks (q, count) of largest product, ascending; see ``kernels.sketch``."""
    maxima = block_maxima(queries, rows, lengths, mask, block)
    return np.sort(np.argsort(-maxima, 1, kind="stable")[:, :count], 1)
