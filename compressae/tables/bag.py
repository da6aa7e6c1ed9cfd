"""Bags of ids, pooled after their rows are reconstructed."""

from typing import Literal

import torch
from torch import Tensor, nn

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table

Mode = Literal["sum", "mean", "max"]


class TableBag(nn.Module):
    """``torch.nn.EmbeddingBag`` over any table.

    Rows are reconstructed before they are pooled. (Pooling the parts of a compositional table first
    is equal for concat and add, but not for product.)

    Args:
        table: any table. Its ``padding_idx`` is ignored: it does not count in a mean.
        mode: "sum", "mean" or "max"; a bag without ids is zeros in each.
        include_last_offset: ``offsets`` ends with one more number, the number of ids.

    >>> from compressae.tables import FullTable
    >>> bag = TableBag(FullTable.from_dense(torch.tensor([[1.0, 2], [3, 4]])), mode="mean")
    >>> bag(torch.tensor([0, 1, 1]), offsets=torch.tensor([0, 2])).tolist()
    [[2.0, 3.0], [3.0, 4.0]]
    """

    def __init__(
        self, table: Table, mode: Mode = "mean", include_last_offset: bool = False
    ) -> None:
        super().__init__()
        if mode not in ("sum", "mean", "max"):
            raise InputError(f"mode {mode!r}: expected sum, mean or max")
        self.table, self.mode, self.include_last_offset = table, mode, include_last_offset

    def forward(
        self,
        ids: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Pool rows (B, d).

        Args:
            ids: (B, L), or (T,) with ``offsets``; int32 or int64.
            offsets: (B,) start of each bag in ids (T,): ascending from 0; the last bag ends at T.
            per_sample_weights: weights of the shape of ids, for "sum".

        Raises:
            InputError: shapes or offsets that do not match, weights with another mode than sum.
        """
        bags, count = self._bags(ids, offsets)
        if per_sample_weights is not None:
            if self.mode != "sum":
                raise InputError(f"per_sample_weights with mode {self.mode!r}: expected sum")
            if per_sample_weights.shape != ids.shape:
                raise InputError(
                    f"per_sample_weights {tuple(per_sample_weights.shape)}: expected "
                    f"{tuple(ids.shape)}, one for each id"
                )
            per_sample_weights = per_sample_weights.reshape(-1)
        ids = ids.reshape(-1)
        if self.table.padding_idx is not None:
            real = ids != self.table.padding_idx
            ids, bags = ids[real], bags[real]
            if per_sample_weights is not None:
                per_sample_weights = per_sample_weights[real]
        rows = self.table(ids)
        if per_sample_weights is not None:
            rows = rows * per_sample_weights[:, None]
        pooled = rows.new_zeros(count, rows.shape[1])
        if self.mode == "max":
            return pooled.scatter_reduce(
                0, bags[:, None].expand_as(rows), rows, "amax", include_self=False
            )
        pooled = pooled.index_add(0, bags, rows)
        if self.mode == "mean":
            pooled = pooled / torch.bincount(bags, minlength=count).clamp(min=1)[:, None]
        return pooled

    def _bags(self, ids: Tensor, offsets: Tensor | None) -> tuple[Tensor, int]:
        """Return the bag of each id (T,) int64 and the number of bags."""
        if ids.ndim == 2 and offsets is None:
            bags = torch.arange(len(ids), device=ids.device)
            return bags.repeat_interleave(ids.shape[1]), len(ids)
        if ids.ndim != 1 or offsets is None or offsets.ndim != 1:
            shape = "none" if offsets is None else str(tuple(offsets.shape))
            raise InputError(
                f"ids {tuple(ids.shape)}, offsets {shape}: expected ids (B, L) alone, or ids (T,) "
                "with offsets (B,)"
            )
        ends = offsets.long()
        if not self.include_last_offset:
            ends = torch.cat((ends, ends.new_tensor([len(ids)])))
        lengths = ends.diff()
        covering = len(ends) and int(ends[0]) == 0 and int(ends[-1]) == len(ids)
        if not covering or bool((lengths < 0).any()):
            raise InputError(
                f"offsets {offsets.tolist() if len(offsets) < 10 else '…'}: expected ascending "
                f"numbers from 0 to {len(ids)}, the first 0"
            )
        return torch.repeat_interleave(lengths), len(lengths)
