"""Searches that a GPU replays: one launch in place of some twenty."""

from collections.abc import Callable

import torch
from torch import Tensor

Results = tuple[Tensor, Tensor]


class Replayed:
    """A function of one tensor on a GPU, captured as a CUDA graph.

    Launching takes the processor longer than a small search takes the GPU. A graph keeps the
    launches, the memory of all intermediate results, and of the results, which the next call
    overwrites.

    Args:
        function: launches work on the current stream, the same for every input of a shape, and
            waits for none of it.
        example: an input of that shape, on the GPU.
    """

    def __init__(self, function: Callable[[Tensor], Results], example: Tensor) -> None:
        self._input = example.clone()
        stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):  # Kernels compile, and libraries take their memory.
            function(self._input)
        here.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._results = function(self._input)

    def __call__(self, x: Tensor) -> Results:
        """The results for x, which may lie on the host; valid until the next call."""
        self._input.copy_(x, non_blocking=True)
        self._graph.replay()
        return self._results
