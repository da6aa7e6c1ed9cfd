"""The definition of the pursuit, in plain numpy."""

from collections.abc import Sequence

import numpy as np


def pursue(
    x: np.ndarray, weights: np.ndarray, counts: Sequence[int], ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n, k) in the order chosen and values (n, k) of rows x (n, d), in float64."""
    n, k = len(x), sum(counts)
    w = weights.astype(np.float64)
    indices, values = np.empty((n, k), np.int32), np.empty((n, k))
    for i, row in enumerate(x.astype(np.float64)):
        chosen: list[int] = []
        residual = row
        for count in counts:
            strength = np.abs(w @ residual)
            strength[chosen] = -1
            chosen += np.argsort(-strength, kind="stable")[:count].tolist()
            a = w[chosen]
            v = np.linalg.solve(a @ a.T + ridge * np.eye(len(chosen)), a @ row)
            residual = row - v @ a
        indices[i], values[i] = chosen, v
    return indices, values
