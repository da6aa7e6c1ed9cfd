"""Top-k selection: by absolute value, by value, and of scores."""

from typing import Any

import numpy as np

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.threads import over_rows
from compressae.kernels.topk import cpu


def abs_topk(x: Any, k: int, threads: int | None = None, backend: Backend = "auto") -> Any:
    """Top k entries of each row by absolute value, with their signs: (n, k).

    Equal to ``numpy.argsort(-abs(x), axis=1, kind="stable")[:, :k]`` and the entries there.

    Args:
        x: (n, h) float32, finite; on a GPU also bfloat16 or float16.
        k: 1 ≤ k ≤ h; on a GPU whole rows are sorted if k > 4,096, or k > 512 and 4·k > h.
        threads: number of threads; every processor the process may use when None.
        backend: see ``compressae.kernels.backend``.

    Returns:
        ids (n, k) int32 and values (n, k) of x's dtype, by descending |value|, ties by smaller id:
        numpy arrays, or tensors if x is a tensor on a GPU.

    Raises:
        ValueError: k is out of range.

    >>> ids, values = abs_topk(np.array([[1, -3, 2]], np.float32), 2)
    >>> ids, values
    (array([[1, 2]], dtype=int32), array([[-3.,  2.]], dtype=float32))
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
    """Top k entries of each row of a tensor on a GPU: (n, k).

    Equal to ``numpy.argsort(-x, axis=1, kind="stable")[:, :k]`` and the entries there.

    Args:
        x: (n, m) float32, bfloat16, float16 or int32 tensor; −inf is an ordinary entry.
        k: 1 ≤ k ≤ m; whole rows are sorted if k > 4,096, or k > 512 and 4·k > m.

    Returns:
        ids (n, k) int64 and entries (n, k), best first, ties by smaller id.

    Raises:
        ValueError: k is out of range, or no GPU holds x.
    """
    if not 1 <= k <= x.shape[1]:
        raise ValueError(f"k = {k} of {x.shape[1]} entries: expected 1 ≤ k ≤ {x.shape[1]}")
    uses_triton(x, "triton")
    from compressae.kernels.topk import gpu

    return gpu.largest(x, k)


def best(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Top ``min(count, n)`` of scores (n,) float32.

    Equal to ``numpy.argsort(-scores, kind="stable")[:count]`` and the scores there.

    Returns:
        ids (count,) int64 and scores (count,) float32, best first, ties by smaller id.

    >>> best(np.array([0.5, 2, 1], np.float32), 2)
    (array([1, 2]), array([2., 1.], dtype=float32))
    """
    count = min(count, len(scores))
    ids, top = np.empty(count, np.int64), np.empty(count, np.float32)
    cpu.best(scores, count, ids, top)
    return ids, top
