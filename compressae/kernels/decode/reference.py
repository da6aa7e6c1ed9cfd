"""Definition of the sparse decoder and its two gradients, in plain numpy."""

import numpy as np


def sparse_matrix(indices: np.ndarray, values: np.ndarray, h: int) -> np.ndarray:
    """Build the dense S (n, h) of indices (n, k) and values (n, k); repeated ids add up."""
    s = np.zeros((len(indices), h), values.dtype)
    np.add.at(s, (np.arange(len(indices))[:, None], indices), values)
    return s


def decode(indices: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """S @ W: (n, d)."""
    return sparse_matrix(indices, values, len(weights)) @ weights


def sampled_matmul(indices: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """rows @ W.T at indices: (n, k)."""
    return np.take_along_axis(rows @ weights.T, indices.astype(np.int64), 1)


def sparse_t_matmul(
    indices: np.ndarray, values: np.ndarray, rows: np.ndarray, h: int
) -> np.ndarray:
    """S.T @ rows: (h, d)."""
    return sparse_matrix(indices, values, h).T @ rows
