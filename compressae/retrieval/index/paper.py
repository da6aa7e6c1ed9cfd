"""The paper's two scorings of compressed items (arXiv 2505.11388): "sparse" and "reconstructed".

- "sparse", the fast mode: cos(s_x, s_y), posting lists alone, exact. Its lists hold other values
  than those of asymmetric search; they are built for each segment when first used. Of codes for dot
  products it is s_x·s_y with s_x of unit length, and the lists are those of asymmetric search.
- "reconstructed", the accurate mode: x̂·ŷ with x̂ of unit length. Asymmetric search with x̂ in place
  of x, which equals the paper's form through K = W Wᵀ at O(k) instead of O(k²) a pair.
"""

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compressae.kernels.decode import decode
from compressae.kernels.refit import refit
from compressae.retrieval.codes.base import Codes
from compressae.retrieval.codes.sparse import CsrRows, id_dtype
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.inverted import search_lists
from compressae.retrieval.index.postings import build_segment
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.index.request import Scoring, SearchRequest
from compressae.retrieval.index.segments import Segment
from compressae.retrieval.io.embeddings import unit_rows

if TYPE_CHECKING:
    from compressae.retrieval.index.compressed import CompressedIndex


class SparseLists:
    """Posting lists of the similarity of sparse codes, a set a segment, built on first use."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self._built: list[Segment] = []
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the lists built so far; their codes are the index's own."""
        return sum(segment.nbytes - segment.codes.nbytes for segment in self._built)

    def of(self, segments: tuple[Segment, ...]) -> list[Segment]:
        """The same rows with lists of their similarity."""
        if segments[0].codes.similarity == "dot" and segments[0].lists is not None:
            return list(segments)
        with self._lock:
            by_codes = {id(segment.codes): segment for segment in self._built}
            self._built = [
                by_codes.get(id(s.codes))
                or build_segment(s.codes, s.ids, s.codes.similarity, "int8", self.threads)
                for s in segments
            ]
            return [replace(b, alive=s.alive) for b, s in zip(self._built, segments, strict=True)]


def search_sparse(
    request: SearchRequest,
    x: np.ndarray,
    number: int,
    projection: Projection,
    lists: SparseLists,
) -> Hits:
    """Find the rows of largest cos(s_x, s_y) for unit queries x (m, d), from ``number`` on."""
    ids, values = projection.encode(x, request.query_nonzeros)
    m, k = ids.shape
    exact = values.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    exact = np.divide(exact, norms, where=norms > 0, out=np.zeros_like(exact))
    flat = ids.reshape(-1).astype(id_dtype(projection.latents))
    terms = CsrRows(np.arange(m + 1, dtype=np.int64) * k, flat, exact.reshape(-1))
    return search_lists(
        lists.of(request.segments),
        request.masks,
        request.filtered,
        terms,
        projection.latents,
        request.first_stage,
        lists.threads,
        request.exclude,
        number,
    )


def reconstruct_queries(projection: Projection, codes: Codes, x: np.ndarray) -> np.ndarray:
    """Replace unit queries x (m, d) by their unit reconstructions x̂ (m, d).

    Values are refitted by least squares where those of the codes were.
    """
    ids, values = projection.encode(x, projection.nonzeros)
    if codes.settings.get("refit"):
        values = refit(x, ids, projection.decoder)
    return unit_rows(decode(ids, values, projection.decoder))


def scoring_nbytes(index: "CompressedIndex", scoring: Scoring) -> int:
    """Bytes that grow with n and that one scoring of an index reads."""
    if scoring != "sparse":
        return index.segments.nbytes
    return sum(segment.nbytes for segment in index.sparse_lists.of(index.segments.parts))


def scoring_constant_nbytes(index: "CompressedIndex", scoring: Scoring) -> int:
    """Bytes that one scoring of an index needs whatever n: weights and the quantiser."""
    projection = index.projection
    if scoring == "sparse":
        return projection.encoder_nbytes
    nbytes = index.constant_nbytes
    if scoring == "reconstructed":
        nbytes += projection.encoder_nbytes + projection.decoder.nbytes
    return nbytes
