"""Dense queries in, ids out, on a GPU."""

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressae.budget import parse_budget
from compressae.coding import encode_rows
from compressae.devices import current, pick_device
from compressae.kernels.backend import interprets
from compressae.kernels.candidates import resident, top_candidates
from compressae.kernels.scan import (
    Planes,
    Windows,
    packed_planes,
    plain_planes,
    rescore,
    scan,
)
from compressae.kernels.topk import abs_topk, largest
from compressae.retrieval.catalogue import Catalogue
from compressae.retrieval.embeddings import unit_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.searcher import Hits
from compressae.search import Candidates, CompressedIndex, Scoring
from compressae.stages import dense_stage, rank_dense

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
    and but for q', which is W·x in float32 here whatever the index's ``weights``. Unless told, all
    rows are scored.

    Args:
        index: is compacted; its arrays stay where they are.
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
        self.index = index
        catalogue = index.catalogue
        self._segment = catalogue.compact()
        self._catalogue = Catalogue.of(self._segment, index._build, catalogue.next_id)
        self._decoder = torch.from_numpy(index._decoder).to(self.device)
        codes = self._segment.codes
        self._ranks = None if isinstance(codes, PackedCodes) else int(np.diff(codes.indptr).max())
        room = None if memory is None else parse_budget(memory, max(1, len(codes)))
        if room is None and self.device.type == "cuda":
            room = int(_SHARE * torch.cuda.mem_get_info(self.device)[0])
        try:
            self._windows = Windows(self._planes, len(codes), self.device, room)
        except ValueError as error:
            raise InputError(str(error)) from error
        self._lists: Resident | None = None  # Once a search asks for candidates.
        self._lengths: Tensor | None = None  # 1 / ‖s‖ of rows, for "sparse".
        self._restore = self._centroids = None
        if isinstance(codes, PackedCodes) and codes.quantizer.residual_bytes:
            self._restore = torch.from_numpy(codes.quantizer.restore).to(self.device)
            self._centroids = torch.from_numpy(codes.quantizer.codebooks).to(self.device)
        self._lock = threading.Lock()  # Windows are streamed through the same memory.

    def _planes(self, start: int, stop: int) -> Planes:
        codes = self._segment.codes
        if isinstance(codes, PackedCodes):
            q = codes.quantizer
            return packed_planes(codes.rows, q.levels, q.gains, codes.latents, start, stop)
        return plain_planes(
            codes.indptr, codes.indices, codes.values, codes.scales, codes.latents, start, stop,
            self._ranks,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._segment)

    @property
    def nbytes(self) -> int:
        """Bytes on the device that grow with n: rows, and once in use the posting lists and what
        "sparse" needs."""
        extra = 0 if self._lists is None else self._lists.nbytes
        if self._lengths is not None and not self._windows.streams:
            extra += self._lengths.nbytes
        return self._windows.nbytes + extra

    def search(
        self,
        queries: Any,
        K: int,
        scoring: Scoring = "asymmetric",
        candidates: Candidates = None,
        query_nonzeros: int | None = None,
        allowed: Any = None,
        dense: Any = None,
        dense_candidates: int | None = None,
    ) -> Hits:
        """The K best items of each query; see ``CompressedIndex.search``.

        Args:
            candidates: "all" when None; a number takes them from the posting lists.

        Raises:
            InputError: as there.
        """
        index = self.index
        reader, kq = index._check_search(queries, K, scoring, query_nonzeros)
        segments, masks = self._catalogue.snapshot(allowed)
        dim, n = index.model.dim, len(self)
        table, wanted = dense_stage(dim, segments, dense, dense_candidates, K, candidates)
        count = index._candidates("all" if candidates is None else candidates, wanted, n)
        if masks[0] is not None:
            n = int(np.count_nonzero(masks[0]))
        few = None if scoring == "sparse" or count == "all" or count >= n else count
        hits = Hits.empty(len(reader), K)
        mask = None if masks[0] is None else torch.from_numpy(masks[0]).to(self.device)
        for start, rows in reader.batches(max(1, min(_QUERIES, _ENTRIES // index.model.latents))):
            x = unit_rows(rows)
            if scoring == "sparse":
                projected, tables = self._query_codes(x, kq), None
            else:
                view = index._reconstruct(x) if scoring == "reconstructed" else x
                projected, tables = self._project(torch.from_numpy(view).to(self.device))
            with self._lock, current(self.device):
                if few is None:
                    cosine = scoring == "sparse"
                    ids, scores = self._scan(projected, tables, wanted, mask, cosine)
                else:
                    chosen = self._candidate_rows(projected, kq, few, mask)
                    ids, scores = self._rescore(projected, tables, wanted, chosen)
            found = hits if table is None else Hits.empty(len(x), wanted)
            here = slice(start, start + len(x)) if table is None else slice(None)
            kept = ids.cpu().numpy()
            found.ids[here] = np.where(kept >= 0, self._segment.ids_of(np.maximum(kept, 0)), -1)
            found.scores[here] = scores.cpu().numpy()
            if table is not None:
                rank_dense(table, x, found, hits, start)
        return hits

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
        ids, values = encode_rows(self.index.model, x, k)
        norms = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
        values = (values / np.where(norms > 0, norms, 1)).astype(np.float32)
        out = torch.zeros(len(x), self.index.model.latents, device=self.device)
        places = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        return out.scatter_(1, places, torch.from_numpy(values).to(self.device))

    def _scan(
        self, queries: Tensor, tables: Tensor | None, K: int, mask: Tensor | None, cosine: bool
    ) -> tuple[Tensor, Tensor]:
        """Rows (m, K) and scores of the best over all windows, the earlier of equal ones first."""
        ids = torch.full((len(queries), K), -1, dtype=torch.int64, device=self.device)
        scores = torch.full((len(queries), K), float("-inf"), device=self.device)
        for first, planes in self._windows:
            here = slice(first, first + len(planes))
            if cosine:
                planes = planes.scaled(self._inverse_lengths()[here].to(self.device))
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
        self, queries: Tensor, query_nonzeros: int, count: int, mask: Tensor | None
    ) -> Tensor:
        """Ascending rows (m, c) of largest sums over the lists, −1 for none; where fewer than
        ``count`` are positive, the first others that may be found too."""
        if self._lists is None:
            assert self._segment.lists is not None
            self._lists = resident(self._segment.lists, self.device)
        latents, values = abs_topk(queries, query_nonzeros, backend="triton")
        rows = top_candidates(self._lists, latents, values, count, mask)[0].sort(dim=1).values
        short = rows[:, :1] < 0
        if not bool(short.any()):
            return rows
        n = len(self._segment.codes)
        others = torch.arange(n, device=self.device) if mask is None else mask.nonzero()[:, 0]
        others = others[:count].expand(len(rows), -1).contiguous()
        place = torch.searchsorted(rows, others).clamp(max=rows.shape[1] - 1)
        added = torch.where(short & (rows.gather(1, place) != others), others, -1)
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

    def _inverse_lengths(self) -> Tensor:
        """1 / ‖s‖ of the rows as they are held, gains and scales left out: (n,) float32, on the
        device where all rows are."""
        if self._lengths is None:
            codes = self._segment.codes
            norms = codes.norms(np.float64)
            factors = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
            if isinstance(codes, PackedCodes):
                factors *= codes.gains()
            elif codes.scales is not None:
                factors *= codes.scales
            lengths = torch.from_numpy(factors.astype(np.float32))
            self._lengths = lengths if self._windows.streams else lengths.to(self.device)
        return self._lengths
