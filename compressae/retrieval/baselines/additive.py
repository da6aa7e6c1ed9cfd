"""Additive quantisation: a row is a sum of centroids, or parts of a row are."""

from typing import Any

import faiss

from compressae.retrieval.baselines.faiss_index import FaissIndex, divisor
from compressae.retrieval.baselines.product import CENTROIDS, set_principal_axes
from compressae.retrieval.baselines.sample import TRAIN_ROWS
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import Embeddings, as_compared

#: Centroids that are added for each part of a row, where a row has parts.
_STAGES = 8
#: Inner products need no norm.
_LOOK_UP = faiss.AdditiveQuantizer.ST_LUT_nonorm


class RQ(FaissIndex):
    """faiss's IndexResidualQuantizer of 8 bits a stage (Chen et al., 2010), scanned.

    Its codebooks take 1,024·d·code_bytes bytes, whatever n: on a small table more than the codes,
    and enough to memorise the rows.

    Args:
        items: (n, d), n ≥ 256.
        code_bytes: number of stages.
        train_rows: most rows that the centroids are trained on.
        beam: beam width of encoding, in training too; 5 is faiss's default, 1 takes a third of the
            time.
    """

    def __init__(
        self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS, beam: int = 5
    ) -> None:
        items = as_compared(items)
        _check(code_bytes, beam)
        d = items.shape[1]
        index = faiss.IndexResidualQuantizer(  # type: ignore[call-overload]
            d, code_bytes, 8, faiss.METRIC_INNER_PRODUCT, _LOOK_UP
        )
        _set_up(index.rq, beam)
        super().__init__(index, items, code_bytes, train_rows, CENTROIDS)


class PRQ(FaissIndex):
    """faiss's IndexProductResidualQuantizer: parts of a row, of 8 stages each, scanned.

    Rows are rotated first, by ``principal_parts``.

    Args:
        items: (n, d), n ≥ 256.
        code_bytes: stages of all parts; rounded down to equal parts of a divisor of d.
        train_rows, beam: as of ``RQ``.
    """

    def __init__(
        self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS, beam: int = 5
    ) -> None:
        items = as_compared(items)
        _check(code_bytes, beam)
        d = items.shape[1]
        parts, stages = _parts(d, code_bytes)
        index = faiss.IndexProductResidualQuantizer(  # type: ignore[call-arg]
            d, parts, stages, 8, faiss.METRIC_INNER_PRODUCT, _LOOK_UP
        )
        for part in range(parts):
            part_quantizer = index.prq.subquantizer(part)
            _set_up(faiss.downcast_AdditiveQuantizer(part_quantizer), beam)  # type: ignore[attr-defined]
        super().__init__(
            _rotated(index, parts, items, train_rows), items, parts * stages, train_rows, CENTROIDS
        )
        self.constant_nbytes = _part_bytes(d, stages)

    @staticmethod
    def code_size(d: int, code_bytes: int) -> int:
        """Bytes of a row that ``code_bytes`` end in."""
        parts, stages = _parts(d, code_bytes)
        return parts * stages


class LSQ(FaissIndex):
    """faiss's IndexProductLocalSearchQuantizer (LSQ++: Martinez et al., 2018), scanned.

    Parts of a row, rotated first as by ``PRQ``, of 8 codebooks each, whose numbers are found by
    local search, which is slow.

    Args:
        items: (n, d), n ≥ 256.
        code_bytes: codebooks of all parts; rounded down to equal parts of a divisor of d.
        train_rows: as of ``RQ``.
    """

    def __init__(self, items: Any, code_bytes: int = 64, train_rows: int = TRAIN_ROWS) -> None:
        items = as_compared(items)
        _check(code_bytes)
        d = items.shape[1]
        parts, stages = _parts(d, code_bytes)
        index = faiss.IndexProductLocalSearchQuantizer(  # type: ignore[call-arg]
            d, parts, stages, 8, faiss.METRIC_INNER_PRODUCT, _LOOK_UP
        )
        super().__init__(
            _rotated(index, parts, items, train_rows), items, parts * stages, train_rows, CENTROIDS
        )
        self.constant_nbytes = _part_bytes(d, stages)

    code_size = PRQ.code_size


def _rotated(index: Any, parts: int, items: Embeddings, train_rows: int) -> Any:
    """An index of parts behind the rotation that shares the variance among them."""
    d = items.shape[1]
    rotation = faiss.LinearTransform(d, d, False)
    set_principal_axes(rotation, items, parts, train_rows)
    rotation.is_trained = True
    return faiss.IndexPreTransform(rotation, index)


def _part_bytes(d: int, stages: int) -> int:
    """Bytes of the codebooks of all parts, which faiss writes twice, and of the rotation."""
    return 4 * CENTROIDS * d * stages + 4 * d * d


def _check(code_bytes: int, beam: int = 1) -> None:
    if code_bytes < 1 or beam < 1:
        raise InputError(f"{code_bytes} bytes a row, beam {beam}: expected at least 1 each")


def _set_up(quantizer: Any, beam: int) -> None:
    quantizer.max_beam_size = beam
    quantizer.use_beam_LUT = 1
    quantizer.cp.min_points_per_centroid = 1  # No warnings on stderr.


def _parts(d: int, code_bytes: int) -> tuple[int, int]:
    """Parts of a row, a divisor of d, and bytes of a part: about 8."""
    parts = divisor(d, max(1, code_bytes // _STAGES), "parts")
    return parts, code_bytes // parts
