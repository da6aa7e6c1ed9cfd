"""Bit layout of packed rows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

#: Rows per block, if rows differ in k.
ROW_BLOCK = 64
#: Padding bytes after the last row: nonzeros are read four bytes at a time.
SPARE = 4
#: Most bits of a nonzero: four bytes hold it at any bit offset of the first.
MAX_BITS = 25


@dataclass(frozen=True, eq=False)
class Layout:
    """Bit layout of a row.

    Attributes:
        id_bits: bits of a latent.
        value_bits: (K,) int64 bits of the r-th nonzero's level number.
        fixed: bytes before the nonzeros: residual codes and gain.

    Raises:
        ValueError: a nonzero takes more than ``MAX_BITS`` bits.

    >>> layout = Layout(id_bits=4, value_bits=np.array([3, 2]), fixed=1)
    >>> layout.shifts, layout.lengths
    (array([ 0,  7, 13]), array([1, 2, 3]))
    """

    id_bits: int
    value_bits: np.ndarray
    fixed: int

    def __post_init__(self) -> None:
        if self.id_bits + int(self.value_bits.max()) > MAX_BITS:
            raise ValueError(
                f"{self.id_bits} bits an id and {self.value_bits.max()} a value: expected at most "
                f"{MAX_BITS} together"
            )

    @cached_property
    def shifts(self) -> np.ndarray:
        """Bit offsets (K + 1,) int64 of the nonzeros; the last is their end."""
        return np.concatenate([[0], np.cumsum(self.value_bits + self.id_bits)]).astype(np.int64)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Bytes (K + 1,) int64 of a row with 0, 1, …, K nonzeros."""
        return self.fixed + (self.shifts + 7) // 8

    @cached_property
    def masks(self) -> np.ndarray:
        """Bit masks (K,) uint32 of the level numbers."""
        return ((1 << self.value_bits) - 1).astype(np.uint32)
