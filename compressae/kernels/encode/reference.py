"""Definition of the encoder, in plain numpy."""

import numpy as np

from compressae.kernels.topk import reference


def encode(
    x: np.ndarray, weights: np.ndarray, bias: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k entries of x Wᵀ + b of largest |value|: ids (n, k) and signed values (n, k)."""
    return reference.abs_topk(x @ weights.T + bias, k)
