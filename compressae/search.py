"""Dense queries in, ids out: search over compressed items."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from compressae.coding import encode_rows
from compressae.compress import compress_like
from compressae.kernels.decode import decode
from compressae.kernels.product import Int8Matrix, product
from compressae.kernels.refit import refit
from compressae.kernels.threads import over_rows
from compressae.model import CompresSAE
from compressae.retrieval.catalogue import Catalogue, Codes, Segment
from compressae.retrieval.codes import KIND as CODES
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.embeddings import Embeddings, unit_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.inverted import InvertedIndex
from compressae.retrieval.lists import build_segment, list_arrays, open_lists, whole_segment
from compressae.retrieval.packed import PACKED, PackedCodes
from compressae.retrieval.searcher import Hits, check_count
from compressae.retrieval.storage import load_artifact, save_artifact
from compressae.stages import Stages, dense_queries, dense_stage, rank_dense
from compressae.tuning import Setting, tune

if TYPE_CHECKING:
    from compressae.gpu_index import GpuIndex

Scoring = Literal["asymmetric", "sparse", "reconstructed"]
SCORINGS: tuple[Scoring, ...] = ("asymmetric", "sparse", "reconstructed")
Weights = Literal["int8", "float32"]
Candidates = int | Literal["all"] | None

KIND = "index"
#: Defaults of the two-stage search, chosen on WordNet (docs/results/recall_wordnet.md).
QUERY_NONZEROS = 64
CANDIDATES = 3000
_QUERY_BATCH = 1024


class CompressedIndex:
    """Cosine search over the codes of a table, by posting lists.

    Three ways to score a dense query x of unit length against a code s of an item y:

    - "asymmetric" (default): x·ŷ, the query not compressed. q' = W x; the largest entries of q'
      search the posting lists, the best candidates are rescored exactly as q'·s, residual codes
      included where rows carry them.
    - "reconstructed": x̂·ŷ with x̂ of unit length, the paper's accurate mode. The same with x̂ in
      place of x, which equals the paper's form through K = W Wᵀ at O(k) instead of O(k²) a pair.
    - "sparse": cos(s_x, s_y), the paper's fast mode: posting lists alone, exact. They are of
      other values, and built when this scoring is first used and after every change, compacted.

    Args:
        model: the one that made the codes.
        codes: (n, h), from ``model.compress``: plain or packed.
        threads: processors to use; all that the process may use when None.
        ids: (n,) whole numbers ≥ 0 by which items are known; 0…n − 1 when None.
        lists: hold posting lists. Without them a search scans all codes ("sparse" apart).
        weights: how W is held for q': "int8" takes a third of the time for one query and moves
            scores by some 0.001 (``compressae.kernels.product``), "float32" is exact.

    Attributes:
        query_nonzeros, candidates: what ``search`` uses unless told; ``tune`` sets them.

    Raises:
        InputError: the codes are of another model.
    """

    def __init__(
        self,
        model: CompresSAE,
        codes: Codes,
        threads: int | None = None,
        ids: Any = None,
        lists: bool = True,
        weights: Weights = "int8",
    ) -> None:
        _check_model(model, codes)
        self._set(model, threads, lists, weights)
        self.catalogue = Catalogue(codes, self._build, ids)

    def _set(self, model: CompresSAE, threads: int | None, lists: bool, weights: Weights) -> None:
        if weights not in ("int8", "float32"):
            raise InputError(f"weights {weights!r}: expected int8 or float32")
        self.model, self.threads, self._lists, self.weights = model, threads, lists, weights
        self._decoder = np.ascontiguousarray(model.decoder.detach().cpu().numpy())
        self._matrix = Int8Matrix.of(self._decoder) if weights == "int8" else None
        self._cosine: tuple[Segment, InvertedIndex] | None = None
        self.query_nonzeros = min(QUERY_NONZEROS, model.latents)
        self.candidates: Candidates = None
        self._tuned: tuple[int, Candidates] = (0, None)  # Results tuned for, and candidates set.

    def _build(self, codes: Codes, ids: np.ndarray | None) -> Segment:
        if not self._lists:
            return Segment(codes, ids=ids)
        return build_segment(codes, ids, "dot", "int8", self.threads)

    def __len__(self) -> int:
        return len(self.catalogue)

    @property
    def codes(self) -> Codes:
        """The codes by ascending id; merged into one segment first if they are not."""
        return self.catalogue.compact().codes

    @property
    def nbytes(self) -> int:
        """Bytes held that grow with n: codes, posting lists, those of "sparse" once in use."""
        if self._cosine is None:
            return self.catalogue.nbytes
        own = self._cosine[1].catalogue.segments[0]  # Its codes are those of the index itself.
        return self.catalogue.nbytes + own.nbytes - own.codes.nbytes

    def nbytes_for(self, scoring: Scoring) -> int:
        """Bytes that grow with n and that one scoring reads."""
        return self.catalogue.nbytes if scoring != "sparse" else self._cosine_index().nbytes

    def constant_nbytes_for(self, scoring: Scoring) -> int:
        """Bytes that one scoring needs whatever n: weights and the quantiser of packed codes."""
        model, codes = self.model, self.catalogue.segments[0].codes
        encoder = 4 * (model.encoder.numel() + model.encoder_bias.numel())
        if scoring == "sparse":
            return encoder
        weights = self._decoder.nbytes if self._matrix is None else self._matrix.nbytes
        if isinstance(codes, PackedCodes):
            weights += codes.quantizer.nbytes
        return weights + (encoder + self._decoder.nbytes if scoring == "reconstructed" else 0)

    @property
    def list_nbytes(self) -> int:
        """Bytes of the posting lists alone."""
        return self.catalogue.list_nbytes

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
        """The K best items of each query.

        Args:
            queries: (q, d) dense rows of any length.
            K: results a query; above n, rows are padded.
            scoring: see the class.
            candidates: items rescored a query (not for "sparse"): at least K; "all" scores every
                item, exactly; ``self.candidates`` when None, which is 3,000 or 10·K until ``tune``
                sets it.
            query_nonzeros: entries of q' that search the lists, ``self.query_nonzeros`` when None;
                for "sparse" those of the query's code, the model's k when None. More cost time but
                no memory.
            allowed: only these may be found: ids (m,), or bool (m,) by id with m above the
                largest; all when None.
            dense: the items' own embeddings, row numbers being ids: an array, a path or
                ``Embeddings``, best on disk. The best items are read from it and ranked by exact
                cosine.
            dense_candidates: how many are read a query, at least K; 4·K when None.

        Raises:
            InputError: queries of another width, NaN, infinite or zero; K or candidates too small.
        """
        queries, kq = self._check_search(queries, K, scoring, query_nonzeros)
        segments, masks = self.catalogue.snapshot(allowed)
        table, wanted = dense_stage(
            self.model.dim, segments, dense, dense_candidates, K, candidates
        )
        n = sum(map(len, segments))
        count = self._candidates(candidates, wanted, n)
        view = self._reconstruct if scoring == "reconstructed" else None
        stages = Stages(segments, masks, self._project, view, count, kq)
        hits = Hits.empty(len(queries), K)
        if not n:
            return hits
        for start, rows in queries.batches(_QUERY_BATCH):
            x = unit_rows(rows)
            found = hits if table is None else Hits.empty(len(x), wanted)
            first = start if table is None else 0
            if scoring == "sparse":
                codes = self._query_codes(x, kq)
                part = self._cosine_index().search(codes, wanted, allowed)
                found.ids[first : first + len(x)] = part.ids
                found.scores[first : first + len(x)] = part.scores
            else:
                over_rows(lambda a, b: stages(x, a, b, found, first), len(x), self.threads)
            if table is not None:
                rank_dense(table, x, found, hits, start)
        return hits

    def _check_search(
        self, queries: Any, K: int, scoring: Scoring, query_nonzeros: int | None
    ) -> tuple[Embeddings, int]:
        """Dense queries as a reader, and the nonzeros by which they search lists."""
        if scoring not in SCORINGS:
            raise InputError(f"scoring {scoring!r}: expected one of {', '.join(SCORINGS)}")
        check_count(K)
        usual = self.model.nonzeros if scoring == "sparse" else self.query_nonzeros
        kq = usual if query_nonzeros is None else query_nonzeros
        if not 1 <= kq <= self.model.latents:
            raise InputError(f"{kq} query nonzeros; expected 1 to {self.model.latents}")
        return dense_queries(queries, self.model.dim), kq

    def _candidates(self, candidates: Candidates, K: int, n: int) -> int | Literal["all"]:
        """How many of n items are rescored a query."""
        if candidates is None and not self._lists:
            candidates = "all"
        if candidates is None:
            if self.candidates is None:
                return max(CANDIDATES, 10 * K)
            candidates = self.candidates
            results, tuned = self._tuned
            if candidates == tuned and isinstance(candidates, int) and results < K:
                candidates = -(-candidates * K // results)
        if candidates == "all":
            return "all"
        if not isinstance(candidates, int | np.integer):
            raise InputError(f"candidates {candidates!r}: expected a number or 'all'")
        if candidates < min(K, n):
            raise InputError(f"{candidates} candidates for {K} results; expected at least {K}")
        if not self._lists and candidates < n:
            raise InputError(
                f"{candidates} candidates of an index without posting lists; expected 'all', or "
                "build it with lists"
            )
        return int(candidates)

    def _project(self, x: np.ndarray) -> np.ndarray:
        """q' = W·x (m, h) float32 of unit queries x (m, d)."""
        return x @ self._decoder.T if self._matrix is None else product(self._matrix, x)

    def _query_codes(self, x: np.ndarray, k: int) -> SparseCodes:
        ids, values = encode_rows(self.model, x, k)
        return SparseCodes.from_rows(ids, values, self.model.latents)

    def _cosine_index(self) -> InvertedIndex:
        """The lists of "sparse" over the rows as they are now."""
        segment = self.catalogue.compact()
        if self._cosine is None or self._cosine[0] is not segment:
            lists = InvertedIndex(segment.codes, self.threads, similarity="cosine", ids=segment.ids)
            self._cosine = segment, lists
        return self._cosine[1]

    def _reconstruct(self, x: np.ndarray) -> np.ndarray:
        """Unit x̂ of queries x (m, d); their values are refitted where the items' were."""
        ids, values = encode_rows(self.model, x, self.model.nonzeros)
        if self.catalogue.segments[0].codes.settings.get("refit"):
            values = refit(x, ids, self._decoder)
        return unit_rows(decode(ids, values, self._decoder))

    def add(self, embeddings: Any, ids: Any = None) -> np.ndarray:
        """Code rows as those of the index are and add them; they are found from now on.

        Args:
            embeddings: (m, d).
            ids: (m,) whole numbers ≥ 0 that the index does not hold; the next ones when None.

        Returns:
            The ids (m,) int64.

        Raises:
            InputError: rows of another width, NaN, infinite or zero; an id is there already.
                Nothing was changed.
        """
        added = self.catalogue.add(self._code(embeddings), ids)
        self._cosine = None
        return added

    def remove(self, ids: Any) -> None:
        """Remove items; they are not found any more, and ``compact`` frees their bytes.

        Raises:
            InputError: an id is not in the index, or given twice. Nothing was changed.
        """
        self.catalogue.remove(ids)
        self._cosine = None

    def update(self, ids: Any, embeddings: Any) -> None:
        """Replace the items of ids (m,) by embeddings (m, d).

        Raises:
            InputError: see ``add`` and ``remove``. Nothing was changed.
        """
        self.catalogue.update(ids, self._code(embeddings))
        self._cosine = None

    def tune(
        self,
        queries: Any,
        K: int = 100,
        recall: float = 0.99,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> list[Setting]:
        """Set ``query_nonzeros`` and ``candidates`` to the fastest that reach a recall.

        Recall is against a scan of all codes (``candidates="all"``): what the first stage loses,
        not what the codes lost. A saved index keeps the setting.

        Args:
            queries: (q, d) like those to come; some hundred.
            K: results a query; searches for more raise the candidates in proportion.
            recall: above 0, to 1.
            progress: called with (settings tried, settings, the next).

        Returns:
            All settings tried, the one that is set first.

        Raises:
            InputError: bad queries, K, or recall; no more than K items.
        """
        found = tune(self, queries, K, recall, progress)
        self.query_nonzeros, self.candidates = found[0].query_nonzeros, found[0].candidates
        self._tuned = (K, self.candidates)
        return found

    def compact(self) -> None:
        """Merge what was added into one set of lists, and forget what was removed."""
        self.catalogue.compact()

    def _code(self, embeddings: Any) -> Codes:
        return compress_like(self.model, embeddings, self.catalogue.segments[0].codes)

    def to(self, device: str = "cuda", memory: int | str | None = None) -> "GpuIndex":
        """The rows as they are now on a GPU; see ``GpuIndex``."""
        from compressae.gpu_index import GpuIndex

        return GpuIndex(self, device, memory)

    def save(self, path: str | Path) -> None:
        """Write a folder that holds all that search needs: weights, codes and lists, compacted."""
        segment = whole_segment(self.catalogue)
        kind = PACKED if isinstance(segment.codes, PackedCodes) else CODES
        settings = {
            "model": self.model.artifact_settings(),
            kind: segment.codes.artifact_settings(),
            "next_id": self.catalogue.next_id,
            "search": {
                "query_nonzeros": self.query_nonzeros,
                "candidates": self.candidates,
                "tuned": list(self._tuned),
                "lists": self._lists,
                "weights": self.weights,
            },
        }
        tensors = {
            "model": self.model.arrays(),
            kind: segment.codes.arrays(),
            "lists": list_arrays(segment),
        }
        save_artifact(path, KIND, settings, tensors)

    @classmethod
    def load(
        cls, path: str | Path, threads: int | None = None, verify: bool = True
    ) -> "CompressedIndex":
        """Open a saved index; codes and lists stay memory-mapped.

        Args:
            path: the folder.
            threads: processors to use; all that the process may use when None.
            verify: compare each file with its checksum, which reads it once.

        Raises:
            InputError: it is no whole index; the message names the file.
        """
        artifact = load_artifact(path, KIND, verify)
        settings, tensors = artifact.settings, artifact.tensors
        model = CompresSAE.from_arrays(settings["model"], tensors["model"], str(path))
        codes: Codes
        if PACKED in tensors:
            codes = PackedCodes.from_parts(settings[PACKED], tensors[PACKED])
        else:
            codes = SparseCodes.from_parts(settings[CODES], tensors[CODES])
        _check_model(model, codes)
        search = settings.get("search", {})
        index = cls.__new__(cls)
        index._set(model, threads, search.get("lists", True), search.get("weights", "int8"))
        index.query_nonzeros = search.get("query_nonzeros", index.query_nonzeros)
        index.candidates = search.get("candidates")
        results, tuned = search.get("tuned", (0, None))
        index._tuned = (results, tuned)
        next_id = settings.get("next_id", 0)
        lists = tensors.get("lists", {})
        index.catalogue = open_lists(codes, index._build, lists, next_id, str(path))
        return index


def _check_model(model: CompresSAE, codes: Codes) -> None:
    if codes.model_id != model.model_id:
        raise InputError(
            f"codes of model {codes.model_id}, but this is model {model.model_id}; "
            "give the model that encoded them, or encode again"
        )
