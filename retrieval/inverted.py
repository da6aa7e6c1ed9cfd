"""Exact search over sparse rows by posting lists."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from compressae.kernels.accumulate import accumulate
from compressae.kernels.postings import build_postings
from compressae.kernels.threads import over_rows
from compressae.kernels.topk import best
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.errors import InputError
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.searcher import Hits, check_count
from compressae.retrieval.storage import load_artifact, save_artifact

KIND = "inverted"


class InvertedIndex:
    """Posting lists over codes (n, h); answers equal brute force over every row.

    A row that shares no latent with the query has score 0 and is ranked like any other, before
    rows of negative score. Values are kept as they are in the codes, float16 as float32.

    Args:
        codes: the rows; of packed ones the nonzeros, as int8.
        threads: processors to use; all that the process may use when None. Results are the same
            for any number.
    """

    def __init__(self, codes: SparseCodes | PackedCodes, threads: int | None = None) -> None:
        if isinstance(codes, PackedCodes):
            codes = codes.unpack("int8")
        values = codes.values
        if values.dtype == np.float16:
            values = values.astype(np.float32)
        lists = build_postings(codes.indptr, codes.indices, values, codes.latents)
        self._set(lists, codes.scales, codes.shape, threads)

    def _set(
        self,
        lists: tuple[np.ndarray, np.ndarray, np.ndarray],
        scales: np.ndarray | None,
        shape: tuple[int, int],
        threads: int | None,
    ) -> None:
        self._starts, self._docs, self._values = lists
        self._scales, self.shape, self.threads = scales, shape, threads

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def latents(self) -> int:
        return self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of lists and row scales; the h + 1 list bounds included."""
        scales = 0 if self._scales is None else self._scales.nbytes
        return self._starts.nbytes + self._docs.nbytes + self._values.nbytes + scales

    def scores(self, query_indices: np.ndarray, query_values: np.ndarray) -> np.ndarray:
        """Dot products of one sparse query with every row: (n,) float32.

        Args:
            query_indices: (kq,) latents, each once.
            query_values: (kq,) float32.
        """
        scores = np.empty(len(self), np.float32)
        accumulate(self._starts, self._docs, self._values, query_indices, query_values, scores)
        if self._scales is not None:
            scores *= self._scales
        return scores

    def search(self, queries: Any, K: int) -> Hits:
        """The K rows of largest dot product with each query.

        Args:
            queries: (q, h) sparse rows: a scipy sparse matrix or ``SparseCodes``.
            K: results a query; above n, rows are padded.

        Raises:
            InputError: queries of another width, NaN or infinite; K < 1.
        """
        check_count(K)
        if not isinstance(queries, SparseCodes):
            if not sparse.issparse(queries):
                raise InputError(
                    f"queries: {type(queries).__name__}; expected a scipy sparse matrix or "
                    "SparseCodes (dense queries go to CompressedIndex)"
                )
            queries = SparseCodes.from_scipy(queries)
        if queries.latents != self.latents:
            raise InputError(
                f"queries: {queries.latents} latents; expected {self.latents}, those of the index"
            )
        hits = Hits.empty(len(queries), K)

        def fill(start: int, stop: int) -> None:
            for i in range(start, stop):
                ids, scores = best(self.scores(*queries.row(i)), K)
                hits.ids[i, : len(ids)], hits.scores[i, : len(ids)] = ids, scores

        over_rows(fill, len(queries), self.threads)
        return hits

    def save(self, path: str | Path) -> None:
        """Write the lists as a folder."""
        settings = {"rows": self.shape[0], "latents": self.shape[1]}
        save_artifact(path, KIND, settings, {"lists": self.arrays(scales=True)})

    @classmethod
    def load(
        cls, path: str | Path, threads: int | None = None, verify: bool = True
    ) -> "InvertedIndex":
        """Open saved lists, memory-mapped.

        Raises:
            InputError: they are no whole index; the message names the file.
        """
        artifact = load_artifact(path, KIND, verify)
        arrays, settings = artifact.tensors["lists"], artifact.settings
        shape = (settings["rows"], settings["latents"])
        return cls.from_arrays(arrays, arrays.get("scales"), shape, str(path), threads)

    def arrays(self, scales: bool) -> dict[str, np.ndarray]:
        """The lists, with the row scales or without them, where the codes hold them already."""
        arrays = {"starts": self._starts, "docs": self._docs, "values": self._values}
        if scales and self._scales is not None:
            arrays["scales"] = self._scales
        return arrays

    @classmethod
    def from_arrays(
        cls,
        arrays: dict[str, np.ndarray],
        scales: np.ndarray | None,
        shape: tuple[int, int],
        name: str,
        threads: int | None = None,
    ) -> "InvertedIndex":
        """An index of what ``arrays`` gave; ``name`` is for the error message.

        Raises:
            InputError: list bounds or row numbers are outside the index.
        """
        starts, docs, values = arrays["starts"], arrays["docs"], arrays["values"]
        whole = (
            len(starts) == shape[1] + 1
            and (int(starts[0]), int(starts[-1])) == (0, len(docs))
            and len(docs) == len(values)
            and not (np.diff(starts) < 0).any()
            and (len(docs) == 0 or int(docs.max()) < shape[0])
            and (scales is None or len(scales) == shape[0])
        )
        if not whole:
            raise InputError(f"{name}: posting lists do not fit {shape}; build the index again")
        index = cls.__new__(cls)
        index._set((starts, docs, values), scales, shape, threads)
        return index


def list_bytes(rows: int, nonzeros: int, latents: int) -> int:
    """``InvertedIndex.nbytes`` of int8 codes with ``nonzeros`` in all their rows."""
    return 8 * (latents + 1) + (4 + 1) * nonzeros + 4 * rows
