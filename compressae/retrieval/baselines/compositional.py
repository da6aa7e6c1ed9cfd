"""Compositional and hashed tables, fitted to a dense table."""

from typing import Any, Literal

import numpy as np
from scipy import sparse

from compressae.retrieval.baselines.decoded import Decoded
from compressae.retrieval.baselines.partitions import Kind, partitions
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import Embeddings, as_compared

Combine = Literal["concat", "add", "product"]


class Compositional(Decoded):
    """Rows combined from one float32 row of each of several tables, by the row's number alone.

    The tables are those of arXiv 1909.02107, fitted to the rows by alternating least squares
    instead of trained on a task: one table at a time, the others fixed. A row's number alone
    decides which rows it shares.

    Args:
        items: (n, d).
        code_bytes: bytes of all tables, divided by n.
        partition: "quotient-remainder", "mixed-radix", "chinese-remainder" or "hashing".
        combine: "concat" (each table has a share of the dimensions), "add" or "product".
        parts: number of tables.
        sweeps: passes of the alternation over all tables.

    Raises:
        InputError: too few bytes for tables that distinguish all rows.
    """

    constant_nbytes = 0
    trained_rows = 0  # All that is fitted is the codes themselves.

    def __init__(
        self,
        items: Any,
        code_bytes: float = 64,
        partition: Kind = "quotient-remainder",
        combine: Combine = "add",
        parts: int | None = None,
        sweeps: int = 5,
    ) -> None:
        items = as_compared(items)
        n, d = items.shape
        if combine not in ("concat", "add", "product"):
            raise InputError(f"combine {combine!r}: expected concat, add or product")
        parts = parts or (3 if partition == "mixed-radix" else 2)
        widths = [d // parts + (j < d % parts) for j in range(parts)]
        if combine != "concat":
            widths = [d] * parts
        split = partitions(partition, n, parts, int(code_bytes * n) // (4 * max(widths)))
        if split is None or min(widths) < 1:
            what = f"{parts} tables of {max(widths)} float32 dimensions that tell {n:,} rows apart"
            if partition == "hashing":
                what = "a single row"
            raise InputError(f"{code_bytes} bytes a row: too few for {what}; give more")
        self.shape, self.similarity = (n, d), items.similarity
        self.combine, self.partitions = combine, split
        self._columns = np.cumsum([0, *widths]) if combine == "concat" else None
        start = 1.0 if combine == "product" else 0.0
        self.tables = [
            np.full((size, width), start, np.float32)
            for size, width in zip(split.sizes, widths, strict=True)
        ]
        alone = combine == "concat" or parts == 1
        for _ in range(1 if alone else sweeps):
            for j in range(parts):
                self._fit(items, j)
        self.code_nbytes = sum(table.nbytes for table in self.tables)

    def _fit(self, items: Embeddings, j: int) -> None:
        """Fit table j by least squares, the other tables fixed."""
        size, width = self.tables[j].shape
        above = np.zeros((size, width))
        below = np.zeros((size, width if self.combine == "product" else 1))
        for start, rows in items.batches():
            m = len(rows)
            ids = np.arange(start, start + m)
            picks = self.partitions.classes(ids)[j]
            shares = sparse.csr_array(
                (np.ones(m), (picks, np.arange(m))), shape=(size, m)
            )  # One row a class, one column a row of the batch.
            if self._columns is not None:
                rows = rows[:, self._columns[j] : self._columns[j + 1]]
            elif self.combine == "add":
                rows = rows - (self._rows(ids) - self.tables[j][picks])
            if self.combine == "product":
                others = self._rows(ids, leave_out=j)
                above += shares @ (rows * others).astype(np.float64)
                below += shares @ np.square(others, dtype=np.float64)
            else:
                above += shares @ rows.astype(np.float64)
                below += np.bincount(picks, minlength=size)[:, None]
        self.tables[j] = (above / np.maximum(below, 1e-30)).astype(np.float32)

    def _rows(self, ids: np.ndarray, leave_out: int | None = None) -> np.ndarray:
        """Rows (m, d) of row numbers (m,), without those of one table if ``leave_out`` names it."""
        picks = self.partitions.classes(ids)
        parts = [
            table[pick]
            for j, (table, pick) in enumerate(zip(self.tables, picks, strict=True))
            if j != leave_out
        ]
        if self.combine == "concat":
            return np.concatenate(parts, axis=1)
        total = parts[0]
        for part in parts[1:]:
            total = total + part if self.combine == "add" else total * part
        return total

    def decode(self, start: int, stop: int) -> np.ndarray:
        return self._rows(np.arange(start, stop))
