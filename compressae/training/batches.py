"""Rows of a table for training: read in threads, held on a GPU, drawn in an order per epoch."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from compressae.kernels.threads import over_rows
from compressae.retrieval.io.embeddings import Embeddings, unit_rows

#: Share of a GPU's free memory that the table may take; a larger table is copied batch by batch.
_TABLE_SHARE = 0.5
#: Numbers that a thread reads at a time (4 MiB): they stay in a processor's cache.
_AT_A_TIME = 1 << 20
#: Rows normalised at a time on the GPU.
_NORMALISED = 1 << 16


def over_batches(items: Embeddings, work: Callable[[int, np.ndarray], None]) -> None:
    """Call ``work(first row, rows (m, d))`` on batches that cover a table, in threads.

    After an error no thread reads any more: the caller may overwrite the file.

    Raises:
        InputError: a row holds NaN or infinity, or only zeros; the message names the first.
    """
    stopped, readers = threading.Event(), []

    def read(start: int, stop: int) -> None:
        done = threading.Event()
        readers.append(done)
        try:
            batches = items.batches(max(1, _AT_A_TIME // items.shape[1]), start, stop)
            while not stopped.is_set() and (batch := next(batches, None)) is not None:
                work(*batch)
        finally:
            done.set()

    try:
        over_rows(read, len(items))
    except BaseException:  # Now, not when all threads have read their share.
        stopped.set()
        for done in readers:
            done.wait()
        raise


class Batches:
    """Batches of unit rows; each epoch visits every row once, in a new order.

    A table that fits the GPU is copied there once. The order of the next epoch is drawn in a
    thread. Every order comes from a generator seeded by the seed and the epoch.

    Args:
        items: (n, d) embeddings.
        size: rows of a batch, 1 ≤ size ≤ n.
        steps: batches of the whole training.
        seed: of the orders.
        device: device of the batches.

    >>> from compressae.retrieval.io.embeddings import as_embeddings
    >>> items = as_embeddings(np.random.default_rng(0).standard_normal((64, 4)))
    >>> batches = Batches(items, size=32, steps=3, seed=0, device=torch.device("cpu"))
    >>> tuple(batches.of_step(2, slice(0, 16)).shape)
    (16, 4)
    """

    def __init__(
        self, items: Embeddings, size: int, steps: int, seed: int, device: torch.device
    ) -> None:
        self.items, self.size, self.steps, self.seed, self.device = items, size, steps, seed, device
        self._steps_an_epoch = len(items) // size
        fits = 4 * items.shape[0] * items.shape[1] <= _TABLE_SHARE * _free_bytes(device)
        self._table = torch.empty(items.shape, device=device) if fits else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="order")
        self._orders = {0: self._thread.submit(self._draw, 0)}
        if self._table is not None:
            _copy_unit_rows(items, self._table)

    def of_step(self, step: int, share: slice) -> Tensor:
        """Read the rows (m, d) of a share of the batch of a step."""
        epoch, place = divmod(step, self._steps_an_epoch)
        rows = self._order(epoch)[place * self.size : (place + 1) * self.size][share]
        if self._table is not None:
            return self._table[rows]
        return torch.from_numpy(unit_rows(self.items.take(rows.numpy()))).to(self.device)

    def _order(self, epoch: int) -> Tensor:
        """Rows (m,) int64 of an epoch; those of the next, if there is one, are drawn meanwhile."""
        epochs = [epoch, epoch + 1][: 1 + ((epoch + 1) * self._steps_an_epoch < self.steps)]
        self._orders = {
            e: self._orders.get(e) or self._thread.submit(self._draw, e) for e in epochs
        }
        return self._orders[epoch].result()

    def _draw(self, epoch: int) -> Tensor:
        """Draw the rows (m,) int64 of an epoch, on the device if the table is there."""
        rng = np.random.default_rng([self.seed, 1, epoch])
        count = min(self._steps_an_epoch, self.steps) * self.size
        order = torch.from_numpy(rng.choice(len(self.items), count, replace=False))
        return order if self._table is None else order.to(self._table.device)


def _free_bytes(device: torch.device) -> int:
    """Free bytes of a GPU's memory; 0 on the CPU, where rows are read from their file."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _copy_unit_rows(items: Embeddings, table: Tensor) -> None:
    """Fill a table (n, d) on a device with the rows of items, normalised there."""

    def copy(first: int, rows: np.ndarray) -> None:
        part = torch.from_numpy(rows)
        table[first : first + len(rows)] = part.pin_memory() if table.is_cuda else part

    over_batches(items, copy)
    for rows in table.split(_NORMALISED):  # By the formula of ``unit_rows``.
        rows /= rows.abs().amax(1, keepdim=True)
        rows /= rows.norm(dim=1, keepdim=True)
