"""The full table: one row of its own for each id, the measure of all others."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.tables.base import Table, dense_rows, padding_of


class FullTable(Table):
    """``weight`` (n, d); the same numbers, gradients and state dict as ``torch.nn.Embedding``.

    Unlike there the padding row's output is zeros whatever ``weight`` holds in it.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        padding_idx: see ``Table``.
        sparse: gradients as sparse tensors, of the looked-up rows alone.
        std: of the normal start; 1 as in ``nn.Embedding``.
        device, dtype: of ``weight``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        sparse: bool = False,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.sparse, self.std = sparse, std
        self.weight = nn.Parameter(
            torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype)
        )
        self.reset_parameters()

    @classmethod
    def from_dense(
        cls, source: Any, padding_idx: int | None = None, sparse: bool = False
    ) -> "FullTable":
        """A table that starts from trained rows; ``source`` as in ``dense_rows``."""
        rows = dense_rows(source)
        n, d = rows.shape
        table = cls(n, d, padding_of(source, padding_idx), sparse, device="meta")
        table.weight = nn.Parameter(rows)
        return table

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the normal start, zeros in the padding row."""
        self.weight.normal_(0, self.std)
        if self.padding_idx is not None:
            self.weight[self.padding_idx] = 0

    def _lookup(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weight, self.padding_idx, sparse=self.sparse)

    def _all_rows(self) -> Tensor:
        return self.weight
