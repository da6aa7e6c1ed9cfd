"""Rows of different lengths in one flat parameter."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from compressae.kernels.packed import BLOCK
from compressae.retrieval.errors import InputError
from compressae.tables.base import Table

#: Ids whose places are found at once: some 10 MB.
_AT_ONCE = 1 << 14


class RaggedTable(Table):
    """Row i is ``lengths[i]`` of ``values``, after those of the rows before it, at columns that the
    kind of table gives.

    What is not stored is zero and has no gradient. ``values`` is the only parameter. Beside it
    are ``lengths`` (n,), one byte a row (two above d = 255, four above 32,767), and ``blocks``
    int64, where every 64th row begins. A look-up works in about 100 bytes for each entry that it
    finds.

    Args:
        lengths: (n,) int64 on the CPU, each 0 to d.
        embedding_dim: d.
        padding_idx: see ``Table``.
        sparse: gradients as sparse tensors, of the looked-up rows' entries alone.
        std: of the normal start of what is stored.
        device, dtype: of ``values``.
    """

    lengths: Tensor
    blocks: Tensor

    def __init__(
        self,
        lengths: Tensor,
        embedding_dim: int,
        padding_idx: int | None = None,
        sparse: bool = False,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(len(lengths), embedding_dim, padding_idx)
        ends = lengths.cumsum(0)
        self.sparse, self.std = sparse, std
        self.register_buffer("lengths", lengths.to(device, smallest_dtype(embedding_dim)))
        self.register_buffer("blocks", (ends - lengths)[::BLOCK].to(device, copy=True))
        self.values = nn.Parameter(torch.empty(int(ends[-1]), device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the normal start."""
        self.values.normal_(0, self.std)

    @abstractmethod
    def _columns(self, entries: Tensor, first: Tensor) -> Tensor:
        """Columns (T,) int64 of entries (T,) of ``values``, in rows that begin at first (T,)."""

    def _lookup(self, ids: Tensor) -> Tensor:
        first, lengths = row_starts(ids, self.blocks, self.lengths), self.lengths[ids].long()
        # Entry t of the output belongs to row owner[t] and stands at entries[t] in values.
        owner = torch.repeat_interleave(lengths)
        before = lengths.cumsum(0) - lengths
        entries = torch.arange(len(owner), device=ids.device) + (first - before)[owner]
        values = self.values.gather(0, entries, sparse_grad=self.sparse)
        return self._spread(values, entries, owner, first)

    def _all_rows(self) -> Tensor:
        lengths = self.lengths.long()
        first = lengths.cumsum(0) - lengths
        owner = torch.repeat_interleave(lengths)
        return self._spread(
            self.values, torch.arange(len(owner), device=owner.device), owner, first
        )

    def _spread(self, values: Tensor, entries: Tensor, owner: Tensor, first: Tensor) -> Tensor:
        places = owner * self.embedding_dim + self._columns(entries, first[owner])
        flat = values.new_zeros(len(first) * self.embedding_dim)
        return flat.scatter(0, places, values).view(len(first), self.embedding_dim)


def smallest_dtype(most: int) -> torch.dtype:
    """The smallest of uint8, int16 and int32 that holds 0 to ``most``."""
    return torch.uint8 if most < 2**8 else torch.int16 if most < 2**15 else torch.int32


def row_starts(ids: Tensor, blocks: Tensor, counts: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Where rows ids (m,) begin, (m,) int64: where their block does, and after those before them.

    For a few ids ``BLOCK`` counts of each are read, of so many at a time that they stay small; for
    many ids all counts are summed once.

    Args:
        ids: (m,) int64.
        blocks: (⌈n / BLOCK⌉,) int64, the start of every ``BLOCK``-th row.
        counts: (n,) integers: lengths of rows, or what ``sizes`` has the length of.
        sizes: (K + 1,) int64 lengths of rows by count.
    """
    if len(ids) > len(counts) // 8:
        lengths = counts.long() if sizes is None else sizes[counts.long()]
        return (lengths.cumsum(0) - lengths)[ids]
    if len(ids) > _AT_ONCE:
        return torch.cat([row_starts(x, blocks, counts, sizes) for x in ids.split(_AT_ONCE)])
    # Window w is counts[w : w + width], none beyond the end; a view, nothing is copied.
    width = min(BLOCK, len(counts))
    first = ids // BLOCK * BLOCK
    window = first.clamp(max=len(counts) - width)
    near = counts.unfold(0, width, 1)[window]
    if sizes is not None:
        near = sizes[near.long()]
    before = torch.arange(width, device=ids.device) + window[:, None]
    inside = (before >= first[:, None]) & (before < ids[:, None])
    return blocks[ids // BLOCK] + near.masked_fill(~inside, 0).sum(1)


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
