"""Results of a library in the order of ``Hits``."""

import numpy as np

from compressae.retrieval.index.hits import Hits


def write_hits(hits: Hits, first: int, ids: np.ndarray, scores: np.ndarray) -> None:
    """Write results into hits[first:first + q], best first, ties by smaller id.

    Args:
        hits: of at least first + q queries and K results.
        first: row of the first query.
        ids: (q, K) int64; −1 is padding.
        scores: (q, K) float32; −inf where ids are padding.

    >>> hits = Hits.empty(1, 3)
    >>> write_hits(hits, 0, np.array([[7, 3, 5]]), np.array([[0.5, 0.5, 0.9]], np.float32))
    >>> hits.ids.tolist()
    [[5, 3, 7]]
    """
    order = np.lexsort((ids, -scores), axis=-1)
    place = slice(first, first + len(ids)), slice(0, ids.shape[1])
    hits.ids[place] = np.take_along_axis(ids, order, 1)
    hits.scores[place] = np.take_along_axis(scores, order, 1)
