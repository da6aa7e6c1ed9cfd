"""The sparse decoder and its gradients: work in proportion to nonzeros, not to latents.

S is the (n, h) matrix with k nonzeros a row given by ``indices`` (n, k) int32 and ``values``
(n, k); W is (h, d), one row a latent. Values, rows and W share one float dtype.
"""

import numpy as np

from compressae.kernels.decode import cpu
from compressae.kernels.threads import over_rows


def decode(
    indices: np.ndarray, values: np.ndarray, weights: np.ndarray, threads: int | None = None
) -> np.ndarray:
    """x̂ (n, d), equal to ``S @ W``, in O(n·k·d)."""
    out = np.empty((len(indices), weights.shape[1]), weights.dtype)
    over_rows(lambda a, b: cpu.decode(indices, values, weights, out, a, b), len(indices), threads)
    return out


def project(
    indices: np.ndarray, rows: np.ndarray, weights: np.ndarray, threads: int | None = None
) -> np.ndarray:
    """(n, k), equal to ``take_along_axis(rows @ W.T, indices, 1)``, in O(n·k·d).

    With rows = ∂L/∂x̂ this is ∂L/∂values of the decoder.
    """
    out = np.empty(indices.shape, rows.dtype)
    over_rows(lambda a, b: cpu.project(indices, rows, weights, out, a, b), len(indices), threads)
    return out


def outer_sum(
    indices: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    h: int,
    threads: int | None = None,
) -> np.ndarray:
    """(h, d), equal to ``S.T @ rows``, in O(n·k·d): each latent's rows are summed in row order.

    With rows = ∂L/∂x̂ this is ∂L/∂W of the decoder; with values = ∂L/∂values and rows = x, of the
    encoder.
    """
    out = np.empty((h, rows.shape[1]), rows.dtype)
    starts, slots = cpu.group_by_latent(indices, h)
    over_rows(lambda a, b: cpu.outer_sum(starts, slots, values, rows, out, a, b), h, threads)
    return out
