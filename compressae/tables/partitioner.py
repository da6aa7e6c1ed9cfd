"""Partitions of ids, chosen, checked, and applied to tensors.

Shi et al., "Compositional embeddings using complementary partitions", arXiv 1909.02107.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from compressae.retrieval.baselines.partitions import Kind, Partitions, leanest, partitions
from compressae.retrieval.errors import InputError

_RULES = (*get_args(Kind), "given")

__all__ = ["Partitioner", "Partitions", "find_collision", "partition"]


def partition(
    n: int,
    kind: Literal["quotient-remainder", "mixed-radix", "chinese-remainder"] = "quotient-remainder",
    parts: int = 2,
    rows: int | None = None,
) -> Partitions:
    """Complementary partitions of n ids.

    Args:
        n: ids.
        kind: "quotient-remainder" (i mod m and i // m), "mixed-radix" (digits of i, of any number)
            or "chinese-remainder" (i mod sizes that are coprime).
        parts: partitions; 2 for "quotient-remainder".
        rows: classes of all partitions together, at most; the first partition is then as large as
            can be. None for the fewest.

    Raises:
        InputError: there are no such partitions.
    """
    if kind not in ("quotient-remainder", "mixed-radix", "chinese-remainder"):
        raise InputError(
            f"partition {kind!r}: expected quotient-remainder, mixed-radix or chinese-remainder"
        )
    if parts < 1 or (kind == "quotient-remainder" and parts != 2):
        raise InputError(
            f"{parts} partitions, {kind}: expected 2 for quotient-remainder, 1 or more for others"
        )
    if rows is None:
        return leanest(kind, n, parts)
    found = partitions(kind, n, parts, rows)
    if found is None:
        raise InputError(
            f"{rows} rows: too few for {parts} tables that tell {n} ids apart, {kind}; expected "
            f"{sum(leanest(kind, n, parts).sizes)} or about that"
        )
    return found


def find_collision(classes: Partitions | Sequence[Any], n: int) -> tuple[int, int] | None:
    """Two of ids 0 to n − 1 that are in the same class of every partition; None if complementary.

    Args:
        classes: partitions by arithmetic, or one array (n,) of classes for each partition.
        n: ids.

    Raises:
        InputError: an array that is not (n,).
    """
    if isinstance(classes, Partitions):
        return (0, classes.period) if classes.period < n else None
    together = np.zeros(n, np.int64)
    for j, one in enumerate(classes):
        if (shape := np.shape(one)) != (n,):
            raise InputError(f"partition {j}: {shape}; expected ({n},), the class of each id")
        ranks = np.unique(np.asarray(one), return_inverse=True)[1].reshape(-1)
        # Both are below n: their pair is a number below n², and its rank below n again.
        pairs = together * (int(ranks.max()) + 1) + ranks
        together = np.unique(pairs, return_inverse=True)[1].reshape(-1)
    order = together.argsort(kind="stable")
    equal = np.flatnonzero(np.diff(together[order]) == 0)
    return (int(order[equal[0]]), int(order[equal[0] + 1])) if len(equal) else None


class Partitioner(nn.Module):
    """Classes of ids in complementary partitions; those given as arrays are held as int32 buffers.

    Args:
        n: ids.
        given: partitions by arithmetic, or one integer tensor or array (n,) for each partition,
            of classes from 0 on.

    Attributes:
        sizes: classes of each partition.

    Raises:
        InputError: they are not complementary (the message names two ids that collide), or no
            arrays of n classes.
    """

    def __init__(self, n: int, given: Partitions | Sequence[Any]) -> None:
        super().__init__()
        self._rule = given if isinstance(given, Partitions) else None
        if isinstance(given, Partitions):
            self.sizes = given.sizes
        else:
            held = [_check_classes(one, n, j) for j, one in enumerate(given)]
            self.sizes = tuple(int(one.max()) + 1 for one in held)
            given = held
            for j, one in enumerate(held):
                self.register_buffer(f"classes_{j}", one.int())
        if not self.sizes:
            raise InputError("no partition: expected one or more")
        collision = find_collision(given, n)
        if collision is not None:
            raise InputError(
                f"partitions are not complementary: ids {collision[0]} and {collision[1]} are in "
                "the same class of each; expected any two ids to differ in one; give more classes"
            )

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Classes (m,) int64 of ids (m,) int64, one tensor a partition."""
        if self._rule is not None:
            return self._rule.classes(ids)
        return [self.get_buffer(f"classes_{j}")[ids].long() for j in range(len(self.sizes))]

    def get_extra_state(self) -> Tensor:
        """The rule and its sizes: by another one each id would have another's rows."""
        return torch.tensor([_RULES.index(self._rule.kind if self._rule else "given"), *self.sizes])

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.get_extra_state()):
            rule, *sizes = state.tolist()
            raise InputError(
                f"the state of partitions {_RULES[rule]} {'+'.join(map(str, sizes))} for a table "
                f"of {self.extra_repr()}: expected the same; make the table with them"
            )

    def extra_repr(self) -> str:
        return f"{self._rule.kind if self._rule else 'given'} {'+'.join(map(str, self.sizes))}"


def _check_classes(given: Any, n: int, j: int) -> Tensor:
    classes = torch.as_tensor(given).detach().cpu()
    whole = not classes.is_floating_point() and classes.dtype != torch.bool
    if classes.shape != (n,) or not whole or int(classes.min()) < 0:
        raise InputError(
            f"partition {j}: {tuple(classes.shape)} of {classes.dtype}; expected whole numbers of "
            f"0 or more ({n},), the class of each id"
        )
    return classes.long()
