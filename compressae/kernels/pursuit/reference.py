"""Definition of orthogonal matching pursuit, in plain numpy."""

from collections.abc import Sequence

import numpy as np


def pursue(
    x: np.ndarray, weights: np.ndarray, counts: Sequence[int], ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Encode rows x (n, d): indices (n, k) in order of selection and values (n, k), in float64."""
    n, k = len(x), sum(counts)
    w = weights.astype(np.float64)
    indices, values = np.empty((n, k), np.int32), np.empty((n, k))
    for i, row in enumerate(x.astype(np.float64)):
        support: list[int] = []
        residual = row
        for count in counts:
            strength = np.abs(w @ residual)
            strength[support] = -1
            support += np.argsort(-strength, kind="stable")[:count].tolist()
            a = w[support]
            v = np.linalg.solve(a @ a.T + ridge * np.eye(len(support)), a @ row)
            residual = row - v @ a
        indices[i], values[i] = support, v
    return indices, values
