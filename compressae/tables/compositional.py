"""Compositional tables: a row combines one row of each of several small tables."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table, TableSettings
from compressae.tables.partitioner import Complementary, Partitioner, Partitions, partition

Combine = Literal["concat", "add", "product"]


class CompositionalTable(Table):
    """Row i = W_1[p_1(i)] ∘ … ∘ W_k[p_k(i)], the partitions p complementary (arXiv 1909.02107).

    Parameters start normal about zero, with a spread that gives the combined row's entries standard
    deviation ``std``: std itself for concat, std / √k for add, std^(1/k) for product. (Public code
    draws from U(√(1/n), 1), all positive, which makes rows nearly parallel.)

    Args:
        num_embeddings: n.
        embedding_dim: d.
        partitions: from ``partition``, or ``Partitions`` of chosen sizes, or one integer tensor
            (n,) of classes for each partition; None for the fewest rows by quotient and remainder.
        combine: "concat" (each table has a share of the dimensions), "add" or "product".
        **settings: padding_idx, sparse, std, device and dtype: see ``Table``. Ids that share rows
            with the padding id keep theirs.

    Raises:
        InputError: partitions that are not complementary, more of them than dimensions to
            concatenate, or another combination.

    >>> table = CompositionalTable(12, embedding_dim=2, combine="add")
    >>> remainder, quotient = table.tables
    >>> torch.equal(table(torch.tensor([7])), remainder[7 % 4 :][:1] + quotient[7 // 4 :][:1])
    True
    >>> table
    CompositionalTable(12, 2, parameters=14, nbytes=56, quotient-remainder 4+3, add)
    """

    #: Whether any two ids have to differ in one partition.
    complementary = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        partitions: Partitions | Sequence[Any] | None = None,
        combine: Combine = "product",
        **settings: Unpack[TableSettings],
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, **settings)
        if partitions is None:
            partitions = partition(num_embeddings)
        self.partitioner = Partitioner(num_embeddings, partitions, self.complementary)
        sizes, k = self.partitioner.sizes, len(self.partitioner.sizes)
        if combine not in ("concat", "add", "product"):
            raise InputError(f"combine {combine!r}: expected concat, add or product")
        if combine == "concat" and k > embedding_dim:
            raise InputError(
                f"{k} tables to concatenate in {embedding_dim} dimensions: expected "
                f"{embedding_dim} at most"
            )
        self.combine = combine
        widths = _widths(embedding_dim, k, combine)
        self.tables = nn.ParameterList(map(self._empty, sizes, widths))
        self.partitioner.to(self._factory["device"])
        self.reset_parameters()

    @staticmethod
    def within(
        num_embeddings: int,
        embedding_dim: int,
        entries: int,
        kind: Complementary = "quotient-remainder",
        parts: int = 2,
        combine: Combine = "product",
        **settings: Unpack[TableSettings],
    ) -> "CompositionalTable":
        """Make tables of at most ``entries`` numbers in all, the first table the largest.

        ``kind`` and ``parts`` are those of ``partition``, the other arguments those of the class.

        Raises:
            InputError: too few entries for tables that distinguish all ids.
        """
        n, d = num_embeddings, embedding_dim
        width = max(_widths(d, parts, combine), default=1)
        partitions = partition(n, kind, parts, rows=entries // width)
        return CompositionalTable(n, d, partitions, combine, **settings)

    @staticmethod
    def entries_of(partitions: Partitions, embedding_dim: int, combine: Combine = "product") -> int:
        """Count the numbers of a table of these partitions."""
        widths = _widths(embedding_dim, len(partitions.sizes), combine)
        return sum(size * width for size, width in zip(partitions.sizes, widths, strict=True))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all tables from a normal distribution."""
        k = len(self.tables)
        spread = {"concat": self.std, "add": self.std / k**0.5, "product": self.std ** (1 / k)}
        for table in self.tables:
            table.normal_(0, spread[self.combine])

    def _lookup(self, ids: Tensor) -> Tensor:
        parts = [
            functional.embedding(classes, table, sparse=self.sparse)
            for classes, table in zip(self.partitioner(ids), self.tables, strict=True)
        ]
        if self.combine == "concat":
            return torch.cat(parts, dim=1)
        rows = parts[0]
        for part in parts[1:]:
            rows = rows + part if self.combine == "add" else rows * part
        return rows

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.partitioner.extra_repr()}, {self.combine}"


def _widths(d: int, parts: int, combine: Combine) -> list[int]:
    """Dimensions of each table: all, or for concat even shares, the first ones larger by one."""
    if combine != "concat":
        return [d] * parts
    return [d // parts + (j < d % parts) for j in range(parts)]
