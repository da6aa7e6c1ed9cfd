"""Searches that a GPU replays: one launch in place of some forty."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Replayed:
    """A search of m queries on a GPU, captured as a CUDA graph, from memory of the host to such.

    Launching takes the processor longer than a small search takes the GPU. A graph keeps the
    launches, the memory of all intermediate results, and pinned memory of queries and results.

    Args:
        search: launches work on the current stream, the same for all queries (m, d), and waits for
            none of it.
        queries: (m, d) float32 on the GPU, an example.
        pool: memory of intermediate results, shared by graphs of which one runs at a time; see
            ``torch.cuda.graph_pool_handle``.
    """

    def __init__(
        self, search: Callable[[Tensor], tuple[Tensor, Tensor]], queries: Tensor, pool: Any
    ) -> None:
        self._queries = torch.zeros(queries.shape, pin_memory=True)
        stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):  # Kernels compile, and libraries take their memory.
            results = search(queries)
        here.wait_stream(stream)
        self._results = [
            torch.zeros(result.shape, dtype=result.dtype, pin_memory=True) for result in results
        ]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            results = search(queries.copy_(self._queries, non_blocking=True))
            for ours, result in zip(self._results, results, strict=True):
                ours.copy_(result, non_blocking=True)
        self._placed = queries  # Where the graph copies queries to.

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The results of up to m queries x."""
        self._queries.numpy()[: len(x)] = x
        self._graph.replay()
        torch.cuda.current_stream().synchronize()
        ids, scores = (result.numpy()[: len(x)].copy() for result in self._results)
        return ids, scores
