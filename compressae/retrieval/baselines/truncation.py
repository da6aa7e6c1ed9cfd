"""Fewer dimensions: the first ones, or the first principal components."""

from typing import Any, Literal

import numpy as np

from compressae.retrieval.baselines.decoded import Decoded
from compressae.retrieval.baselines.sample import sample_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import Embeddings, as_compared

_WIDTHS = {"float32": 4, "float16": 2, "int8": 1}


class Truncated(Decoded):
    """The first dimensions of each row, or its first principal components.

    Embeddings trained for it are shortened by truncation (Matryoshka, arXiv 2205.13147). Principal
    axes are the leading eigenvectors of the covariance; rows and queries are projected without
    centring, and for cosine scaled to unit length.

    Args:
        items: (n, d).
        code_bytes: bytes of a row, filled with dimensions.
        axes: "given" or "principal".
        values: "float32", "float16", or "int8" with one scale a dimension.

        train_rows: most rows that axes and scales are learned from; all when None.

    Raises:
        InputError: no dimension fits.
    """

    def __init__(
        self,
        items: Any,
        code_bytes: int = 64,
        axes: Literal["given", "principal"] = "given",
        values: Literal["float32", "float16", "int8"] = "float32",
        train_rows: int | None = None,
    ) -> None:
        items = as_compared(items)
        n, d = items.shape
        if values not in _WIDTHS:
            raise InputError(f"values {values!r}: expected {', '.join(_WIDTHS)}")
        dims = min(d, int(code_bytes) // _WIDTHS[values])
        if dims < 1:
            raise InputError(
                f"{code_bytes} bytes a row: expected at least {_WIDTHS[values]}, one {values}"
            )
        self.shape, self.similarity = (n, d), items.similarity
        sampled = np.arange(n) if train_rows is None else sample_rows(n, train_rows)
        sample = items if len(sampled) == n else items.subset(sampled)
        self._axes = _principal(sample, dims) if axes == "principal" else None
        self._dims = dims
        rows = np.empty((n, dims), np.float32)
        for start, batch in items.batches():
            rows[start : start + len(batch)] = self.view(batch)
        self._scale: np.ndarray | None = None
        if values == "int8":
            self._scale = np.maximum(np.abs(rows[sampled]).max(0), 1e-12) / 127
            rows = np.clip(np.rint(rows / self._scale), -127, 127)
        self._rows = rows.astype(values)
        self.code_nbytes = self._rows.nbytes
        constants = [part for part in (self._axes, self._scale) if part is not None]
        self.constant_nbytes = sum(part.nbytes for part in constants)
        self.trained_rows = len(sampled) if constants else 0

    def view(self, queries: np.ndarray) -> np.ndarray:
        """Truncate or project rows (m, d) to rows (m, dims), of unit length for cosine."""
        short = queries[:, : self._dims] if self._axes is None else queries @ self._axes
        if self.similarity == "dot":
            return short
        length = np.sqrt(np.einsum("ij,ij->i", short, short))[:, None]
        # A row may be zero in all of these dimensions.
        return short / np.maximum(length, np.finfo(np.float32).tiny)

    def decode(self, start: int, stop: int) -> np.ndarray:
        rows = self._rows[start:stop].astype(np.float32, copy=False)
        return rows if self._scale is None else rows * self._scale


def _principal(items: Embeddings, dims: int) -> np.ndarray:
    """Leading eigenvectors (d, dims) of the covariance of rows, by descending eigenvalue."""
    n, d = items.shape
    total, second = np.zeros(d), np.zeros((d, d))
    for _, rows in items.batches():
        total += rows.sum(0, dtype=np.float64)
        second += rows.T @ rows
    mean = total / n
    vectors = np.linalg.eigh(second / n - np.outer(mean, mean))[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :dims], np.float32)
