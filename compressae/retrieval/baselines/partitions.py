"""Complementary partitions of row numbers: any two rows differ in at least one of them.

Shi et al., "Compositional embeddings using complementary partitions", arXiv 1909.02107.
"""

from dataclasses import dataclass
from math import gcd, lcm, prod
from typing import Any, Literal, get_args

from compressae.retrieval.errors import InputError

Kind = Literal["quotient-remainder", "mixed-radix", "chinese-remainder", "hashing"]


@dataclass(frozen=True)
class Partitions:
    """A split of row numbers 0…n − 1 into classes, several times over.

    Attributes:
        kind: "quotient-remainder" and "mixed-radix" take the digits of i, the first the fastest;
            "chinese-remainder" takes i mod each size, which are coprime; "hashing" takes i mod its
            one size, and is not complementary.
        sizes: classes of each partition.
    """

    kind: Kind
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(
                f"partitions {self.kind!r}: expected one of {', '.join(get_args(Kind))}"
            )
        if not self.sizes or min(self.sizes) < 1:
            raise InputError(f"partitions of {self.sizes} classes: expected 1 or more of each")

    def classes(self, ids: Any) -> list[Any]:
        """The class of each row number (m,) int64 in each partition, by integer arithmetic; arrays
        of a numpy array, tensors of a tensor."""
        classes, rest = [], ids
        for size in self.sizes:
            classes.append(rest % size)
            if self.kind in ("quotient-remainder", "mixed-radix"):
                rest = rest // size
        return classes

    @property
    def period(self) -> int:
        """The least i > 0 in the same classes as 0: complementary up to that many rows."""
        if self.kind in ("chinese-remainder", "hashing"):
            return lcm(*self.sizes)
        return prod(self.sizes)


def partitions(kind: Kind, n: int, parts: int, rows: int) -> Partitions | None:
    """Partition n row numbers into at most ``rows`` classes in all, most in the first partition.

    None where there are none: complementary partitions need about parts·n^(1/parts) classes.

    >>> partitions("quotient-remainder", n=1000, parts=2, rows=110)
    Partitions(kind='quotient-remainder', sizes=(100, 10))
    """
    if kind == "hashing":
        return Partitions(kind, (min(n, rows),)) if rows >= 1 else None
    for small in range(1, rows // parts + 1):
        sizes = [small] * (parts - 1)
        if kind == "chinese-remainder":
            sizes = _coprime_above(small, parts - 1)
        first = min(n, rows - sum(sizes))
        if kind == "chinese-remainder":
            while first > 0 and any(gcd(first, size) > 1 for size in sizes):
                first -= 1
        if first > 0 and first * prod(sizes) >= n:
            return Partitions(kind, (first, *sizes))
    return None


def leanest(kind: Kind, n: int, parts: int) -> Partitions:
    """Partition n row numbers into the fewest classes: about parts·n^(1/parts).

    Coprime sizes need a few more.
    """
    least = max(1, int(n ** (1 / parts)) - 1)  # One below, as the root may be rounded up.
    if kind == "chinese-remainder":
        while prod(_coprime_above(least, parts)) < n:
            least += 1
        return Partitions(kind, tuple(sorted(_coprime_above(least, parts), reverse=True)))
    sizes = [least] * parts
    while prod(sizes) < n:
        sizes[sizes.index(min(sizes))] += 1
    return Partitions(kind, tuple(sizes))


def _coprime_above(least: int, count: int) -> list[int]:
    """``count`` numbers from ``least`` on, each coprime to those before."""
    numbers: list[int] = []
    while len(numbers) < count:
        if all(gcd(least, number) == 1 for number in numbers):
            numbers.append(least)
        least += 1
    return numbers
