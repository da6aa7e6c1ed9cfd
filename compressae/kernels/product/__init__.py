"""Product with a matrix of whole numbers: project dense queries onto the latents."""

from dataclasses import dataclass

import numpy as np

from compressae.kernels.product import cpu

_LANES = 64  # Columns are padded to a multiple of this.
#: Largest entry of 8 bits and of 4 bits.
LARGEST, LARGEST_4 = 127, 7
#: Stored numbers of 4 bits are the entries plus this.
_OFFSET = 8
#: A row's largest entry takes so many steps; those above 7 are cut to it.
_STEPS = range(LARGEST_4, 13)


@dataclass(frozen=True, eq=False)
class IntMatrix:
    """A matrix (h, d) of whole numbers of 8 or 4 bits, with one scale per row.

    A quarter or an eighth of the float32 bytes; the product of one query is memory-bound. Queries
    are rounded to 16 bits so that sums are exact in int32: Cauchy–Schwarz bounds them below 2^31.

    Attributes:
        rows: of 8 bits (h, p) int8, p being d padded with zeros to a multiple of 64. Of 4 bits
            (h, p / 2) uint8: entries −7…7 plus 8, and 32 bytes hold 64 of them, the first 32 in
            their low halves.
        scales: (h,) float32.
        norm: largest ‖row‖₂ of the stored numbers.
        dim: d.
    """

    rows: np.ndarray
    scales: np.ndarray
    norm: float
    dim: int

    @classmethod
    def of(cls, matrix: np.ndarray) -> "IntMatrix":
        """Round a matrix (h, d) float32 to 8 bits, row by row: off by at most scale / 2.

        >>> matrix = IntMatrix.of(np.array([[1, -0.5], [0, 2]], np.float32))
        >>> matrix.rows[:, :2]
        array([[127, -64],
               [  0, 127]], dtype=int8)
        """
        h, d = matrix.shape
        scales = np.abs(matrix).max(1, initial=0) / LARGEST
        rows = np.zeros((h, padded(d)), np.int8)
        rows[:, :d] = np.rint(matrix / np.where(scales > 0, scales, 1)[:, None])
        return cls(rows, scales.astype(np.float32), _norm(rows), d)

    @classmethod
    def of_entries(cls, entries: np.ndarray) -> "IntMatrix":
        """Pack entries (h, d) of −7…7 in 4 bits; scales make rows of unit length.

        >>> matrix = IntMatrix.of_entries(np.array([[3, -4], [0, 2]], np.int8))
        >>> matrix.to_float32().tolist()
        [[0.6000000238418579, -0.800000011920929], [0.0, 1.0]]
        """
        h, d = entries.shape
        stored = np.full((h, padded(d)), _OFFSET, np.uint8)
        stored[:, :d] += entries.astype(np.uint8)  # Modulo 256, as −1 is 255.
        blocks = stored.reshape(h, -1, 2, _LANES // 2)
        return cls.of_packed((blocks[:, :, 0] | blocks[:, :, 1] << 4).reshape(h, -1), d)

    @classmethod
    def of_packed(cls, rows: np.ndarray, dim: int) -> "IntMatrix":
        """A matrix of 4 bits from its ``rows``, not trusted.

        Raises:
            ValueError: rows of another width, a number or a padding that is not written so, or a
                row of zeros.
        """
        if rows.ndim != 2 or rows.shape[1] != padded(dim) // 2 or rows.dtype != np.uint8:
            raise ValueError(f"{rows.dtype} rows {rows.shape} of {dim} entries of 4 bits")
        stored = _unpack(rows)
        if not stored.all() or (stored[:, dim:] != _OFFSET).any():
            raise ValueError("numbers of 4 bits that are 0, or padding that is not 8")
        squares = np.square(stored.view(np.int8) - np.int8(_OFFSET)).sum(1, dtype=np.int64)
        if not squares.all():
            raise ValueError("rows of zeros")
        return cls(rows, (1 / np.sqrt(squares)).astype(np.float32), _norm(stored), dim)

    @property
    def bits(self) -> int:
        """Bits of an entry, 8 or 4."""
        return 8 if self.rows.dtype == np.int8 else 4

    @property
    def nbytes(self) -> int:
        """Bytes of the entries and the scales."""
        return self.rows.nbytes + self.scales.nbytes

    def entries(self) -> np.ndarray:
        """The whole numbers (h, d) int8."""
        if self.bits == 8:
            return self.rows[:, : self.dim]
        return _unpack(self.rows)[:, : self.dim].view(np.int8) - np.int8(_OFFSET)

    def to_float32(self) -> np.ndarray:
        """The matrix (h, d) float32; rows of 4 bits have unit length."""
        entries = self.entries().astype(np.float32)
        if self.bits == 8:
            return entries * self.scales[:, None]
        # Squares add up exactly in float32: below 2^24 up to 342,000 columns.
        return entries / np.sqrt(np.square(entries).sum(1, keepdims=True))

    def round_queries(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Round queries (m, d) to (m, padded d) int16, with a step per query (m,) float64."""
        # ‖rint(s·x)‖ ≤ s·‖x‖ + √d / 2, and times norm it must stay below 2^31.
        limit = ((1 << 31) - 1) / max(self.norm, 1) - np.sqrt(self.dim) / 2
        rounded = np.zeros((len(x), padded(self.dim)), np.int16)
        unit = np.empty(len(x))
        cpu.round_queries(x, limit, rounded, unit)
        return rounded, unit


def round_directions(matrix: np.ndarray) -> np.ndarray:
    """Round the directions of rows (h, d) to whole numbers −7…7 (h, d) int8.

    Of several steps each row takes the one that turns it least. Numbers of a row have no common
    divisor, so that ``recover_entries`` finds them again.

    Raises:
        ValueError: a row of zeros.

    >>> round_directions(np.array([[0.6, -0.8], [0, 2]], np.float32))
    array([[ 5, -7],
           [ 0,  1]], dtype=int8)
    """
    peaks = np.abs(matrix).max(1, keepdims=True, initial=0)
    if not peaks.all():
        raise ValueError("a row of zeros has no direction")
    best, cosines = np.zeros(matrix.shape, np.int8), np.full(len(matrix), -1.0)
    for steps in _STEPS:
        entries = np.rint(matrix * (steps / peaks)).clip(-LARGEST_4, LARGEST_4)
        dots = np.einsum("hd,hd->h", entries, matrix, dtype=np.float64)
        own = dots / np.sqrt(np.einsum("hd,hd->h", entries, entries, dtype=np.float64))
        is_better = own > cosines
        best[is_better], cosines[is_better] = entries[is_better], own[is_better]
    return best // np.gcd.reduce(best, axis=1, keepdims=True)


def recover_entries(matrix: np.ndarray) -> np.ndarray | None:
    """Whole numbers (h, d) int8 that ``to_float32`` makes ``matrix`` of; None where there are none.

    >>> matrix = IntMatrix.of_entries(np.array([[3, -4], [0, 1]], np.int8)).to_float32()
    >>> recover_entries(matrix)
    array([[ 3, -4],
           [ 0,  1]], dtype=int8)
    >>> recover_entries(matrix + np.float32(0.01)) is None
    True
    """
    peaks = np.abs(matrix).max(1, keepdims=True, initial=0)
    if not (np.isfinite(peaks) & (peaks > 0)).all():
        return None
    entries, left = np.zeros(matrix.shape, np.int8), np.arange(len(matrix))
    for largest in range(LARGEST_4, 0, -1):
        rows = matrix[left]
        tried = np.rint(rows * (largest / peaks[left]))
        again = tried / np.sqrt(np.square(tried).sum(1, keepdims=True))
        is_same = (again == rows).all(1)
        entries[left[is_same]] = tried[is_same]
        left = left[~is_same]
        if not len(left):
            return entries // np.gcd.reduce(entries, axis=1, keepdims=True)
    return None


def product(matrix: IntMatrix, x: np.ndarray) -> np.ndarray:
    """Multiply queries x (m, d) float32 by Wᵀ: (m, h) float32.

    Equal to ``x @ W.T`` up to the rounding of both. A query's result does not depend on the batch.

    >>> matrix = IntMatrix.of(np.array([[1, 0], [0, 2], [1, 1]], np.float32))
    >>> product(matrix, np.array([[1, 3]], np.float32)).round(2)
    array([[1., 6., 4.]], dtype=float32)
    """
    rounded, unit = matrix.round_queries(x)
    out = np.empty((len(x), len(matrix.rows)), np.float32)
    multiply = cpu.product if matrix.bits == 8 else cpu.product_4_bits
    multiply(matrix.rows.reshape(-1), matrix.scales, rounded, unit, out)
    return out


def padded(dim: int) -> int:
    """Columns of a matrix of ``dim`` and their padding.

    >>> padded(384), padded(385)
    (384, 448)
    """
    return -(-dim // _LANES) * _LANES


def _norm(stored: np.ndarray) -> float:
    """Largest length of a row of numbers (h, p)."""
    return float(np.sqrt((stored.astype(np.float64) ** 2).sum(1).max(initial=0)))


def _unpack(rows: np.ndarray) -> np.ndarray:
    """Stored numbers (h, 2·b) uint8, 0…15, of rows (h, b) uint8 of two each."""
    blocks = rows.reshape(len(rows), -1, 1, _LANES // 2)
    return np.concatenate([blocks & 15, blocks >> 4], 2).reshape(len(rows), -1)
