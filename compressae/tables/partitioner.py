"""Partitions of ids: chosen, checked, and applied to tensors.

Shi et al., "Compositional embeddings using complementary partitions", arXiv 1909.02107.
"""

from collections.abc import Sequence
from math import ceil, gcd
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from compressae.retrieval.baselines.partitions import Kind, Partitions, leanest, partitions
from compressae.retrieval.errors import InputError

Complementary = Literal["quotient-remainder", "mixed-radix", "chinese-remainder"]

_RULES = (*get_args(Kind), "custom")


def partition(
    n: int,
    kind: Complementary = "quotient-remainder",
    parts: int = 2,
    rows: int | None = None,
    collisions: float | None = None,
) -> Partitions:
    """Choose complementary partitions of n ids.

    Args:
        n: ids.
        kind: "quotient-remainder" (i mod m and i // m), "mixed-radix" (digits of i, of any number)
            or "chinese-remainder" (i mod sizes that are coprime).
        parts: partitions; 2 for "quotient-remainder".
        rows: most classes of all partitions together, the first partition as large as they allow;
            None for the fewest.
        collisions: in place of ``rows``: ids that share a class of the first partition, 1 or more.
            It has ⌈n / collisions⌉ classes (slightly more where sizes are coprime), the others the
            fewest that distinguish its ids.

    Raises:
        InputError: there are no such partitions.

    >>> partition(1000, "mixed-radix", parts=3).sizes
    (10, 10, 10)
    >>> partition(1000, rows=130).sizes
    (121, 9)
    >>> partition(1000, "chinese-remainder", collisions=4).sizes
    (251, 4)
    """
    if kind not in get_args(Complementary):
        raise InputError(
            f"partition {kind!r}: expected quotient-remainder, mixed-radix or chinese-remainder"
        )
    if parts < 1 or (kind == "quotient-remainder" and parts != 2):
        raise InputError(
            f"{parts} partitions, {kind}: expected 2 for quotient-remainder, 1 or more for others"
        )
    if collisions is not None:
        if rows is not None or parts < 2 or not 1 <= collisions < float("inf"):
            raise InputError(
                f"{collisions} collisions in {parts} partitions, rows {rows}: expected 1 or more "
                "collisions, 2 or more partitions, and no rows"
            )
        return _with_collisions(n, kind, parts, collisions)
    if rows is None:
        return leanest(kind, n, parts)
    choice = partitions(kind, n, parts, rows)
    if choice is None:
        raise InputError(
            f"{rows} rows: too few for {parts} tables that distinguish {n} ids, {kind}; expected "
            f"{sum(leanest(kind, n, parts).sizes)} or slightly more"
        )
    return choice


def _with_collisions(n: int, kind: Complementary, parts: int, collisions: float) -> Partitions:
    """Partition n ids so that at most ``collisions`` of them share the first partition's class."""
    first = ceil(n / collisions)
    others = leanest(kind, -(-n // first), parts - 1).sizes
    if kind == "chinese-remainder":
        while any(gcd(first, size) > 1 for size in others):
            first += 1
    return Partitions(kind, (first, *others))


def find_collision(classes: Partitions | Sequence[Any], n: int) -> tuple[int, int] | None:
    """Find two of ids 0 to n − 1 of the same class in every partition; None if complementary.

    Args:
        classes: partitions by arithmetic, or one array (n,) of classes for each partition.
        n: ids.

    Raises:
        InputError: an array that is not (n,).

    >>> find_collision(Partitions("chinese-remainder", (4, 6)), n=20)
    (0, 12)
    >>> find_collision([[0, 1, 0, 1], [0, 0, 1, 1]], n=4) is None
    True
    """
    if isinstance(classes, Partitions):
        return (0, classes.period) if classes.period < n else None
    joint = np.zeros(n, np.int64)
    for j, part in enumerate(classes):
        if (shape := np.shape(part)) != (n,):
            raise InputError(f"partition {j}: {shape}; expected ({n},), the class of each id")
        ranks = np.unique(np.asarray(part), return_inverse=True)[1].reshape(-1)
        # Both are below n: their pair is a number below n², and its rank below n again.
        pairs = joint * (int(ranks.max()) + 1) + ranks
        joint = np.unique(pairs, return_inverse=True)[1].reshape(-1)
    order = joint.argsort(kind="stable")
    equal = np.flatnonzero(np.diff(joint[order]) == 0)
    return (int(order[equal[0]]), int(order[equal[0] + 1])) if len(equal) else None


class Partitioner(nn.Module):
    """Compute classes of ids; arrays of classes become int32 buffers.

    Args:
        n: ids.
        rule: partitions by arithmetic, or one integer tensor or array (n,) for each partition, of
            classes from 0 on.
        complementary: whether any two ids have to differ in one partition.

    Attributes:
        sizes: classes of each partition.

    Raises:
        InputError: partitions that are not complementary (the message names two ids that collide),
            or arrays that are not n classes.
    """

    def __init__(
        self, n: int, rule: Partitions | Sequence[Any], complementary: bool = True
    ) -> None:
        super().__init__()
        self._rule = rule if isinstance(rule, Partitions) else None
        if isinstance(rule, Partitions):
            self.sizes = rule.sizes
        else:
            rule = [_check_classes(part, n, j) for j, part in enumerate(rule)]
            self.sizes = tuple(int(part.max()) + 1 for part in rule)
            for j, part in enumerate(rule):
                self.register_buffer(f"classes_{j}", part.int())
        if not self.sizes:
            raise InputError("no partition: expected one or more")
        collision = find_collision(rule, n) if complementary else None
        if collision is not None:
            raise InputError(
                f"partitions are not complementary: ids {collision[0]} and {collision[1]} are in "
                "the same class of each; expected any two ids to differ in one; use more classes"
            )

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Compute classes (m,) int64 of ids (m,) int64, one tensor a partition."""
        if self._rule is not None:
            return self._rule.classes(ids)
        return [self.get_buffer(f"classes_{j}")[ids].long() for j in range(len(self.sizes))]

    def get_extra_state(self) -> Tensor:
        """Return the rule and its sizes: another rule would assign other rows to ids."""
        return torch.tensor(
            [_RULES.index(self._rule.kind if self._rule else "custom"), *self.sizes]
        )

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.get_extra_state()):
            rule, *sizes = state.tolist()
            raise InputError(
                f"the state of partitions {_RULES[rule]} {'+'.join(map(str, sizes))} for a table "
                f"of {self.extra_repr()}: expected the same; make the table with them"
            )

    def extra_repr(self) -> str:
        return f"{self._rule.kind if self._rule else 'custom'} {'+'.join(map(str, self.sizes))}"


def _check_classes(part: Any, n: int, j: int) -> Tensor:
    classes = torch.as_tensor(part).detach().cpu()
    integers = not classes.is_floating_point() and classes.dtype != torch.bool
    if classes.shape != (n,) or not integers or int(classes.min()) < 0:
        raise InputError(
            f"partition {j}: {tuple(classes.shape)} of {classes.dtype}; expected whole numbers of "
            f"0 or more ({n},), the class of each id"
        )
    return classes.long()
