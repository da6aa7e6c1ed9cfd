"""Definition of the product with whole numbers, in plain numpy."""

import numpy as np


def product(
    rows: np.ndarray, scales: np.ndarray, queries: np.ndarray, unit: np.ndarray
) -> np.ndarray:
    """Product (m, h) float32 of rows (h, d) int8 and queries (m, d) int16."""
    sums = queries.astype(np.int64) @ rows.astype(np.int64).T
    return (sums * unit[:, None]).astype(np.float32) * scales
