"""Selection: the k largest entries by absolute value, and the best scores."""

from typing import Any

import numpy as np

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.threads import over_rows
from compressae.kernels.topk import cpu


def abs_topk(x: Any, k: int, threads: int | None = None, backend: Backend = "auto") -> Any:
    """The k entries of largest absolute value of each row, with their signs.

    Equal to ``numpy.argsort(-abs(x), axis=1, kind="stable")[:, :k]`` and the entries there.

    Args:
        x: (n, h) float32, finite; on a GPU also bfloat16 or float16.
        k: 1 ≤ k ≤ h; on a GPU, above 256 or with h above 65,536, rows are sorted whole.
        threads: processors to use; all that the process may use when None.
        backend: see ``compressae.kernels.backend``.

    Returns:
        ids (n, k) int32 and values (n, k) of x's dtype, by descending |value|, ties by smaller id:
        numpy arrays, or tensors where x is one on a GPU.
    """
    n, h = x.shape
    if not 1 <= k <= h:
        raise ValueError(f"k = {k} of {h} entries: expected 1 ≤ k ≤ {h}")
    if uses_triton(x, backend):
        from compressae.kernels.topk import gpu

        return gpu.top(x, k, True)
    x = np.ascontiguousarray(x, np.float32)
    ids, values = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    over_rows(lambda start, stop: cpu.abs_topk(x, k, ids, values, start, stop), n, threads)
    return ids, values


def largest(x: Any, k: int) -> Any:
    """The k largest entries of each row of a tensor on a GPU, with their signs.

    Equal to ``numpy.argsort(-x, axis=1, kind="stable")[:, :k]`` and the entries there.

    Args:
        x: (n, m) float32, bfloat16, float16 or int32 tensor; −inf is an entry like any other.
        k: 1 ≤ k ≤ m; above 256, rows are sorted whole.

    Returns:
        ids (n, k) int64 and entries (n, k), best first, ties by smaller id.
    """
    if not 1 <= k <= x.shape[1]:
        raise ValueError(f"k = {k} of {x.shape[1]} entries: expected 1 ≤ k ≤ {x.shape[1]}")
    uses_triton(x, "triton")
    from compressae.kernels.topk import gpu

    return gpu.largest(x, k)


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
