"""CompressedIndex: dense queries in, ids out, over the compressed rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from compressae.kernels.product import product
from compressae.kernels.threads import over_rows
from compressae.retrieval.codes import Codes
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.paper import SparseLists, reconstruct_queries, search_sparse
from compressae.retrieval.index.postings import build_segment
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.index.request import CandidateCount, Scoring, SearchRequest
from compressae.retrieval.index.segments import Segment, SegmentedIndex, Segments
from compressae.retrieval.index.two_stage import TwoStageSearch, rerank
from compressae.retrieval.io.embeddings import Similarity
from compressae.retrieval.io.schema import Count, Positive

#: Entries of q' that search the lists until ``tune`` sets them; chosen on WordNet
#: (docs/results/recall_wordnet.md).
QUERY_NONZEROS = 64

ProjectionType = Literal["int8", "float32"]


@dataclass(frozen=True)
class SearchSettings:
    """How an index is searched unless told, as a file records it.

    Attributes:
        lists: it holds posting lists.
        weights: how the projection is held.
        query_nonzeros, candidates, tuned: see ``CompressedIndex``.
    """

    lists: bool = True
    weights: ProjectionType = "int8"
    query_nonzeros: Positive | None = None
    candidates: Positive | Literal["all"] | None = None
    tuned: tuple[Count, Positive | Literal["all"] | None] = (0, None)


class CompressedIndex(SegmentedIndex):
    """Search over the codes of a table by cosine or dot product, by posting lists.

    The similarity is that of the codes. For dot products every score below is multiplied by the
    query's length, and y keeps its own. Ways to score a dense query x of unit length against the
    code s of an item y:

    - "asymmetric" (default): x·ŷ, the query not compressed. q' = W·x; the largest entries of q'
      search the posting lists, the best candidates are rescored exactly as q'·s, residual codes
      included where rows carry them.
    - "sparse" and "reconstructed": the paper's two modes, see ``retrieval.index.paper``.

    Args:
        projection: weights of the model that made the codes: ``model.projection``.
        codes: (n, h), from ``compress`` or ``encode``.
        threads: processors to use; all that the process may use when None.
        ids: (n,) whole numbers ≥ 0, the items' ids; 0…n − 1 when None.
        lists: hold posting lists. Without them a search scans all codes ("sparse" apart).
        projection_type: how W is held for q' = W·x: "int8", whole numbers of 8 bits, takes a third
            of the time for one query and moves scores by some 0.001; a decoder that was trained to
            4 bits is held so, exactly (``compressae.kernels.product``). "float32" is exact.

    Attributes:
        projection: as given.
        query_nonzeros, candidates: what ``search`` uses unless told; ``tune`` sets them.
        tuned: (K, candidates) of the last ``tune``; searches for more results raise the candidates
            in proportion.

    Raises:
        InputError: the codes are of another model.

    >>> from compressae import TrainConfig, compress, load_sample, train
    >>> items = load_sample().embeddings.subset(np.arange(2000))
    >>> model = train(items, TrainConfig(latents=256, nonzeros=8, steps=4))
    >>> index = CompressedIndex(model.projection, compress(model, items))
    >>> index.search(items.take(np.arange(2)), 1).ids.tolist()
    [[0], [1]]
    """

    def __init__(
        self,
        projection: Projection,
        codes: Codes,
        threads: int | None = None,
        ids: Any = None,
        lists: bool = True,
        projection_type: ProjectionType = "int8",
    ) -> None:
        if not isinstance(projection, Projection):
            raise InputError(
                f"projection: {type(projection).__name__}; expected a Projection: model.projection"
            )
        projection.check_codes(codes)
        self._set(projection, threads, lists, projection_type)
        self.segments = Segments(codes, self.build, ids)

    def _set(
        self,
        projection: Projection,
        threads: int | None,
        lists: bool,
        projection_type: ProjectionType,
    ) -> None:
        if projection_type not in ("int8", "float32"):
            raise InputError(f"projection_type {projection_type!r}: expected int8 or float32")
        self.projection, self.threads, self.has_lists = projection, threads, lists
        self.projection_type = projection_type
        self._matrix = projection.int_matrix if projection_type == "int8" else None
        self.sparse_lists = SparseLists(threads)
        self.query_nonzeros = min(QUERY_NONZEROS, projection.latents)
        self.candidates: CandidateCount = None
        self.tuned: tuple[int, CandidateCount] = (0, None)

    def build(self, codes: Codes, ids: np.ndarray | None) -> Segment:
        """Build a segment of rows as this index holds them; see ``segments.Build``."""
        if not self.has_lists:
            return Segment(codes, ids=ids)
        return build_segment(codes, ids, "dot", "int8", self.threads)

    def over(self, parts: Sequence[Segment], next_id: int) -> Self:
        index = super().over(parts, next_id)
        index.sparse_lists = SparseLists(self.threads)
        return index

    def __repr__(self) -> str:
        p, n = self.projection, len(self)
        return (
            f"CompressedIndex({n:,} items of {p.dim} dimensions, {p.latents:,} latents, "
            f"{self.nbytes / max(n, 1):.4g} bytes an item, model {p.model_id})"
        )

    @property
    def similarity(self) -> Similarity:
        """What scores estimate: "cosine" or "dot"; that of the codes."""
        return self.segments.parts[0].codes.similarity

    @property
    def nbytes(self) -> int:
        """Bytes held that grow with n: codes, posting lists, those of "sparse" once in use."""
        return self.segments.nbytes + self.sparse_lists.nbytes

    @property
    def constant_nbytes(self) -> int:
        """Bytes that asymmetric search needs whatever n: W and the quantiser of packed codes."""
        held = self.projection.decoder if self._matrix is None else self._matrix
        return held.nbytes + self.segments.parts[0].codes.constant_nbytes

    def project(self, x: np.ndarray) -> np.ndarray:
        """Project unit queries x (m, d) on the latents: q' = W·x (m, h) float32."""
        return x @ self.projection.decoder.T if self._matrix is None else product(self._matrix, x)

    def search(
        self,
        queries: Any,
        K: int,
        scoring: Scoring = "asymmetric",
        candidates: CandidateCount = None,
        query_nonzeros: int | None = None,
        allowed: Any = None,
        rerank: Any = None,
        rerank_candidates: int | None = None,
        exclude: Any = None,
    ) -> Hits:
        """Find the K best items of each query.

        Args:
            queries: (q, d) dense rows of any length; or codes of the same model, which are decoded,
                where queries are stored compressed too.
            K: results a query; above n, rows are padded.
            scoring: see the class.
            candidates: items rescored a query (not for "sparse"): at least K; "all" scores every
                item, exactly; ``self.candidates`` when None, which is 3,000 or 10·K until ``tune``
                sets it.
            query_nonzeros: entries of q' that search the lists, ``self.query_nonzeros`` when None;
                for "sparse" nonzeros of the query's code, the model's k when None. More cost time
                but no memory.
            allowed: only these may be found: ids (m,), or bool (m,) by id with m above the
                largest id; all when None.
            rerank: the items' own embeddings, row numbers being ids: an array, a path or
                ``Embeddings``, best on disk. The best items are read from it and reranked by exact
                cosine or dot product. ``HotRows`` rerank those of the best items that are hot.
            rerank_candidates: items read a query, at least K; 4·K when None.
            exclude: items that each query leaves out, as those that a user has seen: a scipy sparse
                matrix (q, any width) whose nonzeros' columns are ids. Exact: the others are found
                as if these were not in the index.

        Raises:
            InputError: queries of another width, NaN, infinite or for cosine zero; K or candidates
                too small; ``exclude`` of another form.
        """
        request = SearchRequest.of(
            self,
            queries,
            K,
            scoring,
            candidates,
            query_nonzeros,
            allowed,
            rerank,
            rerank_candidates,
            exclude,
        )
        return self.answer(request)

    def answer(self, request: SearchRequest) -> Hits:
        """Answer a checked request; see ``search``."""
        hits = Hits.empty(len(request), request.K)
        if not request.rows:
            return hits
        two_stage = TwoStageSearch(request, self.project)
        for start, x, lengths in request.batches():
            # The first stage writes into the hits themselves unless they are reranked.
            found, first = hits, start
            if request.rerank is not None:
                found, first = Hits.empty(len(x), request.first_stage), 0
            if request.scoring == "sparse":
                part = search_sparse(request, x, start, self.projection, self.sparse_lists)
                found.ids[first : first + len(x)] = part.ids
                found.scores[first : first + len(x)] = part.scores
            else:
                view = x
                if request.scoring == "reconstructed":
                    view = reconstruct_queries(self.projection, request.segments[0].codes, x)
                over_rows(
                    lambda a, b: two_stage(view, a, b, found, first, start), len(x), self.threads
                )
            if request.rerank is not None:
                rerank(request.rerank, x, found, hits, start)
            if lengths is not None:
                hits.scale(start, lengths)
        return replace(hits, rows_scored=sum(two_stage.scored))

    def add(self, codes: Codes, ids: Any = None) -> np.ndarray:
        """Add items, which searches find from now on.

        Args:
            codes: (m, h) like those of the index: ``encode_like(model, embeddings, index.codes)``.
            ids: (m,) whole numbers ≥ 0 that the index does not hold; the next ones when None.

        Returns:
            The ids (m,) int64.

        Raises:
            InputError: codes of another model, form or quantiser; an id that is in the index.
                Nothing was changed.
        """
        return self.segments.add(codes, ids)

    def update(self, ids: Any, codes: Codes) -> None:
        """Replace the items of ids (m,) by codes (m, h).

        Raises:
            InputError: see ``add`` and ``remove``. Nothing was changed.
        """
        self.segments.update(ids, codes)

    @classmethod
    def of(
        cls,
        projection: Projection,
        parts: Sequence[Segment],
        next_id: int = 0,
        threads: int | None = None,
        search: "SearchSettings | None" = None,
    ) -> "CompressedIndex":
        """Wrap segments that an index built; see the class and ``Segments.of``.

        Raises:
            InputError: the segments are of another model, or settings that do not go with it.
        """
        search = search or SearchSettings()
        for segment in parts:
            projection.check_codes(segment.codes)
            if search.lists and segment.lists is None:
                raise InputError("a segment lacks its posting lists; build the index again")
        index = cls.__new__(cls)
        index._set(projection, threads, search.lists, search.weights)
        index.configure(search)
        index.segments = Segments.of(parts, index.build, next_id)
        return index

    def configure(self, search: "SearchSettings | None") -> None:
        """Set what ``search`` uses unless told."""
        search = search or SearchSettings()
        nonzeros = QUERY_NONZEROS if search.query_nonzeros is None else search.query_nonzeros
        self.query_nonzeros = min(nonzeros, self.projection.latents)
        self.candidates, self.tuned = search.candidates, search.tuned

    @property
    def search_settings(self) -> "SearchSettings":
        """What a saved index records of how it is searched."""
        return SearchSettings(
            self.has_lists, self.projection_type, self.query_nonzeros, self.candidates, self.tuned
        )
