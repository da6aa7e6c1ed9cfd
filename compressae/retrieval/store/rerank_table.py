"""RerankTable: a table of full-precision rows with the ids of a catalogue, to rerank with."""

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from compressae.retrieval.errors import InputError, RerankError
from compressae.retrieval.index.segments import check_ids
from compressae.retrieval.index.table_rows import TableRows
from compressae.retrieval.io.embeddings import as_embeddings
from compressae.retrieval.store.change import names_of, numbers_of
from compressae.retrieval.store.names import check_row_ids, decoded
from compressae.retrieval.store.view import View


class RerankTable:
    """A table whose rows have ids of their own, for ``search(…, rerank=…)``.

    Of any catalogue and of shards, and of all their versions: rows are matched with those of a
    version when it is first searched, which takes a second or two for a million texts. The table
    stays where it is. Threads may share it.

    Args:
        table: (m, d) embeddings: an array, a path, a URL or ``Embeddings``.
        ids: (m,) of the catalogue's kind, distinct, in any order. The table may hold rows that the
            catalogue lacks.

    Attributes:
        table: the embeddings.
        ids: as given.

    Raises:
        InputError: another number of ids than rows, one twice, or what is no id.

    >>> RerankTable(np.eye(3, dtype=np.float32), ["a", "b", "c"])
    RerankTable('rerank', 3 rows of texts)
    """

    def __init__(self, table: Any, ids: Any) -> None:
        self.table, self.ids = as_embeddings(table, "rerank"), ids
        names = check_row_ids(ids, len(self.table))
        self.has_text_ids = names is not None
        self._keys = check_ids(ids, len(self.table)) if names is None else names
        self._rows: WeakKeyDictionary[View, TableRows] = WeakKeyDictionary()
        self._matching = threading.Lock()

    def __repr__(self) -> str:
        kind = "texts" if self.has_text_ids else "whole numbers"
        return f"RerankTable({self.table.name!r}, {len(self.table):,} rows of {kind})"

    def __reduce__(self) -> Any:
        return type(self), (self.table, self.ids)

    def rows_of(self, view: View, has_text_ids: bool) -> TableRows:
        """Rows of the table that a version of a catalogue holds, by the numbers of its index.

        Args:
            view: the version.
            has_text_ids: ids of the catalogue are texts.

        Raises:
            InputError: the catalogue's ids are of the other kind.
            RerankError: the table lacks a row of the version.
        """
        rows = self._rows.get(view)
        if rows is None:
            with self._matching:  # Once, for all threads that wait for it.
                rows = self._rows.get(view) or self._matched(view, has_text_ids)
                self._rows[view] = rows
        return rows

    def _matched(self, view: View, has_text_ids: bool) -> TableRows:
        """See ``rows_of``."""
        if has_text_ids != self.has_text_ids:
            kinds = ["whole numbers", "texts"]
            raise InputError(
                f"{self.table.name}: ids are {kinds[self.has_text_ids]}; the catalogue's are "
                f"{kinds[has_text_ids]}"
            )
        if has_text_ids:
            numbers = numbers_of(view.stored, self._keys)
        else:
            numbers = np.where(view.index.segments.known(self._keys), self._keys, -1)
        rows = np.flatnonzero(numbers >= 0)
        for part in view.stored:
            n, alive = len(part.segment.codes), part.segment.alive
            own = part.segment.ids_of(np.arange(n) if alive is None else np.flatnonzero(alive))
            missing = np.setdiff1d(own, numbers[rows])
            if len(missing):
                first = missing[:1]
                id = decoded(names_of(view.stored, first))[0] if has_text_ids else first[0]
                raise RerankError(
                    f"{self.table.name}: no row of id {id}, which is in the catalogue; expected a "
                    "row of each"
                )
        similarity = view.index.segments.parts[0].codes.similarity
        return TableRows(self.table.subset(rows), numbers[rows], similarity)
