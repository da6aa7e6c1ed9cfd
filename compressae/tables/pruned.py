"""Magnitude pruning of a trained table, with a floor under each row."""

from typing import Any

import torch
from torch import Tensor

from compressae.kernels.packed import BLOCK
from compressae.retrieval.errors import InputError
from compressae.tables.base import dense_rows, padding_of
from compressae.tables.ragged import RaggedTable, smallest_dtype


class PrunedTable(RaggedTable):
    """Entries at fixed columns of each row, the others zero: compressed sparse rows.

    Σ entries numbers, one byte each for their columns (two above d = 256, four above 32,768) and
    nine eighths of a byte a row (more above d = 255: see ``RaggedTable``). The values go on being
    trained.

    Args:
        kept: (n, d) bool, the entries that are stored.
        padding_idx, sparse, std, device, dtype: see ``RaggedTable``.

    Raises:
        InputError: ``kept`` is no mask (n, d).
    """

    columns: Tensor

    def __init__(
        self,
        kept: Tensor,
        padding_idx: int | None = None,
        sparse: bool = False,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if kept.ndim != 2 or kept.dtype != torch.bool:
            raise InputError(f"mask {tuple(kept.shape)} of {kept.dtype}: expected (n, d) of bool")
        d = kept.shape[1]
        super().__init__(kept.sum(1).cpu(), d, padding_idx, sparse, std, device, dtype)
        columns = kept.nonzero()[:, 1].to(self.values.device, smallest_dtype(d - 1))
        self.register_buffer("columns", columns)

    @classmethod
    def from_dense(
        cls,
        source: Any,
        entries: int,
        floor: int = 1,
        padding_idx: int | None = None,
        sparse: bool = False,
    ) -> "PrunedTable":
        """The ``entries`` largest |entries| of trained rows, but at least ``floor`` a row.

        The strong and simple rival of arXiv 2406.17335. Of equal ones the first are kept.

        Args:
            source: as in ``dense_rows``.
            entries: to keep in all, all of them where there are no more.
            floor: entries of each row that stay whatever their size, 0 to d.
            padding_idx, sparse: see ``RaggedTable``.

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
                "more; give more, or a lower floor"
            )
        sizes = rows.abs()
        best = sizes.argsort(dim=1, descending=True, stable=True)[:, :floor]
        kept = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, best, True)
        rest = sizes.masked_fill(kept, -1).flatten().argsort(descending=True, stable=True)
        kept.view(-1)[rest[: min(entries, n * d) - n * floor]] = True
        padding_idx = padding_of(source, padding_idx)
        table = cls(kept, padding_idx, sparse, device=rows.device, dtype=rows.dtype)
        with torch.no_grad():
            table.values.copy_(rows[kept])
        return table

    @staticmethod
    def most_entries(n: int, d: int, nbytes: int, value_bytes: int = 4) -> int:
        """The most entries of a table (n, d) within ``nbytes``; below 0 where it has too few."""
        column, length = smallest_dtype(d - 1).itemsize, smallest_dtype(d).itemsize
        return (nbytes - n * length - 8 * -(-n // BLOCK)) // (value_bytes + column)

    def _columns(self, entries: Tensor, first: Tensor) -> Tensor:
        return self.columns[entries].long()
