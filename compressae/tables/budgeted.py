"""Tables under a budget of entries: each row has its own width."""

from typing import Any, Self

import torch
from torch import Tensor

from compressae.retrieval.errors import InputError
from compressae.tables.base import dense_rows, padding_of
from compressae.tables.ragged import RaggedTable, check_widths


class BudgetedTable(RaggedTable):
    """Row i stores the first ``widths[i]`` of its d entries; the others are zero.

    The prefix masks of BET (arXiv 2310.14884), but only unmasked entries are stored: Σ widths
    numbers, and nine eighths of a byte a row (more above d = 255: see ``RaggedTable``).

    Args:
        widths: (n,) integers, 0 to d; see ``compressae.tables.budgets``.
        embedding_dim: d, BET's d_max.
        **settings: padding_idx, sparse, std, device and dtype: see ``Table``.

    Raises:
        InputError: widths out of range.

    >>> table = BudgetedTable.from_dense(torch.ones(3, 4), widths=[4, 0, 2])
    >>> table.rows().int().tolist()
    [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    >>> table.num_parameters
    6
    """

    @classmethod
    def from_dense(cls, source: Any, widths: Any, padding_idx: int | None = None) -> Self:
        """Copy the first ``widths[i]`` entries of trained rows; ``source`` as in ``dense_rows``.

        Raises:
            InputError: widths out of range, or not one a row.
        """
        rows = dense_rows(source)
        d, device = rows.shape[1], rows.device
        widths = check_widths(widths, d)
        if len(widths) != len(rows):
            raise InputError(f"{len(widths)} widths for {len(rows)} rows: expected one a row")
        padding_idx = padding_of(source, padding_idx)
        table = cls(widths, d, padding_idx=padding_idx, device=device, dtype=rows.dtype)
        with torch.no_grad():
            table.values.copy_(rows[torch.arange(d, device=device) < widths.to(device)[:, None]])
        return table

    @property
    def widths(self) -> Tensor:
        """(n,) int64 entries of each row."""
        return self.lengths.long()

    def _columns(self, entries: Tensor, first: Tensor) -> Tensor:
        return entries - first
