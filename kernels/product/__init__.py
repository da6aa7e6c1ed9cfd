"""W·x with weights of one byte: the product that turns a dense query into one over the latents."""

from dataclasses import dataclass

import numpy as np

from compressae.kernels.product import cpu

_LANES = 64  # Columns are padded to a multiple.
_LARGEST = 127


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """A matrix (h, d) in int8 with one scale a row.

    It is a quarter of the float32 bytes, which is what the product of one query waits for. A number
    is off by at most scale / 2; the query is rounded to 16 bits, so that the sums are of integers,
    exact, and bounded below 2^31 (Cauchy–Schwarz).

    Attributes:
        rows: (h, d padded with zeros to a multiple of 64) int8.
        scales: (h,) float32.
        norm: the largest ‖row‖₂ of ``rows``.
        dim: d.
    """

    rows: np.ndarray
    scales: np.ndarray
    norm: float
    dim: int

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Int8Matrix":
        """The nearest such matrix to (h, d) float32."""
        h, d = matrix.shape
        scales = np.abs(matrix).max(1) / _LARGEST
        rows = np.zeros((h, -(-d // _LANES) * _LANES), np.int8)
        rows[:, :d] = np.rint(matrix / np.where(scales > 0, scales, 1)[:, None])
        norm = np.sqrt((rows.astype(np.float64) ** 2).sum(1).max())
        return cls(rows, scales.astype(np.float32), float(norm), d)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.scales.nbytes

    def round_queries(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Queries (m, d) as (m, padded) int16 and what 1 of each stands for, (m,) float64."""
        # ‖rint(s·x)‖ ≤ s·‖x‖ + √d / 2, times norm, is to stay below 2^31.
        room = ((1 << 31) - 1) / max(self.norm, 1) - np.sqrt(self.dim) / 2
        rounded = np.zeros((len(x), self.rows.shape[1]), np.int16)
        unit = np.empty(len(x))
        cpu.round_queries(x, room, rounded, unit)
        return rounded, unit


def product(matrix: Int8Matrix, x: np.ndarray) -> np.ndarray:
    """x·Wᵀ (m, h) float32 of queries x (m, d) float32, each by itself: the same alone and among
    others."""
    rounded, unit = matrix.round_queries(x)
    out = np.empty((len(x), len(matrix.rows)), np.float32)
    cpu.product(matrix.rows.reshape(-1), matrix.scales, rounded, unit, out)
    return out
