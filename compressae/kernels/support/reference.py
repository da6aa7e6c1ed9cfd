"""Definition of the choice of a support, in plain numpy."""

import numpy as np


def select_latents(x: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Latents (n, k) of rows x (n, d): each step takes the one that leaves the least error."""
    supports = np.empty((len(x), k), np.int32)
    for i, row in enumerate(x.astype(np.float64)):
        support: list[int] = []
        for _ in range(k):
            errors = np.full(len(weights), np.inf)
            for latent in set(range(len(weights))) - set(support):
                columns = weights[[*support, latent]].T.astype(np.float64)
                values = np.linalg.lstsq(columns, row, rcond=None)[0]
                errors[latent] = ((row - columns @ values) ** 2).sum()
            support.append(int(errors.argmin()))
        supports[i] = support
    return supports
