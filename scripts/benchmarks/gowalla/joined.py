"""Concatenate tables: users and items that are compressed apart."""

import torch
from torch import Tensor, nn

from compressae.retrieval.errors import InputError
from compressae.tables import Table


class JoinedTable(Table):
    """Rows of all ``tables`` in order, with consecutive ids.

    Equal to ``torch.cat([table.rows() for table in tables])[ids]``.

    Raises:
        InputError: no table, or tables of different dimensions.
    """

    def __init__(self, *tables: Table) -> None:
        dims = {table.embedding_dim for table in tables}
        if len(dims) != 1:
            raise InputError(
                f"{len(tables)} tables of {sorted(dims)} dimensions: expected one or more, all of "
                "the same"
            )
        super().__init__(sum(table.num_embeddings for table in tables), dims.pop())
        self.parts = nn.ModuleList(tables)

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(int(table.nbytes) for table in self.parts)  # type: ignore[arg-type]

    def _lookup(self, ids: Tensor) -> Tensor:
        positions, rows, start = [], [], 0
        for table in self.parts:
            stop = start + int(table.num_embeddings)  # type: ignore[arg-type]
            positions.append(((ids >= start) & (ids < stop)).nonzero()[:, 0])
            rows.append(table(ids[positions[-1]] - start))
            start = stop
        joined = torch.cat(rows)
        return torch.empty_like(joined).index_copy(0, torch.cat(positions), joined)

    def _all_rows(self) -> Tensor:
        return torch.cat([table.rows() for table in self.parts])  # type: ignore[operator]
