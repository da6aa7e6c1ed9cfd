"""Bags of ids: rows are combined first and pooled then."""

from typing import Literal

import torch
from torch import Tensor, nn

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table

Mode = Literal["sum", "mean", "max"]


class TableBag(nn.Module):
    """The form of ``torch.nn.EmbeddingBag`` over any table.

    Each id's row is made whole before rows are pooled: to pool a compositional table's parts first
    gives another result for the product, and for concat and add the same.

    Args:
        table: any table. Its ``padding_idx`` takes no part: it is not counted in a mean.
        mode: "sum", "mean" or "max"; a bag without ids is zeros in each.
        include_last_offset: ``offsets`` has one more number at its end, the number of ids.
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
        """Pooled rows (B, d).

        Args:
            ids: (B, L), or (T,) with ``offsets``; int32 or int64.
            offsets: (B,) where each bag starts in ids (T,), from 0 on, never falling; the last bag
                ends at T.
            per_sample_weights: of the shape of ids, by which rows are multiplied; for "sum".

        Raises:
            InputError: shapes or offsets that do not fit, weights with another mode than sum.
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
        """The bag of each id (T,) int64, and the number of bags."""
        if ids.ndim == 2 and offsets is None:
            bags = torch.arange(len(ids), device=ids.device)
            return bags.repeat_interleave(ids.shape[1]), len(ids)
        if ids.ndim != 1 or offsets is None or offsets.ndim != 1:
            given = "none" if offsets is None else str(tuple(offsets.shape))
            raise InputError(
                f"ids {tuple(ids.shape)}, offsets {given}: expected ids (B, L) alone, or ids (T,) "
                "with offsets (B,)"
            )
        ends = offsets.long()
        if not self.include_last_offset:
            ends = torch.cat((ends, ends.new_tensor([len(ids)])))
        lengths = ends.diff()
        whole = len(ends) and int(ends[0]) == 0 and int(ends[-1]) == len(ids)
        if not whole or bool((lengths < 0).any()):
            raise InputError(
                f"offsets {offsets.tolist() if len(offsets) < 10 else '…'}: expected numbers from "
                f"0 to {len(ids)}, the first of them 0, that never fall"
            )
        return torch.repeat_interleave(lengths), len(lengths)
