"""The definition of the cosine losses and their gradients, in plain numpy."""

import numpy as np


def cosine_gradients(
    indices: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    x: np.ndarray,
    k: int,
    wide_weight: float,
) -> tuple[np.ndarray, ...]:
    """Cosines (2, n), gradients of values (n, w) and of both reconstructions (2, n, d), float64."""
    n = len(x)
    w, v, x = weights.astype(np.float64)[indices], values.astype(np.float64), x.astype(np.float64)
    parts = np.stack([
        np.einsum("nk,nkd->nd", v[:, :k], w[:, :k]), np.einsum("nk,nkd->nd", v[:, k:], w[:, k:])
    ])  # fmt: skip
    reconstructions = np.cumsum(parts, axis=0)
    cosines, gradients = np.zeros((2, n)), np.zeros_like(reconstructions)
    for level, factor in enumerate((1.0, wide_weight)):
        y = reconstructions[level]
        length, size = np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1)
        some = (length > 0) & (size > 0)
        y, length, size = y[some], length[some][:, None], size[some][:, None]
        cosine = np.einsum("nd,nd->n", x[some], y)[:, None] / (length * size)
        cosines[level, some] = cosine[:, 0]
        gradients[level, some] = factor / n * (cosine * y / length**2 - x[some] / (length * size))
    gradients[0] += gradients[1]  # The first k nonzeros are in both.
    to_values = np.concatenate(
        [
            np.einsum("nd,nkd->nk", gradients[0], w[:, :k]),
            np.einsum("nd,nkd->nk", gradients[1], w[:, k:]),
        ],
        axis=1,
    )
    return cosines, to_values, gradients
