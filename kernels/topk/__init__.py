"""Selection: the k largest entries by absolute value, and the best scores."""

import numpy as np

from compressae.kernels.threads import over_rows
from compressae.kernels.topk import cpu


def abs_topk(x: np.ndarray, k: int, threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k entries of largest absolute value of each row, with their signs.

    Equal to ``numpy.argsort(-abs(x), axis=1, kind="stable")[:, :k]`` and the entries there.

    Args:
        x: (n, h) float32, finite.
        k: 1 ≤ k ≤ h.
        threads: processors to use; all that the process may use when None.

    Returns:
        ids (n, k) int32 and values (n, k) float32, by descending |value|, ties by smaller id.
    """
    n, h = x.shape
    if not 1 <= k <= h:
        raise ValueError(f"k = {k} of {h} entries: expected 1 ≤ k ≤ {h}")
    x = np.ascontiguousarray(x, np.float32)
    ids, values = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    over_rows(lambda start, stop: cpu.abs_topk(x, k, ids, values, start, stop), n, threads)
    return ids, values


def best(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``min(count, n)`` largest of scores (n,) float32.

    Equal to ``numpy.argsort(-scores, kind="stable")[:count]`` and the scores there.

    Returns:
        ids int64 and scores float32, best first, ties by smaller id.
    """
    count = min(count, len(scores))
    ids, top = np.empty(count, np.int64), np.empty(count, np.float32)
    cpu.best(scores, count, ids, top)
    return ids, top
