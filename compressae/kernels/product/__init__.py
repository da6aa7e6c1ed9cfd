"""Product with an int8 matrix: project dense queries onto the latents."""

from dataclasses import dataclass

import numpy as np

from compressae.kernels.product import cpu

_LANES = 64  # Columns are padded to a multiple of this.
#: Largest entry.
LARGEST = 127


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """An int8 matrix (h, d) with one scale per row.

    A quarter of the float32 bytes; the product of one query is memory-bound. Entries are off by at
    most scale / 2. Queries are rounded to 16 bits so that sums are exact in int32: Cauchy–Schwarz
    bounds them below 2^31.

    Attributes:
        rows: (h, d padded with zeros to a multiple of 64) int8.
        scales: (h,) float32.
        norm: largest ‖row‖₂ of ``rows``.
        dim: d.
    """

    rows: np.ndarray
    scales: np.ndarray
    norm: float
    dim: int

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Int8Matrix":
        """Quantise a matrix (h, d) float32, row by row.

        >>> matrix = Int8Matrix.of(np.array([[1, -0.5], [0, 2]], np.float32))
        >>> matrix.rows[:, :2]
        array([[127, -64],
               [  0, 127]], dtype=int8)
        """
        h, d = matrix.shape
        scales = np.abs(matrix).max(1, initial=0) / LARGEST
        rows = np.zeros((h, -(-d // _LANES) * _LANES), np.int8)
        rows[:, :d] = np.rint(matrix / np.where(scales > 0, scales, 1)[:, None])
        norm = np.sqrt((rows.astype(np.float64) ** 2).sum(1).max(initial=0))
        return cls(rows, scales.astype(np.float32), float(norm), d)

    @property
    def nbytes(self) -> int:
        """Bytes of the entries and the scales."""
        return self.rows.nbytes + self.scales.nbytes

    def round_queries(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Round queries (m, d) to (m, padded d) int16, with a step per query (m,) float64."""
        # ‖rint(s·x)‖ ≤ s·‖x‖ + √d / 2, and times norm it must stay below 2^31.
        limit = ((1 << 31) - 1) / max(self.norm, 1) - np.sqrt(self.dim) / 2
        rounded = np.zeros((len(x), self.rows.shape[1]), np.int16)
        unit = np.empty(len(x))
        cpu.round_queries(x, limit, rounded, unit)
        return rounded, unit


def product(matrix: Int8Matrix, x: np.ndarray) -> np.ndarray:
    """Multiply queries x (m, d) float32 by Wᵀ: (m, h) float32.

    Equal to ``x @ W.T`` up to the rounding of both. A query's result does not depend on the batch.

    >>> matrix = Int8Matrix.of(np.array([[1, 0], [0, 2], [1, 1]], np.float32))
    >>> product(matrix, np.array([[1, 3]], np.float32)).round(2)
    array([[1., 6., 4.]], dtype=float32)
    """
    rounded, unit = matrix.round_queries(x)
    out = np.empty((len(x), len(matrix.rows)), np.float32)
    cpu.product(matrix.rows.reshape(-1), matrix.scales, rounded, unit, out)
    return out
