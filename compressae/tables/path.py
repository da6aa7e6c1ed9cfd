"""Path-based compositional tables: a shared row passes through small maps chosen by the id."""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table, TableSettings
from compressae.tables.partitioner import Partitioner, Partitions


class PathTable(Table):
    """Row i = M_k,p_k(i)( … M_2,p_2(i)(W[p_1(i)])), the partitions p complementary.

    Section 4.1 of arXiv 1909.02107. Each map M(z) = B·relu(A·z + a) + b has one hidden layer and
    2·d·hidden + hidden + d numbers, and every class of the second and later partitions has its own
    map: choose few classes there. Weights start normal about zero, scaled so that a row's entries
    have variance std² on average; biases start at zero. Gradients are dense, as a batch of rows
    passes through most maps.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        partitions: as in ``CompositionalTable``; None for i mod ⌈n/4⌉ and i // ⌈n/4⌉, so that four
            ids share a row.
        hidden: width of the maps' hidden layer.
        **settings: padding_idx, std, device and dtype: see ``Table``.

    Raises:
        InputError: partitions that are not complementary, hidden below 1, or sparse gradients.

    >>> table = PathTable(100, embedding_dim=8, hidden=4)
    >>> table.base.shape, [maps.shape for maps in table.inner]
    (torch.Size([25, 8]), [torch.Size([4, 4, 8])])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        partitions: Partitions | Sequence[Any] | None = None,
        hidden: int = 16,
        **settings: Unpack[TableSettings],
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, **settings)
        if hidden < 1:
            raise InputError(f"hidden {hidden}: expected 1 or more")
        if self.sparse:
            raise InputError("sparse gradients of a path table: expected sparse=False")
        if partitions is None:
            rows = -(-num_embeddings // 4)
            partitions = Partitions("quotient-remainder", (rows, -(-num_embeddings // rows)))
        self.partitioner = Partitioner(num_embeddings, partitions)
        self.hidden = hidden
        first, *others = self.partitioner.sizes
        self.base = self._empty(first, embedding_dim)
        self.inner = nn.ParameterList(self._empty(m, hidden, embedding_dim) for m in others)
        self.inner_bias = nn.ParameterList(self._empty(m, hidden) for m in others)
        self.outer = nn.ParameterList(self._empty(m, embedding_dim, hidden) for m in others)
        self.outer_bias = nn.ParameterList(self._empty(m, embedding_dim) for m in others)
        self.partitioner.to(self._factory["device"])
        self.reset_parameters()

    @staticmethod
    def entries_of(partitions: Partitions, embedding_dim: int, hidden: int = 16) -> int:
        """Count the numbers of a table of these partitions."""
        first, *others = partitions.sizes
        a_map = 2 * embedding_dim * hidden + hidden + embedding_dim
        return first * embedding_dim + sum(others) * a_map

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights from normal distributions and set biases to zero."""
        self.base.normal_(0, self.std)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            inner.normal_(0, (2 / self.embedding_dim) ** 0.5)  # relu halves the mean square.
            outer.normal_(0, (1 / self.hidden) ** 0.5)
        for bias in [*self.inner_bias, *self.outer_bias]:
            bias.zero_()

    def _lookup(self, ids: Tensor) -> Tensor:
        first, *others = self.partitioner(ids)
        rows = functional.embedding(first, self.base)
        for j, classes in enumerate(others):
            rows = self._apply_maps(rows, classes, j)
        return rows

    def _apply_maps(self, rows: Tensor, classes: Tensor, j: int) -> Tensor:
        """Apply to each of rows (m, d) the map of its class (m,), one class after another."""
        if not len(rows):
            return rows
        order = classes.argsort()
        counts = torch.bincount(classes, minlength=len(self.inner[j])).tolist()
        # Unbound once: the gradient of each maps[c] alone would be as large as all of them.
        lists = (self.inner, self.inner_bias, self.outer, self.outer_bias)
        maps = [weights[j].unbind() for weights in lists]
        mapped = [
            functional.linear(functional.relu(functional.linear(part, a, a_bias)), b, b_bias)
            for part, a, a_bias, b, b_bias in zip(rows[order].split(counts), *maps, strict=True)
            if len(part)
        ]
        mapped_rows = torch.cat(mapped).to(rows.dtype)  # Autocast maps in fewer bits.
        return torch.empty_like(rows).index_copy(0, order, mapped_rows)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.partitioner.extra_repr()}, hidden={self.hidden}"
