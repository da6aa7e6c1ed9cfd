"""Compositional tables: a row is combined from one row of each of several small tables."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table
from compressae.tables.partitioner import Partitioner, Partitions, partition

Combine = Literal["concat", "add", "product"]
_COMBINE = ("concat", "add", "product")


class CompositionalTable(Table):
    """Row i = W_1[p_1(i)] ∘ … ∘ W_k[p_k(i)], the partitions p complementary (arXiv 1909.02107).

    The start is normal about zero, of a spread at which the combined row's entries have standard
    deviation ``std``: std itself for concat, std / √k for add, std^(1/k) for product. (Public code
    draws from U(√(1/n), 1), all positive, which makes rows nearly parallel.)

    Args:
        num_embeddings: n.
        embedding_dim: d.
        partitions: from ``partition``, or ``Partitions`` of chosen sizes, or one integer tensor
            (n,) of classes for each partition; the leanest quotient and remainder for None.
        combine: "concat" (each table has a share of the dimensions), "add" or "product".
        padding_idx: see ``Table``; ids that share rows with it keep theirs.
        sparse: gradients as sparse tensors, of the looked-up rows alone.
        std: of the combined row's entries at the start.
        device, dtype: of the tables.

    Raises:
        InputError: partitions that are not complementary, more of them than dimensions to
            concatenate, or another combination.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        partitions: Partitions | Sequence[Any] | None = None,
        combine: Combine = "product",
        padding_idx: int | None = None,
        sparse: bool = False,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        given = partition(num_embeddings) if partitions is None else partitions
        self.partitioner = Partitioner(num_embeddings, given)
        sizes, k = self.partitioner.sizes, len(self.partitioner.sizes)
        if combine not in _COMBINE:
            raise InputError(f"combine {combine!r}: expected concat, add or product")
        if combine == "concat" and k > embedding_dim:
            raise InputError(
                f"{k} tables to concatenate in {embedding_dim} dimensions: expected "
                f"{embedding_dim} at most"
            )
        widths = [embedding_dim] * k
        if combine == "concat":
            widths = _shares(embedding_dim, k)
        self.combine, self.sparse, self.std = combine, sparse, std
        self.tables = nn.ParameterList(
            torch.empty(size, width, device=device, dtype=dtype)
            for size, width in zip(sizes, widths, strict=True)
        )
        self.partitioner.to(device)
        self.reset_parameters()

    @classmethod
    def within(
        cls,
        num_embeddings: int,
        embedding_dim: int,
        entries: int,
        kind: Literal[
            "quotient-remainder", "mixed-radix", "chinese-remainder"
        ] = "quotient-remainder",
        parts: int = 2,
        combine: Combine = "product",
        **settings: Any,
    ) -> "CompositionalTable":
        """Such tables of at most ``entries`` numbers, the first as large as can be; ``settings`` as
        above.

        Raises:
            InputError: too few for tables that tell all ids apart.
        """
        width = max(_shares(embedding_dim, parts)) if combine == "concat" else embedding_dim
        found = partition(num_embeddings, kind, parts, rows=entries // width)
        return cls(num_embeddings, embedding_dim, found, combine, **settings)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the normal start."""
        k = len(self.tables)
        spread = {"concat": self.std, "add": self.std / k**0.5, "product": self.std ** (1 / k)}
        for table in self.tables:
            table.normal_(0, spread[self.combine])

    def _lookup(self, ids: Tensor) -> Tensor:
        rows = [
            functional.embedding(classes, table, sparse=self.sparse)
            for classes, table in zip(self.partitioner(ids), self.tables, strict=True)
        ]
        if self.combine == "concat":
            return torch.cat(rows, dim=1)
        combined = rows[0]
        for one in rows[1:]:
            combined = combined + one if self.combine == "add" else combined * one
        return combined

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.partitioner.extra_repr()}, {self.combine}"


def _shares(d: int, parts: int) -> list[int]:
    """d dimensions in even parts, the first ones larger by one where they do not divide."""
    return [d // parts + (j < d % parts) for j in range(parts)]
