"""Quantisation of a code's values."""

import numpy as np

from compressae.kernels.quantize import cpu
from compressae.kernels.threads import over_rows


def quantize_rows(
    values: np.ndarray, indptr: np.ndarray, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """int8 with one scale a row: v ≈ codes · scales[row], the error at most half a scale.

    Args:
        values: (nnz,) float32, row i at ``indptr[i]:indptr[i + 1]``.
        indptr: (n + 1,) int64.
        threads: processors to use; all that the process may use when None.

    Returns:
        codes (nnz,) int8 in −127…127 and scales (n,) float32: max|v| / 127 of the row, 1 where
        that is zero.
    """
    codes, scales = np.empty(len(values), np.int8), np.empty(len(indptr) - 1, np.float32)
    over_rows(
        lambda a, b: cpu.quantize_rows(values, indptr, codes, scales, a, b), len(scales), threads
    )
    return codes, scales
