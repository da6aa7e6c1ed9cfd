"""Tables under a budget of entries: each row keeps as many as it was given."""

from typing import Any

import torch
from torch import Tensor

from compressae.retrieval.errors import InputError
from compressae.tables.base import dense_rows, padding_of
from compressae.tables.ragged import RaggedTable, check_widths


class BudgetedTable(RaggedTable):
    """Row i has its first ``widths[i]`` of d entries, the others are zero.

    The prefix masks of BET (arXiv 2310.14884), but only what the masks leave is stored:
    Σ widths numbers, and nine eighths of a byte a row (more above d = 255: see ``RaggedTable``).

    Args:
        widths: (n,) whole numbers, 0 to d each; see ``compressae.tables.budgets``.
        embedding_dim: d, BET's d_max.
        padding_idx, sparse, std, device, dtype: see ``RaggedTable``.

    Raises:
        InputError: widths out of range.
    """

    def __init__(
        self,
        widths: Any,
        embedding_dim: int,
        padding_idx: int | None = None,
        sparse: bool = False,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        lengths = check_widths(widths, embedding_dim)
        super().__init__(lengths, embedding_dim, padding_idx, sparse, std, device, dtype)

    @classmethod
    def from_dense(
        cls, source: Any, widths: Any, padding_idx: int | None = None, sparse: bool = False
    ) -> "BudgetedTable":
        """What widths (n,) leave of trained rows; ``source`` as in ``dense_rows``.

        Raises:
            InputError: widths out of range, or not one a row.
        """
        rows = dense_rows(source)
        kept = check_widths(widths, rows.shape[1])
        if len(kept) != len(rows):
            raise InputError(f"{len(kept)} widths for {len(rows)} rows: expected one a row")
        padding_idx = padding_of(source, padding_idx)
        d, device = rows.shape[1], rows.device
        table = cls(kept, d, padding_idx, sparse, device=device, dtype=rows.dtype)
        inside = torch.arange(rows.shape[1], device=rows.device) < kept[:, None].to(rows.device)
        with torch.no_grad():
            table.values.copy_(rows[inside])
        return table

    @property
    def widths(self) -> Tensor:
        """(n,) int64."""
        return self.lengths.long()

    def _columns(self, entries: Tensor, first: Tensor) -> Tensor:
        return entries - first
