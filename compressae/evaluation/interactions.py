"""Interactions of a recommender: what its users have seen, and what they take next."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from compressae.retrieval.errors import InputError
from compressae.retrieval.metrics import Labels

#: Groups of items by their number of interactions, a third of the items each.
POPULARITY = ("tail", "middle", "head")


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions of q users with n items.

    Attributes:
        seen: (q, n) CSR of the pairs that are left out of results.
        held_out: (q, n) CSR of the pairs to find.
        popularity: (n,) interactions of each item, of all users.

    >>> seen = sparse.csr_array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
    >>> held_out = sparse.csr_array([[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    >>> some = Interactions.of(seen, held_out, users=np.array([0, 2]))
    >>> some.popularity, some.labels(np.arange(4))
    (array([3, 2, 1, 0]), [{2: 1.0}, {3: 1.0}])
    """

    seen: sparse.csr_array
    held_out: sparse.csr_array
    popularity: np.ndarray

    @classmethod
    def of(cls, seen: Any, held_out: Any, users: np.ndarray | None = None) -> "Interactions":
        """Interactions of some users; popularity is that of all.

        Args:
            seen, held_out: scipy sparse (all users, n); nonzeros are pairs.
            users: (q,) the users that are judged; all when None.
        """
        seen, held_out = sparse.csr_array(seen), sparse.csr_array(held_out)
        popularity = np.bincount(seen.indices, minlength=seen.shape[1])
        if users is not None:
            seen, held_out = seen[users], held_out[users]
        return cls(seen, held_out, popularity)

    def check(self, queries: int, items: int) -> None:
        """Refuse interactions of other numbers of users or items.

        Raises:
            InputError: see above, or no held-out pair.
        """
        for name, pairs in (("interactions", self.seen), ("test", self.held_out)):
            if pairs.shape != (queries, items):
                raise InputError(
                    f"{name}: pairs of {pairs.shape[0]} users and {pairs.shape[1]} items; expected "
                    f"{queries} and {items}, the queries and the items"
                )
        if not self.held_out.nnz:
            raise InputError("test: no user has an item to be found; expected some held-out pairs")

    def facts(self) -> dict[str, Any]:
        """What a report says of them."""
        return {
            "seen_pairs": int(self.seen.nnz),
            "held_out_pairs": int(self.held_out.nnz),
            "users_with_held_out_pairs": int(np.count_nonzero(np.diff(self.held_out.indptr))),
        }

    @cached_property
    def groups(self) -> np.ndarray:
        """Index into ``POPULARITY`` of each item (n,)."""
        n = len(self.popularity)
        groups = np.empty(n, np.int64)
        groups[np.argsort(self.popularity, kind="stable")] = np.arange(n) * len(POPULARITY) // n
        return groups

    def labels(self, names: np.ndarray, group: int | None = None) -> Labels:
        """Grade 1 of the held-out items of each user, by name.

        Args:
            names: (n,) names of the items.
            group: only items of this group of ``POPULARITY``.
        """
        labels = []
        for start, stop in pairwise(self.held_out.indptr):
            items = self.held_out.indices[start:stop]
            if group is not None:
                items = items[self.groups[items] == group]
            labels.append(dict.fromkeys(names[items].tolist(), 1.0))
        return labels
