"""Bit-packed rows of sparse codes: pack, unpack, and score without unpacking.

A row is [residual bytes][gain byte][nonzeros as a little-endian bit stream, padded to a byte]. The
r-th nonzero is its latent in ``id_bits`` bits, then its level number in ``value_bits[r]`` bits.
Rows with K nonzeros each have a fixed stride. Rows of different lengths are addressed by the start
of their block of ``ROW_BLOCK`` rows and the counts of the rows before them in the block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressae.kernels.backend import Backend, beside, uses_triton
from compressae.kernels.packed import cpu
from compressae.kernels.packed.layout import MAX_BITS, ROW_BLOCK, SPARE, Layout
from compressae.kernels.pages import read_ahead
from compressae.kernels.threads import over_rows

__all__ = [
    "MAX_BITS",
    "ROW_BLOCK",
    "SPARE",
    "Layout",
    "Rows",
    "heads",
    "look_up_tables",
    "pack",
    "read_rows_ahead",
    "rescore",
    "unpack",
    "unpack_at",
]

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Rows:
    """Packed rows in memory.

    Attributes:
        data: uint8, the concatenated rows and ``SPARE`` padding bytes.
        layout: bit layout of the rows.
        counts: (n,) uint8 nonzeros per row, or None if all rows have K.
        blocks: (⌈n / ROW_BLOCK⌉,) int64 byte offset of each block; empty if all rows have K.
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
        """Nonzeros per row (n,) int64."""
        if self.counts is not None:
            return self.counts.astype(np.int64)
        return np.full(len(self), len(self.layout.value_bits), np.int64)

    def _place(self) -> tuple:
        stride = 0 if self.counts is not None else int(self.layout.lengths[-1])
        counts = np.empty(0, np.uint8) if self.counts is None else self.counts
        return self.data, stride, self.blocks, counts, self.layout.lengths, ROW_BLOCK


def pack(head: Any, indices: Any, codes: Any, layout: Layout, backend: Backend = "auto") -> Any:
    """Pack rows of k nonzeros: (n, layout.lengths[k]) uint8.

    Args:
        head: (n, fixed) uint8 residual codes and gain.
        indices: (n, k) int32 latents below 2^id_bits; k ≤ K.
        codes: (n, k) uint8 level numbers, the r-th below 2^value_bits[r].
        layout: bit layout of the rows.
        backend: see ``compressae.kernels.backend``.

    Returns:
        (n, layout.lengths[k]) uint8: a numpy array, or a tensor if the inputs are on a GPU.

    >>> layout = Layout(id_bits=4, value_bits=np.array([4, 4]), fixed=1)
    >>> head, indices = np.array([[9]], np.uint8), np.array([[1, 2]], np.int32)
    >>> pack(head, indices, np.array([[3, 4]], np.uint8), layout)
    array([[ 9, 49, 66]], dtype=uint8)
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
    """Unpack the m rows start..stop, all rows by default, to CSR.

    Returns:
        indptr (m + 1,) int64, latents (nnz,) uint32 and level numbers (nnz,) uint8.

    >>> layout = Layout(id_bits=4, value_bits=np.array([4, 4]), fixed=1)
    >>> data = np.array([9, 49, 66] + SPARE * [0], np.uint8)
    >>> indptr, ids, codes = unpack(Rows(data, layout, None, np.empty(0, np.int64)))
    >>> ids, codes
    (array([1, 2], dtype=uint32), array([3, 4], dtype=uint8))
    """
    layout = rows.layout
    stop = len(rows) if stop is None else stop
    indptr = np.concatenate([[0], np.cumsum(rows.nonzeros[start:stop])])
    ids, codes = np.empty(indptr[-1], np.uint32), np.empty(indptr[-1], np.uint8)
    rest = (layout.fixed, layout.shifts, layout.id_bits, layout.masks, start, indptr, ids, codes)
    kernel: Callable[..., None] = cpu.unpack
    over_rows(lambda a, b: kernel(*rows._place(), *rest, a, b), stop - start, threads)
    return indptr, ids, codes


def unpack_at(data: Any, starts: Any, counts: Any, layout: Layout) -> tuple[Any, Any]:
    """Unpack rows by the byte at which each starts.

    Args:
        data: (bytes,) uint8, packed rows and ``SPARE`` bytes.
        starts: (m,) int64 first byte of each row.
        counts: (m,) int64 nonzeros of each row.
        layout: bit layout of the rows.

    Returns:
        Latents (T,) int32 and level numbers (T,) uint8, T = Σ counts: arrays of arrays, tensors on
        the same device of tensors.

    Raises:
        ValueError: a row outside ``data`` or of more than K nonzeros; not checked on a GPU.

    >>> layout = Layout(id_bits=4, value_bits=np.array([4, 4]), fixed=1)
    >>> data = np.array([9, 49, 66] + SPARE * [0], np.uint8)
    >>> unpack_at(data, np.array([0, 0]), np.array([2, 1]), layout)
    (array([1, 2, 1], dtype=int32), array([3, 4, 3], dtype=uint8))
    """
    if not isinstance(data, np.ndarray) and data.device.type != "cpu":
        from compressae.kernels.packed import gpu

        return gpu.unpack_at(data, starts, counts, layout)
    places, nonzeros = np.asarray(starts), np.asarray(counts)
    lengths, end = layout.lengths, len(data) - SPARE
    # Starts first: the sum of a large one and a length would wrap around.
    if len(places) and not (
        0 <= nonzeros.min() <= nonzeros.max() < len(lengths)
        and 0 <= places.min() <= places.max() <= end
        and (places + lengths[nonzeros]).max() <= end
    ):
        raise ValueError(f"rows outside {end} bytes or of more than {len(lengths) - 1} nonzeros")
    total = int(nonzeros.sum())
    ids, codes = np.empty(total, np.int32), np.empty(total, np.uint8)
    cpu.unpack_at(
        np.asarray(data), places, nonzeros, layout.fixed, layout.shifts, layout.id_bits,
        layout.masks, ids, codes,
    )  # fmt: skip
    return beside(ids, data), beside(codes, data)


def heads(rows: Rows, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Residual codes and gains of the m rows start..stop, all rows by default: (m, fixed) uint8."""
    layout = rows.layout
    if rows.counts is None:
        return rows.data[:-SPARE].reshape(len(rows), -1)[start:stop, : layout.fixed]
    lengths = layout.lengths[rows.counts[start:stop]]
    first = int(rows.blocks[start // ROW_BLOCK])
    first += int(layout.lengths[rows.counts[start - start % ROW_BLOCK : start]].sum())
    starts = first + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return rows.data[starts[:, None] + np.arange(layout.fixed)]


def read_rows_ahead(rows: Rows, which: np.ndarray) -> None:
    """Ask the system for the pages of rows (m,) integers, ascending; see ``kernels.pages``."""
    data, stride, blocks, *_ = rows._place()
    which = which.astype(np.int64)
    if stride:
        read_ahead(data, which * stride, which * stride + stride)
    else:  # Where a row lies in its block is not known before counts are summed.
        starts = blocks[which // ROW_BLOCK]
        read_ahead(data, starts, starts + ROW_BLOCK * int(rows.layout.lengths[-1]))


def rescore(
    rows: Rows,
    levels: np.ndarray,
    gains: np.ndarray,
    scales: np.ndarray,
    dense_query: np.ndarray,
    tables: np.ndarray,
    which: np.ndarray | None,
) -> np.ndarray:
    """Score packed rows with a dense query, without unpacking them: (m,) float32.

    Equal to ``(Σ_r levels[r, code_r]·q'[id_r] + scales[g]·Σ_b tables[b, residual_b])·gains[g]``
    with the row's gain byte g.

    Args:
        rows: packed rows.
        levels: (K, L) float32 levels by rank.
        gains: (256,) float32 factors.
        scales: (256,) float32 factors of residual codes.
        dense_query: q' (h,) float32.
        tables: (residual bytes, 256) float32 lookup tables of the query.
        which: (m,) int64 row numbers; all rows when None.

    >>> layout = Layout(id_bits=4, value_bits=np.array([4, 4]), fixed=1)
    >>> data = np.array([9, 49, 66] + SPARE * [0], np.uint8)
    >>> rows = Rows(data, layout, None, np.empty(0, np.int64))
    >>> levels = np.tile(np.arange(16, dtype=np.float32), (2, 1))
    >>> gains, tables = np.full(256, 0.5, np.float32), np.empty((0, 256), np.float32)
    >>> rescore(rows, levels, gains, gains, np.arange(16, dtype=np.float32), tables, None)
    array([5.5], dtype=float32)
    """
    if which is not None and len(which) == 0:
        return np.empty(0, np.float32)
    layout = rows.layout
    out = np.empty(len(rows) if which is None else len(which), np.float32)
    kernel: Callable[..., None] = cpu.rescore
    kernel(
        *rows._place(), layout.fixed - 1, gains, scales, layout.shifts, layout.id_bits,
        layout.masks, levels, dense_query, tables, len(layout.value_bits),
        _NONE if which is None else which, out,
    )  # fmt: skip
    return out


def look_up_tables(x: np.ndarray, codebooks: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Look-up tables of residual codes: dot products of query parts and centroids.

    Part i of a query begins at i·s and has w numbers, zeros where the query ends: those of a chain
    (w = 2·s) cover the next part. Equal to ``x[:, i·s : i·s + w] @ (codebooks[i] * steps[i])``.

    Args:
        x: (q, m·s) float32 queries.
        codebooks: (m, w, 256) int8 or float32 centroids, one per column.
        steps: (m,) float32, what the centroids of a part are multiplied with.

    Returns:
        (q, m, 256) float32.

    >>> x, codebooks = np.array([[2, 3]], np.float32), np.ones((1, 2, 256), np.int8)
    >>> look_up_tables(x, codebooks, np.array([0.5], np.float32))[0, 0, :3]
    array([2.5, 2.5, 2.5], dtype=float32)
    """
    out = np.empty((len(x), *codebooks.shape[::2]), np.float32)
    cpu.look_up_tables(x, codebooks, steps, out)
    return out
