"""The hashing trick: ids share rows by a hash, and those that collide are one."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table

#: A prime: hashes are (a·i + b) mod it, and a·i stays below 2^62.
_PRIME = 2**31 - 1


class HashedTable(Table):
    """Row ``hash(i)`` of ``weight`` (rows, d): Weinberger et al., "Feature hashing", ICML'09.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        rows: m ≥ 1 rows that are held.
        padding_idx: see ``Table``; its neighbours in the hash keep their row.
        seed: None for i mod m, which arXiv 1909.02107 compares with; a number for one of the
            universal hashes ((a·i + b) mod (2^31 − 1)) mod m, which scatters ids that follow one
            another.
        sparse: gradients as sparse tensors, of the looked-up rows alone.
        std: of the normal start.
        device, dtype: of ``weight``.

    Raises:
        InputError: rows below 1, or more ids than the seeded hash tells apart.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rows: int,
        padding_idx: int | None = None,
        seed: int | None = None,
        sparse: bool = False,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        if rows < 1:
            raise InputError(f"a hashed table of {rows} rows: expected 1 or more")
        if seed is not None and num_embeddings > _PRIME:
            raise InputError(
                f"{num_embeddings} ids with a seeded hash: expected {_PRIME} at most; give "
                "seed=None"
            )
        self.seed, self.sparse, self.std = seed, sparse, std
        self._factors: tuple[int, int] | None = None
        if seed is not None:
            random = np.random.default_rng(seed)
            self._factors = (int(random.integers(1, _PRIME)), int(random.integers(_PRIME)))
        self.weight = nn.Parameter(torch.empty(rows, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the normal start."""
        self.weight.normal_(0, self.std)

    def hashes(self, ids: Tensor) -> Tensor:
        """The row of ``weight`` of each id, both int64."""
        if self._factors is not None:
            ids = (self._factors[0] * ids + self._factors[1]) % _PRIME
        return ids % len(self.weight)

    def get_extra_state(self) -> Tensor:
        """The hash's factors: other ones would give each id another's row."""
        return torch.tensor(self._factors or (1, 0))

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise InputError(
                f"the state of another hash than that of seed {self.seed}: expected the same; make "
                "the table with the seed it had"
            )

    def _lookup(self, ids: Tensor) -> Tensor:
        return functional.embedding(self.hashes(ids), self.weight, sparse=self.sparse)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rows={len(self.weight)}, seed={self.seed}"
