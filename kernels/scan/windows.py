"""Planes of more rows than a GPU has room for: the rest is streamed from memory of the host."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from compressae.kernels.scan.planes import BLOCK, Planes

#: Most bytes of one streamed window.
_WINDOW = 1 << 30
#: Blocks that are laid out at a time for what stays on the device.
_PART = 1 << 12


class Windows:
    """Rows 0…n − 1 in windows: the first, as many as fit, stays on the device; the others lie in
    pinned memory of the host and come one after another, each copied on a stream of its own while
    the one before is in use. Torch rounds each pinned array up to a power of two, so that the host
    may need twice their bytes.

    Args:
        build: planes of rows start..stop on the CPU; windows start at multiples of ``BLOCK``.
        n: rows, at least 1.
        device: where they are read.
        memory: bytes that they may take on the device; None for all that they need.

    Raises:
        ValueError: not even two blocks of rows fit ``memory``.
    """

    def __init__(
        self,
        build: Callable[[int, int], Planes],
        n: int,
        device: torch.device,
        memory: int | None,
    ) -> None:
        blocks, sample = -(-n // BLOCK), build(0, min(n, BLOCK))
        block = sample.nbytes
        self.device = device
        self._resident: Planes | None = None
        self._streamed: list[Planes] = []
        self._rooms: list[Planes] = []
        kept, size = blocks, 0
        if memory is not None and blocks * block > memory:
            if memory < 2 * block:
                raise ValueError(f"memory of {memory} bytes: expected at least {2 * block}")
            size = max(1, min(memory // 4, _WINDOW) // block)
            kept = max(0, memory // block - 2 * size)
        if kept:
            room = sample.room(kept, device)
            for first in range(0, kept, _PART):
                last = min(first + _PART, kept)
                build(first * BLOCK, min(last * BLOCK, n)).into(room, first)
            self._resident = replace(room, n=min(kept * BLOCK, n))
        if size:
            self._rooms = [sample.room(size, device) for _ in range(2)]
            for first in range(kept, blocks, size):
                window = build(first * BLOCK, min((first + size) * BLOCK, n))
                self._streamed.append(window.pinned() if device.type == "cuda" else window)
            if device.type == "cuda":
                self._side = torch.cuda.Stream(device)
                self._side.wait_stream(torch.cuda.current_stream(device))  # The rooms are new.
                self._free = [torch.cuda.Event() for _ in self._rooms]
        if device.type == "cuda":  # Whatever stream searches, the rows are there.
            torch.cuda.current_stream(device).synchronize()

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        held = self._rooms if self._resident is None else [self._resident, *self._rooms]
        return sum(planes.nbytes for planes in held)

    @property
    def streams(self) -> bool:
        """Not all rows are on the device."""
        return bool(self._streamed)

    def __iter__(self) -> Iterator[tuple[int, Planes]]:
        """The first row of each window and the window, ascending; one is to be used up on the
        current stream before the next is asked for."""
        coming = self._copy(0) if self._streamed else None
        first = 0
        if self._resident is not None:
            yield first, self._resident
            first += self._resident.n
        for i in range(len(self._streamed)):
            assert coming is not None
            window, copied = coming
            coming = self._copy(i + 1) if i + 1 < len(self._streamed) else None
            if copied is not None:
                torch.cuda.current_stream(self.device).wait_event(copied)
            try:
                yield first, window
            finally:
                if copied is not None:
                    self._free[i % 2].record(torch.cuda.current_stream(self.device))
            first += window.n

    def _copy(self, i: int) -> tuple[Planes, Any]:
        """The i-th streamed window on the device, or on its way there, and when it has come."""
        cuda = self.device.type == "cuda"
        with torch.cuda.stream(self._side) if cuda else nullcontext():
            if cuda:
                self._side.wait_event(self._free[i % 2])
            window = self._streamed[i].into(self._rooms[i % 2])
            return window, self._side.record_event() if cuda else None
