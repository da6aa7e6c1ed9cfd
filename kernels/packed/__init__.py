"""Packed rows: a few bytes each, read where they lie.

A row is [residual bytes][gain byte][nonzeros as a little-endian bit stream, padded to a byte]. The
r-th nonzero is its latent in ``id_bits`` bits, then the number of its level in ``value_bits[r]``
bits. Rows all of one k lie ``stride`` bytes apart; others are found from the start of their block
of ``BLOCK`` rows and the counts of the rows before them in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.packed import cpu
from compressae.kernels.threads import over_rows

#: Rows of a block, where rows differ in k.
BLOCK = 64
#: Bytes after the last row: nonzeros are read four bytes at a time.
SPARE = 4
#: Bits that one nonzero may take, so that four bytes hold it at any bit of the first.
MAX_BITS = 25

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the parts of a row are.

    Attributes:
        id_bits: bits of a latent.
        value_bits: (K,) int64 bits of the r-th nonzero's level.
        fixed: bytes before the nonzeros: the residual's and the gain's.
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
        """(K + 1,) int64: the bit at which the r-th nonzero starts; the last is where it ends."""
        return np.concatenate([[0], np.cumsum(self.value_bits + self.id_bits)]).astype(np.int64)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(K + 1,) int64: bytes of a row of k nonzeros."""
        return self.fixed + (self.shifts + 7) // 8

    @cached_property
    def masks(self) -> np.ndarray:
        """(K,) uint32: the bits of the r-th nonzero's level."""
        return ((1 << self.value_bits) - 1).astype(np.uint32)


@dataclass(frozen=True, eq=False)
class Rows:
    """Packed rows in memory.

    Attributes:
        data: uint8, the rows one after another and ``SPARE`` bytes.
        layout: of each row.
        counts: (n,) uint8 nonzeros of each row, or None where all have K.
        blocks: (⌈n / BLOCK⌉,) int64, the first byte of each block; empty where all have K.
    """

    data: np.ndarray
    layout: Layout
    counts: np.ndarray | None
    blocks: np.ndarray

    def __len__(self) -> int:
        if self.counts is not None:
            return len(self.counts)
        return (len(self.data) - SPARE) // int(self.layout.lengths[-1])

    @property
    def nonzeros(self) -> np.ndarray:
        """(n,) int64 nonzeros of each row."""
        if self.counts is not None:
            return self.counts.astype(np.int64)
        return np.full(len(self), len(self.layout.value_bits), np.int64)

    def _place(self) -> tuple:
        stride = 0 if self.counts is not None else int(self.layout.lengths[-1])
        counts = np.empty(0, np.uint8) if self.counts is None else self.counts
        return self.data, stride, self.blocks, counts, self.layout.lengths, BLOCK


def pack(head: Any, indices: Any, codes: Any, layout: Layout, backend: Backend = "auto") -> Any:
    """Rows of k nonzeros as bytes, as arrays or, of tensors on a GPU, as a tensor.

    Args:
        head: (n, fixed) uint8: residual code and gain.
        indices: (n, k) int32 latents below 2^id_bits; k ≤ K.
        codes: (n, k) uint8 level numbers, the r-th below 2^value_bits[r].
        layout: of the rows.
        backend: see ``compressae.kernels.backend``.

    Returns:
        (n, layout.lengths[k]) uint8.
    """
    n, k = indices.shape
    if uses_triton(indices, backend):
        from compressae.kernels.packed import gpu

        return gpu.pack(head, indices, codes, layout.shifts[: k + 1], layout.id_bits)
    out = np.zeros((n, int(layout.lengths[k])), np.uint8)
    cpu.pack(head, indices, codes, layout.shifts, layout.id_bits, out)
    return out


def unpack(
    rows: Rows, start: int = 0, stop: int | None = None, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds (m + 1,) int64, latents (nnz,) uint32 and level numbers (nnz,) uint8 of the m rows
    start..stop, of all when they are not given."""
    layout = rows.layout
    stop = len(rows) if stop is None else stop
    indptr = np.concatenate([[0], np.cumsum(rows.nonzeros[start:stop])])
    ids, codes = np.empty(indptr[-1], np.uint32), np.empty(indptr[-1], np.uint8)
    rest = (layout.fixed, layout.shifts, layout.id_bits, layout.masks, start, indptr, ids, codes)
    kernel: Callable[..., None] = cpu.unpack
    over_rows(lambda a, b: kernel(*rows._place(), *rest, a, b), stop - start, threads)
    return indptr, ids, codes


def heads(rows: Rows, start: int = 0, stop: int | None = None) -> np.ndarray:
    """(m, fixed) uint8: the bytes before the nonzeros of the m rows start..stop, of all when they
    are not given."""
    layout = rows.layout
    if rows.counts is None:
        return rows.data[:-SPARE].reshape(len(rows), -1)[start:stop, : layout.fixed]
    lengths = layout.lengths[rows.counts[start:stop]]
    first = int(rows.blocks[start // BLOCK])
    first += int(layout.lengths[rows.counts[start - start % BLOCK : start]].sum())
    starts = first + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return rows.data[starts[:, None] + np.arange(layout.fixed)]


def rescore(
    rows: Rows,
    levels: np.ndarray,
    gains: np.ndarray,
    dense_query: np.ndarray,
    tables: np.ndarray,
    which: np.ndarray | None,
) -> np.ndarray:
    """(Σ_r levels[r, code_r]·q'[id_r] + Σ_b tables[b, residual_b]) · gains[gain byte].

    Args:
        rows: the codes.
        levels: (K, L) float32.
        gains: (256,) float32 factors.
        dense_query: q' (h,) float32.
        tables: (residual bytes, 256) float32 look-up tables of the query.
        which: (m,) int64 row numbers; all rows when None.

    Returns:
        (m,) float32.
    """
    if which is not None and len(which) == 0:
        return np.empty(0, np.float32)
    layout = rows.layout
    out = np.empty(len(rows) if which is None else len(which), np.float32)
    kernel: Callable[..., None] = cpu.rescore
    kernel(
        *rows._place(), layout.fixed - 1, gains, layout.shifts, layout.id_bits, layout.masks,
        levels, dense_query, tables, len(layout.value_bits), _NONE if which is None else which, out,
    )  # fmt: skip
    return out


def look_up_tables(parts: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """x · centroid of every part: ``einsum("qms,msc->qmc", parts, codebooks)``.

    Args:
        parts: (q, m, s) float32 queries cut to parts.
        codebooks: (m, s, 256) float32 centroids, one a column.

    Returns:
        (q, m, 256) float32.
    """
    out = np.empty((len(parts), *codebooks.shape[::2]), np.float32)
    cpu.look_up_tables(parts, codebooks, out)
    return out
