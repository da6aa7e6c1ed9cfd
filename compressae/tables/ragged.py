"""Rows of different lengths in one flat parameter."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table


class RaggedTable(Table):
    """Row i is ``values[starts[i]:starts[i + 1]]`` at columns that the kind of table gives.

    What is not stored is zero and has no gradient. ``values`` is the only parameter; ``starts``
    (n + 1,) is a buffer: int32, or int64 from 2^31 numbers on.

    Args:
        lengths: (n,) int64 on the CPU, each 0 to d.
        embedding_dim: d.
        padding_idx: see ``Table``.
        std: of the normal start of what is stored.
        device, dtype: of ``values``.
    """

    starts: Tensor

    def __init__(
        self,
        lengths: Tensor,
        embedding_dim: int,
        padding_idx: int | None = None,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(len(lengths), embedding_dim, padding_idx)
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        total = int(starts[-1])
        if total < 2**31:
            starts = starts.int()
        self.std = std
        self.register_buffer("starts", starts.to(device))
        self.values = nn.Parameter(torch.empty(total, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the normal start."""
        self.values.normal_(0, self.std)

    @abstractmethod
    def _columns(self, entries: Tensor, first: Tensor) -> Tensor:
        """Columns (T,) int64 of entries (T,) of ``values``, in rows that begin at first (T,)."""

    def _lookup(self, ids: Tensor) -> Tensor:
        first, stop = self.starts[ids].long(), self.starts[ids + 1].long()
        lengths = stop - first
        # Entry t of the output belongs to row owner[t] and stands at entries[t] in values.
        owner = torch.repeat_interleave(lengths)
        before = lengths.cumsum(0) - lengths
        entries = torch.arange(len(owner), device=ids.device) + (first - before)[owner]
        return self._spread(self.values.index_select(0, entries), entries, owner, first)

    def _all_rows(self) -> Tensor:
        first = self.starts[:-1].long()
        owner = torch.repeat_interleave(self.starts.long().diff())
        return self._spread(
            self.values, torch.arange(len(owner), device=owner.device), owner, first
        )

    def _spread(self, values: Tensor, entries: Tensor, owner: Tensor, first: Tensor) -> Tensor:
        places = owner * self.embedding_dim + self._columns(entries, first[owner])
        flat = values.new_zeros(len(first) * self.embedding_dim)
        return flat.scatter(0, places, values).view(len(first), self.embedding_dim)


def check_widths(widths: Any, embedding_dim: int) -> Tensor:
    """Widths (n,) as int64 on the CPU.

    Raises:
        InputError: they are not whole numbers from 0 to ``embedding_dim``, one a row.
    """
    found = torch.as_tensor(widths).detach().cpu()
    if found.ndim != 1 or found.is_floating_point() or found.dtype == torch.bool:
        raise InputError(
            f"widths {tuple(found.shape)} of {found.dtype}: expected whole numbers (n,), one a row"
        )
    found = found.long()
    if len(found) and (int(found.min()) < 0 or int(found.max()) > embedding_dim):
        raise InputError(
            f"widths from {int(found.min())} to {int(found.max())}: expected 0 to "
            f"{embedding_dim}, the table's dimensions"
        )
    return found
