"""Dense queries in, ids out, on a GPU."""

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressae.kernels.backend import current, interprets
from compressae.kernels.scan import Planes, Windows, best_of_runs, joined, scan
from compressae.kernels.sketch import BLOCK
from compressae.kernels.topk import largest
from compressae.retrieval.codes.size import parse_bytes
from compressae.retrieval.devices import pick_device
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.exclusion import Exclusion, first_others
from compressae.retrieval.index.graph import Graphs
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.paper import reconstruct_queries
from compressae.retrieval.index.request import CandidateCount, Scoring, SearchRequest
from compressae.retrieval.index.segments import Segments
from compressae.retrieval.index.sketch import Sketch
from compressae.retrieval.index.two_stage import rerank as rerank_hits

#: Entries of q' of the queries that are answered together, and most of them.
_ENTRIES, _QUERIES = 1 << 24, 1024
#: Bytes of intermediate results of the queries that sketches answer together.
_SCRATCH = 1 << 31
#: Share of the free memory of a GPU that rows may take unless told.
_SHARE = 0.8
#: Least queries that sketches choose rows for unless told, and blocks of rows that they choose: as
#: a multiple of K, and at least. docs/results/gpu.md has times and recalls.
_MANY, _BLOCKS, _LEAST = 16, 8, 256
#: Share of a scan's results that these blocks are to hold, or twice, four or eight times as many.
_ENOUGH, _DOUBLINGS = 0.95, 3
#: Most graphs that are kept; results of one; and queries of one that scores all rows: more of them
#: are scored faster than launched.
_GRAPHS, _REPLAYED, _SCANNED = 32, 1 << 17, 8


class GpuIndex:
    """The rows of a ``CompressedIndex`` on a GPU, as they are when it is made: what is added,
    removed or updated later is not found.

    Search means what it means there and gives the same results but for the rounding of float32,
    and but for q', which is W·x in float32 here whatever the index's ``projection_type``.

    Unless told, all rows are scored for up to 15 queries. For more, sketches choose: 64 bytes a row
    (128 projections of x̂ in four bits, see ``Sketch``), whose products run on tensor cores. The
    blocks of 32 rows with the largest products are scored exactly: 8·K of them and at least 256, or
    two, four or eight times as many where these hold less than .95 of a scan's results, with 64
    rows of the table as queries.

    Args:
        index: stays as it is; a compacted copy of its rows is made where rows changed.
        device: "cuda", "cuda:1", or "auto".
        memory: what rows may take on the device: bytes or such as "20 GB"; when None, 0.8 of what
            is free there. Rows that do not fit lie in pinned memory of the host, and every search
            streams them through the device. Sketches are made in the first search that wants them,
            and only where they fit beside all rows; else all rows are scored.

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
        self._is_dot = codes.similarity == "dot"
        try:
            self._windows = Windows(self._planes, len(codes), self.device, room)
        except ValueError as error:
            raise InputError(str(error)) from error
        size = Sketch.nbytes_of(len(codes), self.projection.dim, self._is_dot)
        fits = room is None or self._windows.nbytes + size <= room
        self._may_sketch = fits and not self._windows.streams
        self._sketch: Sketch | None = None  # Once a search wants it.
        self._enough: dict[int, int] = {}  # Blocks by K.
        may_replay = self.device.type == "cuda" and not self._windows.streams
        self._graphs = Graphs(self.device, _GRAPHS) if may_replay else None
        self._factors: Tensor | None = None  # Of rows, for "sparse".
        self._restore = self._centroids = None
        if codes.residual_bytes:
            restore, codebooks = codes.residual_arrays()
            self._restore = torch.from_numpy(restore).to(self.device)
            self._centroids = torch.from_numpy(codebooks).to(self.device)
        self._lock = threading.Lock()  # Windows and graphs use the same memory again.

    @property
    def has_lists(self) -> bool:
        """Whether candidates can be asked for: sketches choose them here."""
        return True

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
        """Bytes on the device that grow with n: rows, and once in use sketches and what "sparse"
        needs."""
        extra = 0 if self._sketch is None else self._sketch.nbytes
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
            candidates: "all" scores all rows. A number is that of the blocks of rows that sketches
                choose: the rows of the as many largest products are scored, and others beside
                them. With "sparse", and where sketches do not fit, all rows are scored.
            query_nonzeros: of the query's code, for "sparse".

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
        (rows_mask,) = request.masks  # Of the one segment.
        mask = None if rows_mask is None else torch.from_numpy(rows_mask).to(self.device)
        few = None if request.candidates == "all" else request.candidates
        is_large = len(self) > max(_LEAST, _BLOCKS * request.first_stage) * BLOCK
        may_choose = self._may_sketch and is_large and scoring != "sparse"
        if candidates is None and len(request) >= _MANY and may_choose:
            few = self._enough_blocks(request.first_stage)
        if not self._may_sketch or (few is not None and few * BLOCK >= len(self)):
            few = None
        hits = Hits.empty(len(request), K)
        size = max(1, min(_QUERIES, _ENTRIES // self.projection.latents))
        for start, x, lengths in request.batches(size):
            left_out = self._left_out(request.exclude, start, len(x))
            most = max(map(len, left_out), default=0)
            with self._lock, current(self.device):
                rows, top = self._first_stage(request, x, few, most, mask)
            if most:
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

    def _first_stage(
        self,
        request: SearchRequest,
        x: np.ndarray,
        few: int | None,
        most: int,
        mask: Tensor | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores (m, any) of unit queries x (m, d): the best of all rows if ``few`` is
        None, or of the rows in so many blocks, and of ``most`` more that a query may leave out."""
        if request.scoring == "sparse":
            asked = self._query_codes(x, request.query_nonzeros)
            count = request.first_stage + most
            found = self._scan(asked, None, count, mask, True)
            return found[0].cpu().numpy(), found[1].cpu().numpy()
        if request.scoring == "reconstructed":
            x = reconstruct_queries(self.projection, self._segment.codes, x)
        if mask is None:
            found_before = self._replayed(x, request.first_stage, few, most)
            if found_before is not None:
                return found_before
        count, blocks = request.first_stage + most, None if few is None else few + most
        ids, scores = self._best(torch.from_numpy(x).to(self.device), count, blocks, mask)
        return ids.cpu().numpy(), scores.cpu().numpy()

    def _best(
        self,
        x: Tensor,
        count: int,
        blocks: int | None,
        mask: Tensor | None,
        half: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rows and scores (m, count) of unit queries x (m, d), of all rows or of so many blocks."""
        if blocks is None:
            return self._scan(*self._project(x), count, mask, half=half)
        return self._sketched(x, blocks, count, mask)

    def _replayed(
        self, x: np.ndarray, count: int, few: int | None, most: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """What ``_best`` finds, by a graph of its launches for about as many queries and rows that
        may be left out; None without one."""
        size, more = _rounded(len(x)), 1 << (most - 1).bit_length() if most else 0
        is_small = size * (count + more) <= _REPLAYED and (few is not None or size <= _SCANNED)
        if self._graphs is None or not is_small:
            return None
        count, blocks = count + more, None if few is None else few + more
        return self._graphs.find(
            (size, count, blocks), x, size, lambda x: self._best(x, count, blocks, None, False)
        )

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
        self,
        queries: Tensor,
        tables: Tensor | None,
        K: int,
        mask: Tensor | None,
        sparse: bool = False,
        half: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rows (m, K) and scores of the best over all windows, the earlier of equal ones first;
        ``half`` of ``scan``."""
        if not self._windows.streams and not sparse:
            return scan(self._windows.whole, queries, tables, K, mask, half)
        ids = torch.full((len(queries), K), -1, dtype=torch.int64, device=self.device)
        scores = torch.full((len(queries), K), float("-inf"), device=self.device)
        for first, planes in self._windows:
            here = slice(first, first + len(planes))
            if sparse:
                planes = planes.scaled(self._sparse_factors()[here].to(self.device))
            part = None if mask is None else mask[here]
            rows, found = scan(planes, queries, tables, K, part, half)
            rows = torch.where(rows >= 0, rows + first, -1)
            if first == 0:
                ids, scores = rows, found
                continue
            place, scores = largest(torch.cat([scores, found], 1), K)
            ids = torch.cat([ids, rows], 1).gather(1, place)
        return ids, scores

    def _enough_blocks(self, K: int) -> int:
        """Blocks for K results a query, measured in the first search for so many."""
        with self._lock, current(self.device):
            if K not in self._enough:
                blocks = max(_LEAST, _BLOCKS * K)
                some = self._sketches().some
                # Beside the best row of all, which is the query itself.
                wanted = self._scan(*self._project(some), K + 1, None)[0][:, 1:]
                for _ in range(_DOUBLINGS):
                    found = self._sketched(some, blocks, K + 1, None)[0]
                    pairs = zip(wanted, found, strict=True)
                    held = torch.stack([torch.isin(*pair).float().mean() for pair in pairs])
                    if held.mean() >= _ENOUGH:
                        break
                    blocks *= 2
                self._enough[K] = blocks
            return self._enough[K]

    def _sketches(self) -> Sketch:
        if self._sketch is None:
            self._sketch = Sketch.of(
                self._windows.whole, self._decoder, self._restore, self._centroids, self._is_dot
            )
        return self._sketch

    def _sketched(
        self, x: Tensor, blocks: int, K: int, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Rows (m, K) and scores of the best in as many blocks of each query x (m, d) as sketches
        choose."""
        sketch, found = self._sketches(), []
        for part in x.split(max(1, _SCRATCH // (4 * len(self) // BLOCK + 16 * blocks * BLOCK))):
            chosen = sketch.best_blocks(part, blocks, mask)
            planes = self._windows.whole
            found.append(best_of_runs(planes, *self._project(part), K, chosen, BLOCK, mask))
        return joined(found)

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


def _rounded(count: int) -> int:
    """The next number of queries that graphs are made for: a power of two to 64, then a multiple of
    64."""
    return 1 << (count - 1).bit_length() if count <= 64 else -(-count // 64) * 64
