"""Definition of the two selections, in plain numpy."""

import numpy as np


def abs_topk(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Top k entries by |x| of each row: ids (n, k) and signed values (n, k).

    Sorted by descending |value|, ties by smaller id.
    """
    ids = np.argsort(-np.abs(x), axis=1, kind="stable")[:, :k]
    return ids.astype(np.int32), np.take_along_axis(x, ids, 1)


def best(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Top ``count`` of scores (n,): ids and scores, best first, ties by smaller id."""
    ids = np.argsort(-scores, kind="stable")[:count]
    return ids.astype(np.int64), scores[ids]
