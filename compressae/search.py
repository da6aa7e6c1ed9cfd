"""Dense queries in, ids out: search over compressed items."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compressae.coding import encode_rows
from compressae.kernels.decode import decode
from compressae.kernels.refit import refit
from compressae.kernels.rescore import rescore
from compressae.kernels.threads import over_rows
from compressae.kernels.topk import abs_topk, best
from compressae.model import CompresSAE
from compressae.retrieval.codes import KIND as CODES
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.embeddings import as_embeddings, unit_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.inverted import InvertedIndex
from compressae.retrieval.packed import PACKED, PackedCodes
from compressae.retrieval.searcher import Hits
from compressae.retrieval.storage import load_artifact, save_artifact

Scoring = Literal["asymmetric", "sparse", "reconstructed"]
SCORINGS: tuple[Scoring, ...] = ("asymmetric", "sparse", "reconstructed")

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
    - "sparse": cos(s_x, s_y), the paper's fast mode: posting lists alone, exact.

    Args:
        model: the one that made the codes.
        codes: (n, h), from ``model.compress``: plain or packed.
        threads: processors to use; all that the process may use when None.

    Raises:
        InputError: the codes are of another model.
    """

    def __init__(
        self, model: CompresSAE, codes: SparseCodes | PackedCodes, threads: int | None = None
    ) -> None:
        _check_model(model, codes)
        self._set(model, codes, InvertedIndex(codes), threads)

    def _set(
        self,
        model: CompresSAE,
        codes: SparseCodes | PackedCodes,
        lists: InvertedIndex,
        threads: int | None,
    ) -> None:
        self.model, self.codes, self.lists, self.threads = model, codes, lists, threads
        self._decoder = np.ascontiguousarray(model.decoder.detach().cpu().numpy())
        self._values: np.ndarray | None = None
        if isinstance(codes, SparseCodes):
            # numba knows no float16, so that such values are held a second time, as float32.
            half = codes.values.dtype == np.float16
            self._values = codes.row_values() if half else codes.values
        self._inverse_norms: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes held that grow with n: codes, posting lists, norms where they are in use."""
        norms = 0 if self._inverse_norms is None else self._inverse_norms.nbytes
        return self.nbytes_for("asymmetric") + norms

    def nbytes_for(self, scoring: Scoring) -> int:
        """Bytes that grow with n and that one scoring reads: "sparse" needs lists and norms."""
        if scoring == "sparse":
            return self.lists.nbytes + 4 * len(self)
        codes = self.codes
        if isinstance(codes, PackedCodes):
            return codes.nbytes + self.lists.nbytes
        assert self._values is not None
        extra = 0 if self._values is codes.values else self._values.nbytes
        shared = 0 if codes.scales is None else codes.scales.nbytes
        return codes.nbytes + self.lists.nbytes + extra - shared

    def search(
        self,
        queries: Any,
        K: int,
        scoring: Scoring = "asymmetric",
        candidates: int | Literal["all"] | None = None,
        query_nonzeros: int | None = None,
    ) -> Hits:
        """The K best items of each query.

        Args:
            queries: (q, d) dense rows of any length.
            K: results a query; above n, rows are padded.
            scoring: see the class.
            candidates: items rescored a query (not for "sparse"): at least K; "all" scores every
                item, exactly; 3,000 or 10·K when None.
            query_nonzeros: entries of q' that search the lists, 64 when None; for "sparse" those
                of the query's code, the model's k when None. More cost time but no memory.

        Raises:
            InputError: queries of another width, NaN, infinite or zero; K or candidates too small.
        """
        if scoring not in SCORINGS:
            raise InputError(f"scoring {scoring!r}: expected one of {', '.join(SCORINGS)}")
        if K < 1:
            raise InputError(f"K = {K}: expected at least 1 result a query")
        if candidates is None:
            candidates = max(CANDIDATES, 10 * K)
        count = len(self) if candidates == "all" else int(candidates)
        if count < K and count < len(self):
            raise InputError(f"{count} candidates for {K} results; expected at least {K}")
        kq = query_nonzeros
        if kq is None:
            kq = self.model.nonzeros if scoring == "sparse" else QUERY_NONZEROS
            kq = min(kq, self.model.latents)
        if not 1 <= kq <= self.model.latents:
            raise InputError(f"{kq} query nonzeros; expected 1 to {self.model.latents}")
        queries = as_embeddings(queries, "queries")
        if queries.shape[1] != self.model.dim:
            raise InputError(
                f"{queries.name}: rows of {queries.shape[1]} columns; expected {self.model.dim}, "
                "the width of the indexed embeddings"
            )
        hits = Hits.empty(len(queries), K)
        for start, rows in queries.batches(_QUERY_BATCH):
            one = self._scorer(unit_rows(rows), scoring, count, kq)

            def fill(a: int, b: int, first: int = start, one: _Scorer = one) -> None:
                for i in range(a, b):
                    ids, scores = one(i, K)
                    hits.ids[first + i, : len(ids)] = ids
                    hits.scores[first + i, : len(ids)] = scores

            over_rows(fill, len(rows), self.threads)
        return hits

    def _scorer(self, x: np.ndarray, scoring: Scoring, candidates: int, kq: int) -> "_Scorer":
        """A function (query number, K) -> ids, scores for unit queries x (m, d)."""
        if scoring == "sparse":
            ids, values = encode_rows(self.model, x, kq)
            values = values / np.linalg.norm(values, axis=1, keepdims=True)
            inverse_norms = self._norms()

            def by_lists(i: int, K: int) -> tuple[np.ndarray, np.ndarray]:
                return best(self.lists.scores(ids[i], values[i]) * inverse_norms, K)

            return by_lists
        if scoring == "reconstructed":
            x = self._reconstruct(x)
        dense = x @ self._decoder.T
        score = self._rescorer(x, dense)
        if candidates >= len(self):
            return lambda i, K: best(score(i, None), K)
        ids, values = abs_topk(dense, kq, self.threads)

        def in_two_stages(i: int, K: int) -> tuple[np.ndarray, np.ndarray]:
            rows = np.sort(best(self.lists.scores(ids[i], values[i]), candidates)[0])
            place, scores = best(score(i, rows), K)
            return rows[place], scores

        return in_two_stages

    def _reconstruct(self, x: np.ndarray) -> np.ndarray:
        """Unit x̂ of queries x (m, d); their values are refitted where the items' were."""
        ids, values = encode_rows(self.model, x, self.model.nonzeros)
        if self.codes.settings.get("refit"):
            values = refit(x, ids, self._decoder)
        return unit_rows(decode(ids, values, self._decoder))

    def _rescorer(
        self, x: np.ndarray, dense: np.ndarray
    ) -> Callable[[int, np.ndarray | None], np.ndarray]:
        """A function (query number, rows or None for all) -> scores, for queries x (m, d) and
        their q' (m, h)."""
        codes = self.codes
        if isinstance(codes, PackedCodes):
            quantizer = codes.quantizer
            return lambda i, rows: codes.rescore(dense[i], quantizer.tables(x[i : i + 1])[0], rows)
        values = self._values
        assert values is not None
        return lambda i, rows: rescore(
            codes.indptr, codes.indices, values, codes.scales, dense[i], rows
        )

    def _norms(self) -> np.ndarray:
        """1/‖s‖ of every item (n,) float32; 0 for an empty row."""
        if self._inverse_norms is None:
            codes = self.codes
            norms = (codes.unpack() if isinstance(codes, PackedCodes) else codes).norms()
            self._inverse_norms = np.divide(
                1, norms, out=np.zeros_like(norms), where=norms > 0, dtype=np.float32
            )
        return self._inverse_norms

    def save(self, path: str | Path) -> None:
        """Write a folder that holds all that search needs: weights, codes and lists."""
        kind = PACKED if isinstance(self.codes, PackedCodes) else CODES
        settings = {
            "model": self.model.artifact_settings(),
            kind: self.codes.artifact_settings(),
        }
        tensors = {
            "model": self.model.arrays(),
            kind: self.codes.arrays(),
            "lists": self.lists.arrays(scales=kind == PACKED),
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
        index = cls.__new__(cls)
        model = CompresSAE.from_arrays(settings["model"], tensors["model"], str(path))
        arrays = tensors["lists"]
        codes: SparseCodes | PackedCodes
        if PACKED in tensors:
            codes = PackedCodes.from_parts(settings[PACKED], tensors[PACKED])
            scales: np.ndarray | None = arrays["scales"]
        else:
            codes = SparseCodes.from_parts(settings[CODES], tensors[CODES])
            scales = codes.scales
        _check_model(model, codes)
        built = InvertedIndex.from_arrays(arrays, scales, codes.shape, str(path))
        index._set(model, codes, built, threads)
        return index


def _check_model(model: CompresSAE, codes: SparseCodes | PackedCodes) -> None:
    if codes.model_id != model.model_id:
        raise InputError(
            f"codes of model {codes.model_id}, but this is model {model.model_id}; "
            "give the model that encoded them, or encode again"
        )


_Scorer = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
