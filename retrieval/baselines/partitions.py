"""Partitions of row numbers, complementary: any two rows differ in at least one of them.

Shi et al., "Compositional embeddings using complementary partitions", arXiv 1909.02107.
"""

from dataclasses import dataclass
from math import gcd, prod
from typing import Literal

import numpy as np

Kind = Literal["quotient-remainder", "mixed-radix", "chinese-remainder", "hashing"]


@dataclass(frozen=True)
class Partitions:
    """How row numbers 0 to n − 1 fall into classes.

    Attributes:
        kind: "quotient-remainder" and "mixed-radix" take the digits of i, the first the fastest;
            "chinese-remainder" takes i mod each size, which are coprime; "hashing" takes i mod its
            one size, and is not complementary.
        sizes: classes of each partition.
    """

    kind: Kind
    sizes: tuple[int, ...]

    def classes(self, ids: np.ndarray) -> list[np.ndarray]:
        """The class of each row number (m,) int64 in each partition, by integer arithmetic."""
        found, rest = [], ids
        for size in self.sizes:
            found.append(rest % size)
            if self.kind in ("quotient-remainder", "mixed-radix"):
                rest = rest // size
        return found


def partitions(kind: Kind, n: int, parts: int, rows: int) -> Partitions | None:
    """Partitions of n row numbers whose classes number ``rows`` at most, the first partition as
    large as can be; None where there are none: complementary ones need about parts·n^(1/parts)."""
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


def _coprime_above(least: int, count: int) -> list[int]:
    """``count`` numbers from ``least`` on, each coprime to those before."""
    found: list[int] = []
    while len(found) < count:
        if all(gcd(least, one) == 1 for one in found):
            found.append(least)
        least += 1
    return found
