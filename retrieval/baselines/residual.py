"""Residual quantisation (Chen et al., 2010)."""

from typing import Any

import faiss

from compressae.retrieval.baselines.faiss_index import TRAIN_ROWS, FaissIndex
from compressae.retrieval.baselines.product import CENTROIDS
from compressae.retrieval.embeddings import as_embeddings
from compressae.retrieval.errors import InputError


class RQ(FaissIndex):
    """faiss's IndexResidualQuantizer of 8 bits a stage, scanned.

    Its codebooks are 1,024·d·code_bytes bytes, whatever n: on a small table they weigh more than
    the codes and can learn the rows by heart.

    Args:
        items: (n, d), n ≥ 256.
        code_bytes: stages.
        train_rows: rows that the centroids are trained on at most.
        beam: width of the search for a row's code, in training too; faiss's default is 5, which
            takes some three times as long as 1.
    """

    def __init__(
        self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS, beam: int = 1
    ) -> None:
        items = as_embeddings(items)
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
