"""Path-based compositional tables: a shared row is sent through small maps chosen by the id."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table
from compressae.tables.partitioner import Partitioner, Partitions


class PathTable(Table):
    """Row i = M_k,p_k(i)( … M_2,p_2(i)(W[p_1(i)])), the partitions p complementary.

    Section 4.1 of arXiv 1909.02107. Each map M(z) = B·relu(A·z + a) + b has one hidden layer and
    2·d·hidden + hidden + d numbers, and every class of the second and later partitions has its own:
    let these have few classes. Weights start normal about zero, so scaled that a row's entries have
    variance std² on average; biases start at zero. Gradients are dense: a batch of rows goes
    through most maps.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        partitions: as in ``CompositionalTable``; None for i mod ⌈n/4⌉ and i // ⌈n/4⌉, so that four
            ids share a row.
        hidden: width of the maps' hidden layer.
        padding_idx: see ``Table``.
        std: of the rows' entries at the start.
        device, dtype: of the parameters.

    Raises:
        InputError: partitions that are not complementary, or hidden below 1.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        partitions: Partitions | Sequence[Any] | None = None,
        hidden: int = 16,
        padding_idx: int | None = None,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        if hidden < 1:
            raise InputError(f"hidden {hidden}: expected 1 or more")
        if partitions is None:
            rows = -(-num_embeddings // 4)
            partitions = Partitions("quotient-remainder", (rows, -(-num_embeddings // rows)))
        self.partitioner = Partitioner(num_embeddings, partitions)
        self.hidden, self.std = hidden, std
        first, *others = self.partitioner.sizes

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=dtype)

        self.base = nn.Parameter(empty(first, embedding_dim))
        self.inner = nn.ParameterList(empty(m, hidden, embedding_dim) for m in others)
        self.inner_bias = nn.ParameterList(empty(m, hidden) for m in others)
        self.outer = nn.ParameterList(empty(m, embedding_dim, hidden) for m in others)
        self.outer_bias = nn.ParameterList(empty(m, embedding_dim) for m in others)
        self.partitioner.to(device)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the normal start."""
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
            rows = self._through(rows, classes, j)
        return rows

    def _through(self, rows: Tensor, classes: Tensor, j: int) -> Tensor:
        """Rows (m, d), each through the map of its class (m,), one class after another."""
        if not len(rows):
            return rows
        order = classes.argsort()
        counts = torch.bincount(classes, minlength=len(self.inner[j])).tolist()
        # Unbound once: the gradient of each maps[c] alone would be as large as all of them.
        maps = [
            held[j].unbind() for held in (self.inner, self.inner_bias, self.outer, self.outer_bias)
        ]
        sent = [
            functional.linear(functional.relu(functional.linear(part, a, a_bias)), b, b_bias)
            for part, a, a_bias, b, b_bias in zip(rows[order].split(counts), *maps, strict=True)
            if len(part)
        ]
        return torch.empty_like(rows).index_copy(0, order, torch.cat(sent))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.partitioner.extra_repr()}, hidden={self.hidden}"
