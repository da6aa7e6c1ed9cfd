"""Residual quantisation (Chen et al., 2010)."""

from typing import Any

import faiss

from compressae.retrieval.baselines.faiss_index import FaissIndex
from compressae.retrieval.baselines.product import CENTROIDS
from compressae.retrieval.baselines.sample import TRAIN_ROWS
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import as_compared


class RQ(FaissIndex):
    """faiss's IndexResidualQuantizer of 8 bits a stage, scanned.

    Its codebooks take 1,024·d·code_bytes bytes, whatever n: on a small table more than the codes,
    and enough to memorise the rows.

    Args:
        items: (n, d), n ≥ 256.
        code_bytes: number of stages.
        train_rows: most rows that the centroids are trained on.
        beam: beam width of encoding, in training too; faiss's default, 5, takes about three times
            as long as 1.
    """

    def __init__(
        self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS, beam: int = 1
    ) -> None:
        items = as_compared(items)
        if code_bytes < 1 or beam < 1:
            raise InputError(f"{code_bytes} bytes a row, beam {beam}: expected at least 1 each")
        d = items.shape[1]
        look_up = faiss.AdditiveQuantizer.ST_LUT_nonorm  # Inner products need no norm.
        index = faiss.IndexResidualQuantizer(  # type: ignore[call-overload]
            d, code_bytes, 8, faiss.METRIC_INNER_PRODUCT, look_up
        )
        index.rq.max_beam_size = beam
        index.rq.use_beam_LUT = 1
        index.rq.cp.min_points_per_centroid = 1  # No warnings on stderr.
        super().__init__(index, items, code_bytes, train_rows, CENTROIDS)
