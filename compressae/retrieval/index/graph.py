"""Searches that a GPU replays: one launch in place of some forty."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: Of device tensors (m, d): ids and scores (m, any) there, by launches alone.
Search = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Sizes of which it is known that they came once.
_REMEMBERED = 1024
#: Beginning a capture waits for all work of the device, which no other capture may be part of.
_CAPTURING = threading.Lock()


class CaptureSetup(NamedTuple):
    """What graphs of which one runs at a time are made with: a pool of memory that they share, a
    stream to run a search on before it is captured, and one to capture it on."""

    pool: Any
    warming: torch.cuda.Stream
    capturing: torch.cuda.Stream

    @classmethod
    def on(cls, device: torch.device) -> "CaptureSetup":
        pool = torch.cuda.graph_pool_handle()
        return cls(pool, torch.cuda.Stream(device), torch.cuda.Stream(device))


class Graphs:
    """Graphs of an index's searches, by what tells them apart; one search at a time may use them.

    A search is captured the second time that it is wanted, since capturing takes as long as a few
    searches. The least recently used graphs go.

    Args:
        device: a GPU, the current device whenever a graph is used.
        most: graphs that are kept.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        self._device, self._most = device, most
        self._setup: CaptureSetup | None = None
        self._kept: OrderedDict[Hashable, Replayed] = OrderedDict()
        self._came_once: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._kept)

    def find(
        self, key: Hashable, x: np.ndarray, size: int, search: Search
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Results of queries x (up to ``size``, d) by the graph of ``search``; None if there is
        none yet.

        Args:
            key: equal for searches whose launches are the same.
        """
        if key not in self._kept:
            if key not in self._came_once:
                if len(self._came_once) >= _REMEMBERED:
                    self._came_once.clear()
                self._came_once.add(key)
                return None
            while len(self._kept) >= self._most:
                self._kept.popitem(last=False)
            if self._setup is None:
                self._setup = CaptureSetup.on(self._device)
            example = torch.zeros(size, x.shape[1], device=self._device)
            example[: len(x)] = torch.from_numpy(x)
            self._kept[key] = Replayed(search, example, self._setup)
        self._kept.move_to_end(key)
        return self._kept[key](x)


class Replayed:
    """A search of m queries, captured as a CUDA graph, from memory of the host to such.

    Launching takes the processor longer than a small search takes the GPU. A graph keeps the
    launches, the memory of all intermediate results, and pinned memory of queries and results.

    Args:
        search: launches work on the current stream, the same for all queries, and waits for none
            of it.
        queries: (m, d) float32 on the GPU, an example; the graph copies others there.
        setup: see ``CaptureSetup``.
    """

    def __init__(self, search: Search, queries: Tensor, setup: CaptureSetup) -> None:
        self._queries, self._placed = torch.zeros(queries.shape, pin_memory=True), queries
        here = torch.cuda.current_stream()
        setup.warming.wait_stream(here)
        with torch.cuda.stream(setup.warming):  # Libraries take their memory.
            results = search(queries)
        here.wait_stream(setup.warming)
        self._results = [
            torch.zeros(result.shape, dtype=result.dtype, pin_memory=True) for result in results
        ]
        self._graph = torch.cuda.CUDAGraph()
        with (
            _CAPTURING,
            torch.cuda.graph(
                self._graph, setup.pool, setup.capturing, capture_error_mode="thread_local"
            ),
        ):
            results = search(queries.copy_(self._queries, non_blocking=True))
            for ours, result in zip(self._results, results, strict=True):
                ours.copy_(result, non_blocking=True)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The results of up to m queries x."""
        self._queries.numpy()[: len(x)] = x
        self._graph.replay()
        torch.cuda.current_stream().synchronize()
        ids, scores = (result.numpy()[: len(x)].copy() for result in self._results)
        return ids, scores
