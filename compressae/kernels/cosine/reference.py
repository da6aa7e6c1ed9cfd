"""Definition of the cosine losses and their gradients, in plain numpy."""

import numpy as np


def cosine_gradients(
    indices: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    x: np.ndarray,
    k: int,
    wide_weight: float,
) -> tuple[np.ndarray, ...]:
    """Cosines (2, n), value gradients (n, w), reconstruction gradients (2, n, d); float64."""
    n = len(x)
    w, v, x = weights.astype(np.float64)[indices], values.astype(np.float64), x.astype(np.float64)
    parts = np.stack(
        [np.einsum("nk,nkd->nd", v[:, :k], w[:, :k]), np.einsum("nk,nkd->nd", v[:, k:], w[:, k:])]
    )
    reconstructions = np.cumsum(parts, axis=0)
    cosines, gradients = np.zeros((2, n)), np.zeros_like(reconstructions)
    for level, factor in enumerate((1.0, wide_weight)):
        y = reconstructions[level]
        y_norm, x_norm = np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1)
        nonzero = (y_norm > 0) & (x_norm > 0)
        y, y_norm, x_norm = y[nonzero], y_norm[nonzero][:, None], x_norm[nonzero][:, None]
        cosine = np.einsum("nd,nd->n", x[nonzero], y)[:, None] / (y_norm * x_norm)
        cosines[level, nonzero] = cosine[:, 0]
        gradients[level, nonzero] = (
            factor / n * (cosine * y / y_norm**2 - x[nonzero] / (y_norm * x_norm))
        )
    gradients[0] += gradients[1]  # The first k nonzeros are in both reconstructions.
    value_gradients = np.concatenate(
        [
            np.einsum("nd,nkd->nk", gradients[0], w[:, :k]),
            np.einsum("nd,nkd->nk", gradients[1], w[:, k:]),
        ],
        axis=1,
    )
    return cosines, value_gradients, gradients
