"""Magnitude pruning of a trained table, with a minimum of entries in each row."""

from typing import Any, Self, Unpack

import torch
from torch import Tensor

from compressae.kernels.packed import ROW_BLOCK
from compressae.retrieval.errors import InputError
from compressae.tables.base import TableSettings, dense_rows, padding_of
from compressae.tables.ragged import RaggedTable, smallest_dtype


class PrunedTable(RaggedTable):
    """Rows with entries at fixed columns, zeros elsewhere: compressed sparse rows, trainable.

    Stores Σ entries numbers, one byte each for their columns (two above d = 256, four above 32,768)
    and nine eighths of a byte a row (more above d = 255: see ``RaggedTable``).

    Args:
        mask: (n, d) bool, the entries to store.
        **settings: padding_idx, sparse, std, device and dtype: see ``Table``.

    Raises:
        InputError: the mask is not (n, d) of bool.

    >>> rows = torch.tensor([[0.5, -3, 1], [0.1, 0, 0.2]])
    >>> PrunedTable.from_dense(rows, entries=3, floor=1).rows().tolist()
    [[0.0, -3.0, 1.0], [0.0, 0.0, 0.20000000298023224]]
    """

    columns: Tensor

    def __init__(self, mask: Tensor, **settings: Unpack[TableSettings]) -> None:
        if mask.ndim != 2 or mask.dtype != torch.bool:
            raise InputError(f"mask {tuple(mask.shape)} of {mask.dtype}: expected (n, d) of bool")
        d = mask.shape[1]
        super().__init__(mask.sum(1), d, **settings)
        columns = mask.nonzero()[:, 1].to(self.values.device, smallest_dtype(d - 1))
        self.register_buffer("columns", columns)

    @classmethod
    def from_dense(
        cls, source: Any, entries: int, floor: int = 1, padding_idx: int | None = None
    ) -> Self:
        """Store the ``entries`` largest |entries| of trained rows, but at least ``floor`` a row.

        The strong and simple baseline of arXiv 2406.17335. Ties go to the first entry.

        Args:
            source: as in ``dense_rows``.
            entries: to store in all; n · d at most.
            floor: minimum of entries in each row, 0 to d.
            padding_idx: see ``Table``.

        Raises:
            InputError: the budget is below the floor of all rows.
        """
        rows = dense_rows(source)
        n, d = rows.shape
        if not 0 <= floor <= d:
            raise InputError(f"floor {floor}: expected 0 to {d}, the table's dimensions")
        if entries < n * floor:
            raise InputError(
                f"{entries} entries for {n} rows of {floor} at least: expected {n * floor} or "
                "more; allow more, or a lower floor"
            )
        sizes = rows.abs()
        best = sizes.argsort(dim=1, descending=True, stable=True)[:, :floor]
        mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, True)
        rest = sizes.masked_fill(mask, -1).flatten().argsort(descending=True, stable=True)
        mask.view(-1)[rest[: min(entries, n * d) - n * floor]] = True
        padding_idx = padding_of(source, padding_idx)
        table = cls(mask, padding_idx=padding_idx, device=rows.device, dtype=rows.dtype)
        with torch.no_grad():
            table.values.copy_(rows[mask])
        return table

    @staticmethod
    def most_entries(n: int, d: int, nbytes: int, value_bytes: int = 4) -> int:
        """Count the entries of a table (n, d) that fit ``nbytes``; below 0 if none do."""
        column = smallest_dtype(d - 1).itemsize
        return (nbytes - PrunedTable.bytes_of(n, d, 0)) // (value_bytes + column)

    @staticmethod
    def bytes_of(n: int, d: int, entries: int, value_bytes: int = 4) -> int:
        """Count the bytes of a table (n, d) of so many entries."""
        column, length = smallest_dtype(d - 1).itemsize, smallest_dtype(d).itemsize
        return entries * (value_bytes + column) + n * length + 8 * -(-n // ROW_BLOCK)

    def _columns(self, entries: Tensor, first: Tensor) -> Tensor:
        return self.columns[entries].long()
