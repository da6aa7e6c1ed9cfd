"""Definition of the chain quantiser, in plain numpy."""

import numpy as np


def decode(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Parts (n, p·s) that codes (n, p) stand for; codebooks (p, 256, 2·s), see ``encode``."""
    n, p = codes.shape
    own, next_part = np.split(codebooks, 2, axis=2)
    parts = own[np.arange(p), codes]
    parts[:, 1:] += next_part[np.arange(p - 1), codes[:, :-1]]
    return parts.reshape(n, -1)


def encode(parts: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Codes (n, p) uint8 of least squared error for parts (n, p·s), by Viterbi's algorithm.

    Codebooks (p, 256, 2·s): the first s numbers of a centroid belong to the code's own part, the
    others to the next one. The last part has no next one.
    """
    p = len(codebooks)
    own, next_part = np.split(codebooks.astype(np.float64), 2, axis=2)
    codes = np.empty((len(parts), p), np.uint8)
    for i, row in enumerate(parts.reshape(len(parts), p, -1)):
        cost = np.square(row[0] - own[0]).sum(1)  # Of the best codes that end in each state.
        back = np.empty((p, 256), np.int64)
        for t in range(1, p):
            sums = next_part[t - 1][:, None] + own[t]
            total = cost[:, None] + np.square(row[t] - sums).sum(2)
            back[t], cost = total.argmin(0), total.min(0)
        codes[i, p - 1] = cost.argmin()
        for t in range(p - 1, 0, -1):
            codes[i, t - 1] = back[t, codes[i, t]]
    return codes
