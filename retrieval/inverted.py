"""Exact search over sparse rows by posting lists."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from compressae.kernels.candidates import TOGETHER, find_candidates
from compressae.kernels.postings import touched
from compressae.kernels.threads import over_rows
from compressae.kernels.topk import best
from compressae.retrieval.blocks import RESULTS
from compressae.retrieval.catalogue import Catalogue, Codes, Segment
from compressae.retrieval.codes import KIND as CODES
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.errors import InputError
from compressae.retrieval.lists import (
    Similarity,
    Stored,
    build_segment,
    list_arrays,
    open_lists,
    whole_segment,
)
from compressae.retrieval.packed import PACKED, PackedCodes
from compressae.retrieval.searcher import Hits, check_count
from compressae.retrieval.storage import load_artifact, save_artifact

KIND = "inverted"
#: Where no more rows than these are allowed, they are scored one by one, without lists.
_FEW = 4096
#: Fewest rows that are worth bounds of blocks.
_BLOCKS_FROM = 4096
#: Queries of a sample that are timed, and results of each.
_SAMPLE, _SAMPLE_RESULTS = 200, 100

#: Ids and scores of the best, best first.
Best = tuple[np.ndarray, np.ndarray]


class InvertedIndex:
    """Posting lists over sparse rows (n, h); answers equal brute force over every row.

    Lists hold row numbers and int8 values, three bytes a nonzero. Integer sums over them find the
    rows that may be among the best, with a proven bound (``compressae.kernels.candidates``); those
    are scored from the codes, which the index keeps: summed in float64 (packed codes in float32),
    rounded to float32, ties by smaller id. A row that shares no latent with the query has score 0
    and is ranked like any other, before rows of negative score.

    Args:
        codes: the rows: ``SparseCodes``, a scipy sparse matrix, a sparse torch tensor, or
            ``PackedCodes``, of which the nonzeros are searched. Rows of any lengths and signs; h
            costs 4 bytes for each 65,536 rows.
        threads: processors to use; all that the process may use when None. Results are the same
            for any number.
        similarity: "dot" or "cosine" of the sparse rows.
        values: of the lists: "float32" takes six bytes a nonzero and leaves fewer rows to score
            where a few values are much larger than the rest.
        ids: (n,) whole numbers ≥ 0 by which rows are known; 0…n − 1 when None.
        sample: sparse queries like those to come. Rows are then ordered by similarity and bounds of
            blocks of them are added (``compressae.kernels.blocks``), if that answers the sample
            faster; not for ``PackedCodes``.

    Raises:
        InputError: no codes, or ids that do not fit them.
    """

    def __init__(
        self,
        codes: Any,
        threads: int | None = None,
        *,
        similarity: Similarity = "dot",
        values: Stored = "int8",
        ids: Any = None,
        sample: Any = None,
    ) -> None:
        self._set(similarity, values, threads)
        codes = as_codes(codes, "codes")
        self.latents = codes.latents
        self.catalogue = Catalogue(codes, self._build, ids)
        if sample is not None:
            if not isinstance(codes, SparseCodes):
                raise InputError("sample: bounds of blocks are for SparseCodes; leave it out")
            self._choose(codes, ids, as_codes(sample, "sample"))

    def _set(self, similarity: Similarity, values: Stored, threads: int | None) -> None:
        if similarity not in ("dot", "cosine") or values not in ("int8", "float32"):
            raise InputError(
                f"similarity {similarity!r}, values {values!r}; expected dot or cosine, int8 or "
                "float32"
            )
        self.similarity, self.values, self.threads = similarity, values, threads
        self.has_blocks = False

    def _build(self, codes: Codes, ids: np.ndarray | None) -> Segment:
        blocks = self.has_blocks and len(codes) >= _BLOCKS_FROM
        return build_segment(codes, ids, self.similarity, self.values, self.threads, blocks)

    def _choose(self, codes: SparseCodes, ids: Any, sample: Codes) -> None:
        """Keep bounds of blocks if they answer the sample in less than 0.9 of the time."""
        singles = [sample.take(np.array([i])) for i in range(min(len(sample), _SAMPLE))]
        K = min(_SAMPLE_RESULTS, len(codes))
        plain = self.catalogue
        self.has_blocks = True
        with_blocks = Catalogue(codes, self._build, ids)
        seconds = []
        for self.catalogue in (plain, with_blocks, plain, with_blocks):  # The first two warm up.
            started = time.perf_counter()
            for one in singles:
                self.search(one, K)
            seconds.append(time.perf_counter() - started)
        self.has_blocks = seconds[3] < 0.9 * seconds[2]
        self.catalogue = with_blocks if self.has_blocks else plain

    def __len__(self) -> int:
        return len(self.catalogue)

    @property
    def codes(self) -> Codes:
        """The rows by ascending id; merged into one segment first if they are not."""
        segment = self.catalogue.compact()
        return segment.codes if segment.by_id is None else segment.codes.take(segment.by_id)

    @property
    def nbytes(self) -> int:
        """Bytes of lists and codes; everything that grows with n."""
        return self.catalogue.nbytes

    @property
    def list_nbytes(self) -> int:
        """Bytes of the lists alone, their bounds included."""
        return self.catalogue.list_nbytes

    def search(self, queries: Any, K: int, allowed: Any = None) -> Hits:
        """The K rows of largest score with each query.

        Args:
            queries: (q, h) sparse rows: a scipy sparse matrix, a sparse torch tensor or
                ``SparseCodes``.
            K: results a query; above n, rows are padded.
            allowed: only these may be found: ids (m,), or bool (m,) by id with m above the
                largest; all when None.

        Raises:
            InputError: queries of another width, NaN or infinite; K < 1; another form of allowed.
        """
        check_count(K)
        queries = as_codes(queries, "queries")
        if isinstance(queries, PackedCodes):
            queries = queries.unpack()
        if queries.latents != self.latents:
            raise InputError(
                f"queries: {queries.latents} latents; expected {self.latents}, those of the index"
            )
        segments, masks = self.catalogue.snapshot(allowed)
        few = [None if allowed is None else _few_rows(mask) for mask in masks]
        values = queries.row_values()
        if self.similarity == "cosine":
            norms = np.repeat(queries.norms(np.float64), queries.nonzeros)
            values = np.divide(values, norms, where=norms > 0, out=np.zeros(len(values)))
        hits = Hits.empty(len(queries), K)

        def fill(start: int, stop: int) -> None:
            dense = np.zeros(self.latents, values.dtype)
            for first in range(start, stop, TOGETHER):
                ends = queries.indptr[first : min(first + TOGETHER, stop) + 1]
                here = slice(ends[0], ends[-1])
                asked = (ends - ends[0], queries.indices[here], values[here])
                answers = [
                    _answers(segment, *asked, dense, K, mask, rows)
                    for segment, mask, rows in zip(segments, masks, few, strict=True)
                ]
                for i, parts in enumerate(zip(*answers, strict=True)):
                    merge_hits(parts, hits, first + i)

        over_rows(fill, len(queries), self.threads)
        return hits

    def add(self, codes: Any, ids: Any = None) -> np.ndarray:
        """Add rows; they are found from now on.

        Args:
            codes: (m, h) rows of the index's own kind of codes; a scipy sparse matrix or a sparse
                torch tensor for an index of ``SparseCodes``.
            ids: (m,) whole numbers ≥ 0 that the index does not hold; the next ones when None.

        Returns:
            The ids (m,) int64.

        Raises:
            InputError: the codes do not go with the index's, or an id is there already. Nothing
                was changed.
        """
        return self.catalogue.add(self._alike(codes), ids)

    def remove(self, ids: Any) -> None:
        """Remove rows; they are not found any more, and ``compact`` frees their bytes.

        Raises:
            InputError: an id is not in the index, or given twice. Nothing was changed.
        """
        self.catalogue.remove(ids)

    def update(self, ids: Any, codes: Any) -> None:
        """Replace the rows of ids (m,) by codes (m, h).

        Raises:
            InputError: see ``add`` and ``remove``. Nothing was changed.
        """
        self.catalogue.update(ids, self._alike(codes))

    def compact(self) -> None:
        """Merge what was added into one set of lists, and forget what was removed."""
        self.catalogue.compact()

    def _alike(self, codes: Any) -> Codes:
        """Rows to add in the form of those here."""
        codes, first = as_codes(codes, "codes"), self.catalogue.segments[0].codes
        if not isinstance(first, SparseCodes) or not isinstance(codes, SparseCodes):
            return codes
        own = first.model_id is None and codes.model_id is None
        return codes.with_values(first.value_type) if own else codes  # type: ignore[arg-type]

    def save(self, path: str | Path) -> None:
        """Write codes and lists as a folder, compacted.

        Raises:
            InputError: no row is left, or the disk failed. What stood there still stands.
        """
        segment = whole_segment(self.catalogue)
        kind = PACKED if isinstance(segment.codes, PackedCodes) else CODES
        settings = {
            "similarity": self.similarity,
            "values": self.values,
            "blocks": self.has_blocks,
            "next_id": self.catalogue.next_id,
            kind: segment.codes.artifact_settings(),
        }
        tensors = {kind: segment.codes.arrays(), "lists": list_arrays(segment)}
        save_artifact(path, KIND, settings, tensors)

    @classmethod
    def load(
        cls, path: str | Path, threads: int | None = None, verify: bool = True
    ) -> "InvertedIndex":
        """Open a saved index, memory-mapped.

        Raises:
            InputError: it is no whole index; the message names the file.
        """
        artifact = load_artifact(path, KIND, verify)
        settings, tensors = artifact.settings, artifact.tensors
        index = cls.__new__(cls)
        index._set(settings.get("similarity", "dot"), settings.get("values", "int8"), threads)
        codes: Codes
        if PACKED in tensors:
            codes = PackedCodes.from_parts(settings[PACKED], tensors[PACKED])
        elif CODES in tensors:
            codes = SparseCodes.from_parts(settings[CODES], tensors[CODES])
        else:
            raise InputError(f"{path}: lists of an older compressae; build the index again")
        index.latents, index.has_blocks = codes.latents, settings.get("blocks", False)
        next_id = settings.get("next_id", 0)
        index.catalogue = open_lists(codes, index._build, tensors["lists"], next_id, str(path))
        return index


def as_codes(rows: Any, name: str) -> Any:
    """Codes of any sparse rows.

    Raises:
        InputError: they are dense, or of a kind unknown.
    """
    if isinstance(rows, SparseCodes | PackedCodes):
        return rows
    if sparse.issparse(rows):
        return SparseCodes.from_scipy(rows)
    if hasattr(rows, "to_sparse_coo") and str(rows.layout) != "torch.strided":
        return SparseCodes.from_torch(rows)
    raise InputError(
        f"{name}: {type(rows).__name__}; expected a scipy sparse matrix, a sparse torch tensor or "
        "SparseCodes (dense queries go to CompressedIndex)"
    )


def merge_hits(parts: Sequence[Best], hits: Hits, query: int) -> None:
    """The best of each segment's ids and scores, best first, into a query's row of hits."""
    ids, scores = parts[0]
    if len(parts) > 1:
        ids = np.concatenate([part[0] for part in parts])
        scores = np.concatenate([part[1] for part in parts])
        order = np.lexsort((ids, -scores))[: hits.ids.shape[1]]
        ids, scores = ids[order], scores[order]
    hits.ids[query, : len(ids)], hits.scores[query, : len(ids)] = ids, scores


def _answers(
    segment: Segment,
    ends: np.ndarray,
    ids: np.ndarray,
    values: np.ndarray,
    dense: np.ndarray,
    K: int,
    mask: np.ndarray | None,
    few: np.ndarray | None,
) -> list[Best]:
    """The K best of a segment for each of m queries.

    Args:
        segment: its lists are there.
        ends, ids, values: of the queries, as CSR; float32, for cosines float64 of unit length.
        dense: (h,) zeros of the same type, and zeros afterwards.
        K, mask: results, and rows (n,) bool that may be found.
        few: these rows where they are few, which are then scored one by one.
    """
    assert segment.lists is not None
    blocks = segment.blocks if few is None and K <= RESULTS else None
    part, rounded = None, values.astype(np.float32)
    if few is None and blocks is None:
        part = find_candidates(segment.lists, ends, ids, rounded, K, True, mask)
    answers = []
    for i in range(len(ends) - 1):
        latents, numbers = ids[ends[i] : ends[i + 1]], rounded[ends[i] : ends[i + 1]]
        dense[latents] = values[ends[i] : ends[i + 1]]
        rows, scores = few, None
        if blocks is not None and isinstance(segment.codes, SparseCodes):
            found = blocks.best(segment.codes, segment.factors, latents, numbers, dense, K, mask)
            if found.complete:
                rows, scores = found.rows, found.scores
        if rows is None:
            one, at = part, i
            if one is None:
                alone = np.array([0, len(latents)])
                one, at = find_candidates(segment.lists, alone, latents, numbers, K, True, mask), 0
            rows = one.rows[at] if one.complete[at] else _every_row(segment, latents, K, mask)
        if scores is None:
            scores = segment.codes.dots(dense, rows, segment.factors)
        answers.append(_best(segment, rows, scores, K))
        dense[latents] = 0
    return answers


def _best(segment: Segment, rows: np.ndarray, scores: np.ndarray, K: int) -> Best:
    """Ids and scores of the K best of rows (m,), which ascend unless the segment is by_id."""
    if segment.by_id is None:
        place, top = best(scores, K)
        return segment.ids_of(rows[place]), top
    near = np.arange(len(rows))
    if len(rows) > K:
        near = np.flatnonzero(scores >= np.partition(scores, -K)[-K])
    ids = segment.ids_of(rows[near])
    order = np.lexsort((ids, -scores[near]))[:K]
    return ids[order], scores[near][order]


def _few_rows(mask: np.ndarray | None) -> np.ndarray | None:
    """The rows of a mask where they are few."""
    if mask is None or int(np.count_nonzero(mask)) > _FEW:
        return None
    return np.flatnonzero(mask)


def _every_row(
    segment: Segment, latents: np.ndarray, K: int, mask: np.ndarray | None
) -> np.ndarray:
    """Rows that hold every one of the K best, where sums cannot tell: all that share a latent with
    the query, and the first K that share none, whose score is 0."""
    assert segment.lists is not None
    flags = touched(segment.lists, latents.astype(np.int64))
    rest = ~flags
    if mask is not None:
        flags &= mask
        rest &= mask
    if segment.by_id is None:
        first = np.flatnonzero(rest)[:K]
    else:
        first = segment.by_id[rest[segment.by_id]][:K].astype(np.int64)
    return np.sort(np.concatenate([np.flatnonzero(flags), first]))
