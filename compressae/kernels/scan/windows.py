"""Planes larger than GPU memory: stream the remaining rows from pinned host memory."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from compressae.kernels.scan.planes import SCAN_BLOCK, Planes

#: Most bytes per streamed window.
_WINDOW = 1 << 30
#: Blocks built at a time for the resident window.
_PART = 1 << 12


class Windows:
    """Iterate over rows 0…n − 1 in windows, within a limit of device memory.

    The first window is resident on the device, as large as the limit allows. The others stay in
    pinned host memory and are double-buffered: a side stream copies the next window while the
    current one is in use. Torch rounds each pinned array up to a power of two, so the host may
    need twice the bytes.

    Args:
        build: builds the planes of rows start..stop on the CPU; start is a multiple of
            ``SCAN_BLOCK``.
        n: number of rows, at least 1.
        device: the device that reads them.
        memory: limit in bytes on the device; no limit when None.

    Raises:
        ValueError: ``memory`` is less than two blocks of rows.
    """

    def __init__(
        self,
        build: Callable[[int, int], Planes],
        n: int,
        device: torch.device,
        memory: int | None,
    ) -> None:
        blocks, sample = -(-n // SCAN_BLOCK), build(0, min(n, SCAN_BLOCK))
        block = sample.nbytes
        self.device = device
        self._resident: Planes | None = None
        self._streamed: list[Planes] = []
        self._buffers: list[Planes] = []

        # Split the memory: up to half of it for two buffers, the rest for resident blocks.
        resident, size = blocks, 0
        if memory is not None and blocks * block > memory:
            if memory < 2 * block:
                raise ValueError(f"memory of {memory} bytes: expected at least {2 * block}")
            size = max(1, min(memory // 4, _WINDOW) // block)
            resident = max(0, memory // block - 2 * size)

        # Build the resident window in place.
        if resident:
            room = sample.room(resident, device)
            for first in range(0, resident, _PART):
                last = min(first + _PART, resident)
                build(first * SCAN_BLOCK, min(last * SCAN_BLOCK, n)).into(room, first)
            self._resident = replace(room, n=min(resident * SCAN_BLOCK, n))

        # Build the streamed windows on the host, and two buffers on the device.
        if size:
            self._buffers = [sample.room(size, device) for _ in range(2)]
            for first in range(resident, blocks, size):
                window = build(first * SCAN_BLOCK, min((first + size) * SCAN_BLOCK, n))
                self._streamed.append(window.pinned() if device.type == "cuda" else window)
            if device.type == "cuda":
                self._copy_stream = torch.cuda.Stream(device)
                self._copy_stream.wait_stream(
                    torch.cuda.current_stream(device)
                )  # Buffers are allocated.
                self._released = [torch.cuda.Event() for _ in self._buffers]
        if device.type == "cuda":  # Any stream may search: finish the copies first.
            torch.cuda.current_stream(device).synchronize()

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        windows = self._buffers if self._resident is None else [self._resident, *self._buffers]
        return sum(planes.nbytes for planes in windows)

    @property
    def whole(self) -> Planes:
        """All rows, where none is streamed."""
        assert self._resident is not None and not self._streamed
        return self._resident

    @property
    def streams(self) -> bool:
        """Whether some rows are streamed from the host."""
        return bool(self._streamed)

    def __iter__(self) -> Iterator[tuple[int, Planes]]:
        """Yield (first row, window), ascending.

        Queue all work on a window on the current stream before advancing: its buffer is reused.
        """
        pending = self._copy(0) if self._streamed else None
        first = 0
        if self._resident is not None:
            yield first, self._resident
            first += self._resident.n
        for i in range(len(self._streamed)):
            assert pending is not None
            window, copied = pending
            pending = self._copy(i + 1) if i + 1 < len(self._streamed) else None
            if copied is not None:
                torch.cuda.current_stream(self.device).wait_event(copied)
            try:
                yield first, window
            finally:
                if copied is not None:
                    self._released[i % 2].record(torch.cuda.current_stream(self.device))
            first += window.n

    def _copy(self, i: int) -> tuple[Planes, Any]:
        """Start copying the i-th streamed window; return it and an event, None on the CPU."""
        cuda = self.device.type == "cuda"
        with torch.cuda.stream(self._copy_stream) if cuda else nullcontext():
            if cuda:
                self._copy_stream.wait_event(self._released[i % 2])
            window = self._streamed[i].into(self._buffers[i % 2])
            return window, self._copy_stream.record_event() if cuda else None
