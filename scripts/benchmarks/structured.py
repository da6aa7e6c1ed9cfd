"""Structured pruning: a group lasso over dimensions, which a schedule drops during training."""

from typing import Any

import torch
from torch import Tensor, nn

from compressae.tables import FullTable, Table


class ShrinkingTable(FullTable):
    """A full table that loses dimensions during training: ``weight`` (n, d), ``alive`` (d,) bool.

    The rows are ``weight * alive``; outside of training only the ``keep`` columns of the largest
    norms count, so that validation judges what ``export`` would store. After each update at
    learning rate r, a proximal step on λ·√n·Σ_j ‖w_j‖, the group lasso (Yuan and Lin 2006) with a
    group a column w_j (n,):

        w_j ← w_j · max(0, 1 − r·λ / rms(w_j)),    rms(w_j) = ‖w_j‖ / √n

    Then the columns of the smallest norms are dropped for good, so that at a share t of all steps
    keep + (d − keep)·(1 − min(1, 2·t))³ are left: the cubic schedule of arXiv 1710.01878 over the
    first half of training.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        keep: dimensions left at the end.
        strength: λ.
        **settings: see ``Table``.
    """

    alive: Tensor

    def __init__(
        self, num_embeddings: int, embedding_dim: int, keep: int, strength: float, **settings: Any
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, **settings)
        self.keep, self.strength = keep, strength
        self.register_buffer("alive", torch.ones(embedding_dim, dtype=torch.bool))

    @torch.no_grad()
    def after_step(self, step: int, steps: int, rate: float) -> None:
        """Shrink all columns and drop the smallest, after update ``step`` of ``steps``."""
        rms = self.weight.square().mean(0).sqrt()
        self.weight.mul_((1 - rate * self.strength / rms.clamp(min=1e-12)).clamp(min=0))
        left = max(0.0, 1 - 2 * step / steps) ** 3
        count = self.keep + round((self.embedding_dim - self.keep) * left)
        self.alive &= self._largest(count)

    @torch.no_grad()
    def _largest(self, count: int) -> Tensor:
        """The living columns of the largest norms, (d,) bool."""
        norms = self.weight.norm(dim=0).masked_fill(~self.alive, -1)
        order = norms.argsort(descending=True, stable=True)
        return torch.zeros_like(self.alive).index_fill(0, order[:count], True)

    def _columns(self) -> Tensor:
        return self.alive if self.training else self._largest(self.keep)

    def export(self) -> "ColumnTable":
        """The ``keep`` largest columns, in float16."""
        columns = self._largest(self.keep).nonzero()[:, 0]
        return ColumnTable(self.weight.detach()[:, columns].half(), columns, self.embedding_dim)

    def _lookup(self, ids: Tensor) -> Tensor:
        return super()._lookup(ids) * self._columns()

    def _all_rows(self) -> Tensor:
        return self.weight * self._columns()


class ColumnTable(Table):
    """Some columns (n, c) of a table of d, zeros elsewhere; rows in float32, not trainable.

    Args:
        weight: (n, c) float16.
        columns: (c,) their places, 0 to d − 1.
        embedding_dim: d.
    """

    columns: Tensor

    def __init__(self, weight: Tensor, columns: Tensor, embedding_dim: int) -> None:
        super().__init__(len(weight), embedding_dim)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("columns", columns.to(torch.int16))

    @staticmethod
    def bytes_of(n: int, c: int) -> int:
        """Bytes of c columns in float16."""
        return 2 * c * (n + 1)

    def _lookup(self, ids: Tensor) -> Tensor:
        rows = torch.zeros(len(ids), self.embedding_dim)
        return rows.index_copy(1, self.columns.long(), self.weight[ids].float())
