"""Products of dense rows with a matrix, row by row the same bits.

A BLAS adds up a row's products in another order when there are other rows beside it, or more
threads. Here each entry is one chain of fused multiply-adds, so that a row's result depends neither
on the batch that it is in nor on the number of threads: codes of a table are the same bytes however
the table is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compressae.kernels.matmul import cpu
from compressae.kernels.threads import over_rows


@dataclass(frozen=True, eq=False)
class Panels:
    """A matrix (k, n) float32 in panels of 16 columns, as ``matmul`` reads it.

    Attributes:
        panels: (⌈n / 16⌉, k, 16) float32, padded with zeros.
        columns: n.
    """

    panels: np.ndarray
    columns: int

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Panels":
        """Lay out a matrix (k, n).

        >>> Panels.of(np.ones((2, 3))).panels.shape
        (1, 2, 16)
        """
        k, n = matrix.shape
        count = -(-n // cpu.PANEL)
        padded = np.zeros((k, count * cpu.PANEL), np.float32)
        padded[:, :n] = matrix
        panels = padded.reshape(k, count, cpu.PANEL).transpose(1, 0, 2)
        return cls(np.ascontiguousarray(panels), n)


def matmul(x: np.ndarray, matrix: Panels, threads: int | None = None) -> np.ndarray:
    """Multiply rows x (m, k) float32 by a matrix (k, n): (m, n) float32.

    Equal to ``x @ matrix`` up to rounding, row by row the same bits in any batch.

    Args:
        x: (m, k) float32.
        matrix: panels of (k, n).
        threads: number of threads; every processor the process may use when None.

    Raises:
        ValueError: the widths do not fit.

    >>> matmul(np.array([[1, 2]], np.float32), Panels.of(np.array([[1, 0, 3], [0, 1, 4]])))
    array([[ 1.,  2., 11.]], dtype=float32)
    """
    if x.ndim != 2 or x.shape[1] != matrix.panels.shape[1]:
        raise ValueError(f"rows {x.shape}: expected (m, {matrix.panels.shape[1]})")
    padded = len(matrix.panels) * cpu.PANEL
    out = np.empty((whole(len(x)), padded), np.float32)
    over_eights(lambda part, own, a, b: cpu.matmul(part, matrix.panels, own, a, b), x, out, threads)
    out = out[: len(x), : matrix.columns]
    return np.ascontiguousarray(out)


@dataclass(frozen=True, eq=False)
class Centroids:
    """Centroids (p, 256, s) float32 of p parts, as ``nearest_centroids`` reads them.

    Attributes:
        panels: (p, 16, s, 16) float32.
        half_norms: (p, 256) float32, ‖centroid‖² / 2.
    """

    panels: np.ndarray
    half_norms: np.ndarray

    @classmethod
    def of(cls, codebooks: np.ndarray) -> "Centroids":
        """Lay out codebooks (p, 256, s)."""
        p, count, s = codebooks.shape
        panels = codebooks.reshape(p, count // cpu.PANEL, cpu.PANEL, s).transpose(0, 1, 3, 2)
        half_norms = np.einsum("pcs,pcs->pc", codebooks, codebooks) / 2
        return cls(np.ascontiguousarray(panels, np.float32), half_norms.astype(np.float32))


def nearest_centroids(
    parts: np.ndarray, centroids: Centroids, threads: int | None = None
) -> np.ndarray:
    """Number the nearest centroid of each part of rows (m, p·s): codes (m, p) uint8.

    Equal to ``((parts.reshape(m, p, 1, s) - codebooks) ** 2).sum(3).argmin(2)`` up to rounding, row
    by row the same in any batch.

    Raises:
        ValueError: the widths do not fit.

    >>> codebooks = np.arange(256, dtype=np.float32).reshape(1, 256, 1)
    >>> nearest_centroids(np.array([[2.9], [300]], np.float32), Centroids.of(codebooks))
    array([[  3],
           [255]], dtype=uint8)
    """
    count, _, s, _ = centroids.panels.shape
    if parts.ndim != 2 or parts.shape[1] != count * s:
        raise ValueError(f"rows {parts.shape}: expected (m, {count * s})")
    codes = np.empty((whole(len(parts)), count), np.uint8)

    def work(part: np.ndarray, own: np.ndarray, a: int, b: int) -> None:
        cpu.nearest(part, centroids.panels, centroids.half_norms, own, a, b)

    over_eights(work, parts, codes, threads)
    return codes[: len(parts)]


def whole(rows: int) -> int:
    """Rows, rounded up to a multiple of 8."""
    return -(-rows // cpu.TOGETHER) * cpu.TOGETHER


def over_eights(
    work: Callable[[np.ndarray, np.ndarray, int, int], None],
    x: np.ndarray,
    out: np.ndarray,
    threads: int | None,
) -> None:
    """Call ``work(x, out, start, stop)`` on slices of whole eights; the last rows are padded."""
    # Of one type each, so that one function is compiled.
    x = np.require(x, np.float32, ["C", "W"])
    eights, rest = divmod(len(x), cpu.TOGETHER)
    over_rows(lambda a, b: work(x, out, a * cpu.TOGETHER, b * cpu.TOGETHER), eights, threads)
    if rest:
        last = np.zeros((cpu.TOGETHER, x.shape[1]), np.float32)
        last[:rest] = x[-rest:]
        work(last, out[-cpu.TOGETHER :], 0, cpu.TOGETHER)
