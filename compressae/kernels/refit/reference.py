"""Definition of the refit, in plain numpy."""

import numpy as np


def refit(x: np.ndarray, indices: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    """Minimise ‖x − Wᵀ[ids] v‖² + ridge·‖v‖² over v for each row: (n, k) float32."""
    out = np.empty(indices.shape, np.float32)
    for i, ids in enumerate(indices):
        w = weights[ids].astype(np.float64)
        out[i] = np.linalg.solve(w @ w.T + ridge * np.eye(len(ids)), w @ x[i])
    return out
