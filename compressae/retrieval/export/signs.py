"""Signs: sparse rows of both signs as non-negative rows of twice the width, for stores that refuse
negative values."""

from typing import Literal, get_args

import numpy as np

from compressae.retrieval.errors import InputError

#: "both": values as they are. "halves": latent i of a negative value becomes h + i.
Signs = Literal["both", "halves"]


def check_signs(signs: str) -> None:
    """Refuse what is no ``Signs``.

    Raises:
        InputError: it is none.
    """
    if signs not in get_args(Signs):
        raise InputError(f"signs {signs!r}; expected one of {', '.join(get_args(Signs))}")


def as_halves(
    bounds: np.ndarray, latents: np.ndarray, values: np.ndarray, h: int
) -> tuple[np.ndarray, np.ndarray]:
    """Latents and values of CSR rows (m, h) as rows (m, 2h): [max(s, 0), max(−s, 0)].

    Args:
        bounds: (m + 1,) of the rows, which stay as they are.
        latents, values: (nnz,) of the rows; latents ascend within a row.
        h: latents.

    Raises:
        InputError: 2h numbers are more than a latent's 32 bits tell apart.

    Returns:
        Latents below 2h, ascending within a row, and values without signs.

    >>> as_halves(np.array([0, 3]), np.array([0, 1, 4]), np.array([0.5, -2.0, 1.0]), 5)
    (array([0, 4, 6]), array([0.5, 1. , 2. ]))
    """
    if 2 * h > np.iinfo(latents.dtype).max:
        raise InputError(f"{h:,} latents: too many for two halves of signs; keep both signs")
    is_negative = values < 0
    row_of = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    order = np.lexsort((is_negative, row_of))  # Stable: latents ascend within each half.
    shifted = np.where(is_negative, latents + latents.dtype.type(h), latents)
    return shifted[order], np.abs(values)[order]
