"""The hashing trick: ids share rows by a hash; ids that collide have the same row."""

from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table, TableSettings
from compressae.tables.compositional import CompositionalTable
from compressae.tables.partitioner import Partitions

#: A prime: hashes are (a·i + b) mod it, and a·i stays below 2^62.
_PRIME = 2**31 - 1


class HashedTable(CompositionalTable):
    """Row ``hash(i)`` of ``weight`` (m, d): Weinberger et al., "Feature hashing", ICML'09.

    A compositional table of one partition, which is not complementary.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        rows: m ≥ 1, the rows that are stored.
        seed: None for i mod m, the baseline of arXiv 1909.02107; a number for one of the universal
            hashes ((a·i + b) mod (2^31 − 1)) mod m, which scatters consecutive ids.
        **settings: padding_idx, sparse, std, device and dtype: see ``Table``. Ids that collide with
            the padding id keep their row.

    Raises:
        InputError: rows below 1, or more ids than the seeded hash distinguishes.

    >>> table = HashedTable(10, embedding_dim=2, rows=4)
    >>> torch.equal(table.rows(), table.weight[torch.arange(10) % 4])
    True
    """

    complementary = False

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rows: int,
        seed: int | None = None,
        **settings: Unpack[TableSettings],
    ) -> None:
        if rows < 1:
            raise InputError(f"a hashed table of {rows} rows: expected 1 or more")
        if seed is not None and num_embeddings > _PRIME:
            raise InputError(
                f"{num_embeddings} ids with a seeded hash: expected {_PRIME} at most; pass "
                "seed=None"
            )
        remainders = Partitions("hashing", (rows,))
        super().__init__(num_embeddings, embedding_dim, remainders, "add", **settings)
        self.seed = seed
        self._factors: tuple[int, int] | None = None
        if seed is not None:
            random = np.random.default_rng(seed)
            self._factors = (int(random.integers(1, _PRIME)), int(random.integers(_PRIME)))

    @property
    def weight(self) -> Tensor:
        """Parameter (m, d), the stored rows."""
        return self.tables[0]

    def hashes(self, ids: Tensor) -> Tensor:
        """Compute the row of ``weight`` of each id (m,), both int64."""
        if self._factors is not None:
            ids = (self._factors[0] * ids + self._factors[1]) % _PRIME
        return self.partitioner(ids)[0]

    def _lookup(self, ids: Tensor) -> Tensor:
        return functional.embedding(self.hashes(ids), self.weight, sparse=self.sparse)

    def get_extra_state(self) -> Tensor:
        """Return the hash's factors: other factors would assign other rows to ids."""
        return torch.tensor(self._factors or (1, 0))

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise InputError(
                f"the state of another hash than that of seed {self.seed}: expected the same; make "
                "the table with the seed it had"
            )

    def extra_repr(self) -> str:
        return f"{Table.extra_repr(self)}, rows={len(self.weight)}, seed={self.seed}"
