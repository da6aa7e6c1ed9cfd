"""The definition of score accumulation, in plain numpy."""

import numpy as np


def accumulate(
    starts: np.ndarray,
    docs: np.ndarray,
    values: np.ndarray,
    query_indices: np.ndarray,
    query_values: np.ndarray,
    scores: np.ndarray,
) -> None:
    """scores (n,) = Σ over the query's latents of its value times the list's values."""
    scores[:] = 0
    for latent, q in zip(query_indices, query_values, strict=True):
        here = slice(starts[latent], starts[latent + 1])
        scores[docs[here]] += q * values[here].astype(np.float32)
