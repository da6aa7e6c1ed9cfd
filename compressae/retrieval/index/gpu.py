"""Dense queries in, ids out, on a GPU."""

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressae.kernels.backend import current, interprets
from compressae.kernels.candidates import resident, top_candidates
from compressae.kernels.scan import Planes, Windows, rescore, scan
from compressae.kernels.topk import abs_topk, largest
from compressae.retrieval.codes.size import parse_bytes
from compressae.retrieval.devices import pick_device
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.exclusion import Exclusion, first_others
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.paper import reconstruct_queries
from compressae.retrieval.index.request import CandidateCount, Scoring, SearchRequest
from compressae.retrieval.index.segments import Segments
from compressae.retrieval.index.two_stage import rerank as rerank_hits

if TYPE_CHECKING:
    from compressae.kernels.candidates.gpu import Resident

#: Entries of q' of the queries that are answered together, and most of them.
_ENTRIES, _QUERIES = 1 << 24, 1024
#: Share of the free memory of a GPU that rows may take unless told.
_SHARE = 0.8


class GpuIndex:
    """The rows of a ``CompressedIndex`` on a GPU, as they are when it is made: what is added,
    removed or updated later is not found.

    Search means what it means there and gives the same results but for the rounding of float32,
    and but for q', which is W·x in float32 here whatever the index's ``projection_type``.
    Unless told, all rows are scored.

    Args:
        index: stays as it is; a compacted copy of its rows is made where rows changed.
        device: "cuda", "cuda:1", or "auto".
        memory: what rows may take on the device: bytes or such as "20 GB"; when None, 0.8 of what
            is free there. Rows that do not fit lie in pinned memory of the host, and every search
            streams them through the device. The posting lists go there whole, beside the rows, in
            the first search by candidates from them.

    Raises:
        InputError: torch finds no such device; ``memory`` is no size, or too little for anything.
    """

    def __init__(
        self, index: CompressedIndex, device: str = "cuda", memory: int | str | None = None
    ) -> None:
        self.device = pick_device(device)
        if self.device.type == "cpu" and not interprets():
            raise InputError(f"device {device!r}: GpuIndex is for a GPU; search the index itself")
        self.index, self.projection = index, index.projection
        self._segment = index.segments.merged() if len(index) else index.segments.parts[0]
        self.segments = Segments.of([self._segment], index.build, index.segments.next_id)
        self._decoder = torch.from_numpy(self.projection.decoder).to(self.device)
        codes = self._segment.codes
        room = None if memory is None else parse_bytes(memory, max(1, len(codes)), "memory")
        if room is None and self.device.type == "cuda":
            room = int(_SHARE * torch.cuda.mem_get_info(self.device)[0])
        try:
            self._windows = Windows(self._planes, len(codes), self.device, room)
        except ValueError as error:
            raise InputError(str(error)) from error
        self._lists: Resident | None = None  # Once a search asks for candidates.
        self._factors: Tensor | None = None  # Of rows, for "sparse".
        self._restore = self._centroids = None
        if codes.residual_bytes:
            restore, codebooks = codes.residual_arrays()
            self._restore = torch.from_numpy(restore).to(self.device)
            self._centroids = torch.from_numpy(codebooks).to(self.device)
        self._lock = threading.Lock()  # Windows are streamed through the same memory.

    @property
    def has_lists(self) -> bool:
        return self.index.has_lists

    @property
    def query_nonzeros(self) -> int:
        return self.index.query_nonzeros

    @property
    def candidates(self) -> CandidateCount:
        return "all"

    @property
    def tuned(self) -> tuple[int, CandidateCount]:
        return 0, None

    def __repr__(self) -> str:
        return f"GpuIndex({len(self):,} items on {self.device}, {self.nbytes:,} bytes there)"

    def _planes(self, start: int, stop: int) -> Planes:
        planes: Planes = self._segment.codes.gpu_planes(start, stop)
        return planes

    def __len__(self) -> int:
        return len(self._segment)

    @property
    def nbytes(self) -> int:
        """Bytes on the device that grow with n: rows, and once in use the posting lists and what
        "sparse" needs."""
        extra = 0 if self._lists is None else self._lists.nbytes
        if self._factors is not None and not self._windows.streams:
            extra += self._factors.nbytes
        return self._windows.nbytes + extra

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
        """The K best items of each query; see ``CompressedIndex.search``.

        Args:
            candidates: "all" when None; a number takes them from the posting lists.

        Raises:
            InputError: as there.
        """
        request = SearchRequest.of(
            self,
            queries,
            K,
            scoring,
            "all" if candidates is None else candidates,
            query_nonzeros,
            allowed,
            rerank,
            rerank_candidates,
            exclude,
        )
        # The one segment's searchable rows; candidates are chosen where there are more rows.
        n, (rows_mask,) = len(self), request.masks
        if rows_mask is not None:
            n = int(np.count_nonzero(rows_mask))
        mask = None if rows_mask is None else torch.from_numpy(rows_mask).to(self.device)
        sparse = scoring == "sparse"
        few = None
        if not sparse and request.candidates != "all" and request.candidates < n:
            few = request.candidates
        hits = Hits.empty(len(request), K)
        size = max(1, min(_QUERIES, _ENTRIES // self.projection.latents))
        for start, x, lengths in request.batches(size):
            left_out = self._left_out(request.exclude, start, len(x))
            most = max(map(len, left_out), default=0)
            if sparse:
                projected, tables = self._query_codes(x, request.query_nonzeros), None
            else:
                view = x
                if scoring == "reconstructed":
                    view = reconstruct_queries(self.projection, self._segment.codes, x)
                projected, tables = self._project(torch.from_numpy(view).to(self.device))
            with self._lock, current(self.device):
                if few is None:
                    # The K best of the rows that a query does not leave out are among K + most.
                    count = request.first_stage + most
                    ids, scores = self._scan(projected, tables, count, mask, sparse)
                else:
                    chosen = self._candidate_rows(
                        projected, request.query_nonzeros, few, mask, left_out
                    )
                    ids, scores = self._rescore(projected, tables, request.first_stage, chosen)
            rows, top = ids.cpu().numpy(), scores.cpu().numpy()
            if most and few is None:
                others = Hits.empty(len(x), request.first_stage)
                for i, own in enumerate(left_out):
                    first_others(rows[i], top[i], own, others, i)
                rows, top = others.ids, others.scores
            found = Hits(np.where(rows >= 0, self._segment.ids_of(np.maximum(rows, 0)), -1), top)
            if request.rerank is not None:
                rerank_hits(request.rerank, x, found, hits, start)
            else:
                hits.ids[start : start + len(x)] = found.ids
                hits.scores[start : start + len(x)] = found.scores
            if lengths is not None:
                hits.scale(start, lengths)
        return hits

    def _left_out(self, exclude: Exclusion | None, start: int, count: int) -> list[np.ndarray]:
        """Ascending rows that each of ``count`` queries leaves out."""
        if exclude is None:
            return []
        return [
            exclude.rows(query, query + 1, self._segment).rows
            for query in range(start, start + count)
        ]

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """q' = W·x (m, h) of unit queries x (m, d), and their look-up tables (m, parts, 256) where
        rows carry residual codes."""
        tables = None
        if self._restore is not None and self._centroids is not None:
            parts, _, s = self._centroids.shape
            cut = (x @ self._restore).view(len(x), parts, s)
            tables = torch.einsum("qms,mcs->qmc", cut, self._centroids)
        return x @ self._decoder.T, tables

    def _query_codes(self, x: np.ndarray, k: int) -> Tensor:
        """The codes of unit queries x (m, d) as dense rows (m, h) of unit length."""
        ids, values = self.projection.encode(x, k)
        norms = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
        values = (values / np.where(norms > 0, norms, 1)).astype(np.float32)
        out = torch.zeros(len(x), self.projection.latents, device=self.device)
        places = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        return out.scatter_(1, places, torch.from_numpy(values).to(self.device))

    def _scan(
        self, queries: Tensor, tables: Tensor | None, K: int, mask: Tensor | None, sparse: bool
    ) -> tuple[Tensor, Tensor]:
        """Rows (m, K) and scores of the best over all windows, the earlier of equal ones first."""
        ids = torch.full((len(queries), K), -1, dtype=torch.int64, device=self.device)
        scores = torch.full((len(queries), K), float("-inf"), device=self.device)
        for first, planes in self._windows:
            here = slice(first, first + len(planes))
            if sparse:
                planes = planes.scaled(self._sparse_factors()[here].to(self.device))
            part = None if mask is None else mask[here]
            rows, found = scan(planes, queries, tables, K, part)
            rows = torch.where(rows >= 0, rows + first, -1)
            if first == 0:
                ids, scores = rows, found
                continue
            place, scores = largest(torch.cat([scores, found], 1), K)
            ids = torch.cat([ids, rows], 1).gather(1, place)
        return ids, scores

    def _candidate_rows(
        self,
        queries: Tensor,
        query_nonzeros: int,
        count: int,
        mask: Tensor | None,
        left_out: list[np.ndarray],
    ) -> Tensor:
        """Ascending rows (m, c) of largest sums over the lists, −1 for none; where fewer than
        ``count`` are positive, the first others that may be found too. ``left_out`` are rows that
        each query leaves out, empty for none."""
        if self._lists is None:
            assert self._segment.lists is not None
            self._lists = resident(self._segment.lists, self.device)
        latents, values = abs_topk(queries, query_nonzeros, backend="triton")
        # Of ``count`` and as many more as one query leaves out, the best that it does not.
        n, most = len(self._segment.codes), max(map(len, left_out), default=0)
        rows = top_candidates(self._lists, latents, values, count + most, mask)[0]
        if most:
            padded = np.full((len(rows), most), n, np.int64)
            for i, own in enumerate(left_out):
                padded[i, : len(own)] = own
            excluded = torch.from_numpy(padded).to(self.device)
            rows = torch.where(_are_among(rows, excluded), -1, rows)
            rows = torch.where((rows >= 0).cumsum(1) <= count, rows, -1)
        rows = rows.sort(dim=1).values
        short = (rows >= 0).sum(1, keepdim=True) < count
        if not bool(short.any()):
            return rows
        others = torch.arange(n, device=self.device) if mask is None else mask.nonzero()[:, 0]
        others = others[: count + most].expand(len(rows), -1).contiguous()
        taken = _are_among(others, rows)
        if most:
            taken |= _are_among(others, excluded)
        added = torch.where(short & ~taken, others, -1)
        return torch.cat([rows, added], 1).sort(dim=1).values

    def _rescore(
        self, queries: Tensor, tables: Tensor | None, K: int, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The best (m, K) of each query's own ascending rows (m, c), c ≥ K, and their scores."""
        scores = torch.full(rows.shape, float("-inf"), device=self.device)
        for first, planes in self._windows:
            here = (rows >= first) & (rows < first + len(planes))
            part = rescore(planes, queries, tables, torch.where(here, rows - first, -1))
            scores = torch.maximum(scores, part)
        place, best = largest(scores, K)
        return torch.where(best > float("-inf"), rows.gather(1, place), -1), best

    def _sparse_factors(self) -> Tensor:
        """Factors of the rows as they are held for "sparse": (n,) float32, on the device where all
        rows are. Gains or scales, and for cosine 1 / ‖s‖ too."""
        if self._factors is None:
            codes = self._segment.codes
            norms = codes.inverse_norms() if codes.similarity == "cosine" else None
            factors = codes.row_factors(norms)
            if factors is None:
                factors = np.ones(len(codes))
            on_host = torch.from_numpy(factors.astype(np.float32))
            self._factors = on_host if self._windows.streams else on_host.to(self.device)
        return self._factors


def _are_among(rows: Tensor, others: Tensor) -> Tensor:
    """Whether each of rows (m, c) is among others (m, e) of the same query, ascending."""
    place = torch.searchsorted(others, rows).clamp(max=others.shape[1] - 1)
    return others.gather(1, place) == rows
