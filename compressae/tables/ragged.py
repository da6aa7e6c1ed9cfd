"""Rows of different lengths in one flat parameter."""

from abc import abstractmethod
from typing import Any, Unpack

import torch
from torch import Tensor

from compressae.kernels.packed import ROW_BLOCK
from compressae.retrieval.errors import InputError
from compressae.tables.base import Table, TableSettings

#: Most ids located at once: about 10 MB.
_CHUNK = 1 << 14


class RaggedTable(Table):
    """Row i is ``widths[i]`` consecutive numbers of ``values``, at columns that a subclass defines.

    Entries that are not stored are zero and have no gradient. ``values`` is the only parameter;
    buffers are ``lengths`` (n,), one byte a row (two above d = 255, four above 32,767), and
    ``blocks`` int64, the start of every 64th row. A look-up takes about 100 bytes an entry.

    Args:
        widths: (n,) integers, 0 to d, the stored entries of each row.
        embedding_dim: d.
        **settings: padding_idx, sparse, std, device and dtype: see ``Table``.

    Raises:
        InputError: widths out of range.
    """

    lengths: Tensor
    blocks: Tensor

    def __init__(self, widths: Any, embedding_dim: int, **settings: Unpack[TableSettings]) -> None:
        widths = check_widths(widths, embedding_dim)
        super().__init__(len(widths), embedding_dim, **settings)
        ends, device = widths.cumsum(0), self._factory["device"]
        self.register_buffer("lengths", widths.to(device, smallest_dtype(embedding_dim)))
        self.register_buffer("blocks", (ends - widths)[::ROW_BLOCK].to(device, copy=True))
        self.values = self._empty(int(ends[-1]))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw ``values`` from a normal distribution."""
        self.values.normal_(0, self.std)

    @abstractmethod
    def _columns(self, entries: Tensor, first: Tensor) -> Tensor:
        """Columns (T,) int64 of entries (T,) of ``values``, in rows that start at first (T,)."""

    def _lookup(self, ids: Tensor) -> Tensor:
        first, lengths = row_starts(ids, self.blocks, self.lengths), self.lengths[ids].long()
        # Entry t of the output belongs to row owner[t] and is entries[t] of values.
        owner = torch.repeat_interleave(lengths)
        before = lengths.cumsum(0) - lengths
        entries = torch.arange(len(owner), device=ids.device) + (first - before)[owner]
        values = self.values.gather(0, entries, sparse_grad=self.sparse)
        return self._scatter(values, entries, owner, first)

    def _all_rows(self) -> Tensor:
        lengths = self.lengths.long()
        owner = torch.repeat_interleave(lengths)
        entries = torch.arange(len(owner), device=owner.device)
        return self._scatter(self.values, entries, owner, lengths.cumsum(0) - lengths)

    def _scatter(self, values: Tensor, entries: Tensor, owner: Tensor, first: Tensor) -> Tensor:
        """Scatter values (T,) to their columns of zeros (m, d)."""
        places = owner * self.embedding_dim + self._columns(entries, first[owner])
        flat = values.new_zeros(len(first) * self.embedding_dim)
        return flat.scatter(0, places, values).view(len(first), self.embedding_dim)


def smallest_dtype(most: int) -> torch.dtype:
    """Pick the smallest of uint8, int16 and int32 that represents 0 to ``most``."""
    return torch.uint8 if most < 2**8 else torch.int16 if most < 2**15 else torch.int32


def row_starts(ids: Tensor, blocks: Tensor, counts: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Locate rows ids (m,): the start of their block plus the rows before them in it, (m,) int64.

    Reads up to ``ROW_BLOCK`` counts an id, in chunks of ids; for many ids it sums all counts once.

    Args:
        ids: (m,) int64.
        blocks: (⌈n / ROW_BLOCK⌉,) int64, the start of every ``ROW_BLOCK``-th row.
        counts: (n,) integers: lengths of rows, or indices of ``sizes``.
        sizes: (K + 1,) int64 lengths of rows by count.
    """
    if len(ids) > len(counts) // 8:
        lengths = counts.long() if sizes is None else sizes[counts.long()]
        return (lengths.cumsum(0) - lengths)[ids]
    if len(ids) > _CHUNK:
        return torch.cat([row_starts(x, blocks, counts, sizes) for x in ids.split(_CHUNK)])
    # Window w is counts[w : w + width], within bounds; a view, nothing is copied.
    width = min(ROW_BLOCK, len(counts))
    first = ids // ROW_BLOCK * ROW_BLOCK
    window = first.clamp(max=len(counts) - width)
    lengths = counts.unfold(0, width, 1)[window]
    if sizes is not None:
        lengths = sizes[lengths.long()]
    row = torch.arange(width, device=ids.device) + window[:, None]
    inside = (row >= first[:, None]) & (row < ids[:, None])
    return blocks[ids // ROW_BLOCK] + lengths.masked_fill(~inside, 0).sum(1)


def check_widths(widths: Any, embedding_dim: int) -> Tensor:
    """Convert widths (n,) to int64 on the CPU.

    Raises:
        InputError: they are not integers from 0 to ``embedding_dim``, one a row.
    """
    widths = torch.as_tensor(widths).detach().cpu()
    if widths.ndim != 1 or widths.is_floating_point() or widths.dtype == torch.bool:
        raise InputError(
            f"widths {tuple(widths.shape)} of {widths.dtype}: expected whole numbers (n,), one a "
            "row"
        )
    widths = widths.long()
    if len(widths) and (int(widths.min()) < 0 or int(widths.max()) > embedding_dim):
        raise InputError(
            f"widths from {int(widths.min())} to {int(widths.max())}: expected 0 to "
            f"{embedding_dim}, the table's dimensions"
        )
    return widths
