"""Definition of the products, in plain numpy."""

import numpy as np


def matmul(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Product (m, n) float32 of x (m, k) and a matrix (k, n)."""
    return (x.astype(np.float64) @ matrix.astype(np.float64)).astype(np.float32)


def nearest_centroids(parts: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Codes (m, p) uint8: the centroid of (p, 256, s) nearest to each part of parts (m, p·s)."""
    p, _, s = centroids.shape
    cut = parts.reshape(-1, p, 1, s).astype(np.float64)
    distances = np.square(cut - centroids).sum(3)
    return distances.argmin(2).astype(np.uint8)
