"""Definition of posting lists, in plain numpy."""

import numpy as np


def build_window(
    indptr: np.ndarray,
    ids: np.ndarray,
    numbers: np.ndarray,
    factors: np.ndarray,
    step: float,
    h: int,
    values: np.dtype | type,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Build the lists of one window.

    Returns:
        bounds (2h + 1,) of the lists of each latent's values ≥ 0 and below 0, docs (nnz,) ascending
        within a list, stored values (nnz,), the largest squared norm of a stored row, the largest
        squared rounding error of a row.
    """
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    exact = numbers.astype(np.float64) * (factors.astype(np.float64)[rows] / step)
    stored = (np.rint(exact) if values == np.int8 else exact).astype(values)
    lists = 2 * ids.astype(np.int64) + (numbers < 0)
    order = np.argsort(lists, kind="stable")
    bounds = np.searchsorted(lists[order], np.arange(2 * h + 1))
    norms, errors = np.zeros(len(indptr) - 1), np.zeros(len(indptr) - 1)
    np.add.at(norms, rows, stored.astype(np.float64) ** 2)
    np.add.at(errors, rows, (exact - stored) ** 2)
    return bounds, rows[order], stored[order], norms.max(), errors.max()
