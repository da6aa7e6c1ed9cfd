"""The full table: one row for each id, the reference of all other tables."""

from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.tables.base import Table, TableSettings, dense_rows, padding_of


class FullTable(Table):
    """``weight`` (n, d); same numbers, gradients and state dict as ``torch.nn.Embedding``.

    Unlike ``nn.Embedding`` it outputs zeros for the padding id, whatever ``weight`` contains there.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        **settings: padding_idx, sparse, std, device and dtype: see ``Table``.

    >>> table = FullTable.from_dense(torch.tensor([[1.0, 2], [3, 4]]), padding_idx=1)
    >>> table(torch.tensor([[0, 1]])).tolist()
    [[[1.0, 2.0], [0.0, 0.0]]]
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, **settings: Unpack[TableSettings]
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, **settings)
        self.weight = self._empty(num_embeddings, embedding_dim)
        self.reset_parameters()

    @classmethod
    def from_dense(
        cls, source: Any, *arguments: Any, padding_idx: int | None = None, **settings: Any
    ) -> Self:
        """Copy trained rows (n, d); ``source`` as in ``dense_rows``, the rest as in the class."""
        rows = dense_rows(source)
        padding_idx = padding_of(source, padding_idx)
        table = cls(*rows.shape, *arguments, padding_idx=padding_idx, device="meta", **settings)
        table.weight = nn.Parameter(rows)
        return table

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw ``weight`` from a normal distribution, with zeros in the padding row."""
        self.weight.normal_(0, self.std)
        if self.padding_idx is not None:
            self.weight[self.padding_idx] = 0

    def _lookup(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weight, self.padding_idx, sparse=self.sparse)

    def _all_rows(self) -> Tensor:
        return self.weight
