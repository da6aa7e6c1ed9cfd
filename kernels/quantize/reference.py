"""The definition of row-wise int8 quantisation, in plain numpy."""

from itertools import pairwise

import numpy as np


def quantize_rows(values: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes (nnz,) and float32 scales (n,): scale = max|v| / 127, code = rint(v / scale)."""
    codes = np.empty(len(values), np.int8)
    scales = np.ones(len(indptr) - 1, np.float32)
    for i, (start, stop) in enumerate(pairwise(indptr)):
        row = values[start:stop]
        if np.any(row):
            scales[i] = np.float32(np.abs(row).max()) / np.float32(127)
        codes[start:stop] = np.rint(row / scales[i])
    return codes, scales
