"""The definition of the bounds of blocks, in plain numpy."""

import numpy as np


def block_bounds(dense: np.ndarray, size: int) -> np.ndarray:
    """(blocks, 2h): the largest positive, then the largest |negative| value, of rows (n, h)."""
    parts = [dense[start : start + size] for start in range(0, len(dense), size)]
    signed = [np.concatenate([part, -part], axis=1) for part in parts]
    return np.array([np.maximum(part, 0).max(0) for part in signed])


def leading_latents(dense: np.ndarray, count: int) -> np.ndarray:
    """(n, count): latents of the largest |value| of rows (n, h) whose nonzeros stand by latent, h
    where there are no more."""
    n, h = dense.shape
    order = np.argsort(-np.abs(dense), axis=1, kind="stable")[:, :count]
    there = np.take_along_axis(dense, order, 1) != 0
    out = np.full((n, count), h)
    out[:, : order.shape[1]] = np.where(there, order, h)
    return out
