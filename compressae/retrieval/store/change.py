"""Change: additions and removals that become one version of a catalogue."""

from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex, SearchSettings
from compressae.retrieval.index.segments import Segment, check_ids
from compressae.retrieval.store.files import (
    Stored,
    read_removals,
    write_removals,
    write_segment,
)
from compressae.retrieval.store.metadata import as_table, gather
from compressae.retrieval.store.names import Names, check_distinct, decoded, encoded
from compressae.retrieval.store.version import RemovalRecord, SegmentRecord, Version, now
from compressae.retrieval.store.view import Root, View

if TYPE_CHECKING:
    import pyarrow as pa


class Change:
    """Additions and removals, in memory until they are written as one version.

    ``Catalogue.writing`` gives one. Rows of codes are numbered; where ids are texts, the numbers
    are the catalogue's own and last as long as the row.

    Attributes:
        index: the catalogue as it will be.
    """

    def __init__(self, root: Root, view: View) -> None:
        self._root, self._view = root, view
        parts = view.index.segments.parts
        self.index = view.index.over(parts, view.version.next_id)
        self._words: list[str] = []
        # Names that were given in this change, and the numbers of their rows.
        self._new_names = np.empty(0, "S1")
        self._new_numbers = np.empty(0, np.int64)
        # Metadata that was given in this change, latest first: numbers of rows, and their columns.
        self._new_metadata: list[tuple[np.ndarray, pa.Table]] = []

    def add(self, codes: Any, ids: Any = None, metadata: Any = None) -> np.ndarray:
        """Add rows; see ``Catalogue.add``."""
        codes = self.index.as_ours(codes)
        table = self._table(metadata, len(codes))
        if table is None and self._root.columns is not None:
            raise InputError(
                "metadata is missing: rows of this catalogue have the columns "
                f"{', '.join(self._root.columns)}"
            )
        if not self._root.texts:
            added = self.index.segments.add(codes, ids)
            self._describe(added, table)
            self._note("add", len(added))
            return added
        names = self._given(ids, len(codes))
        taken = np.flatnonzero(self._numbers(names) >= 0)
        if len(taken):
            raise InputError(
                f"id {str(decoded(names)[taken[0]])!r} is in the index already; update it or "
                "choose another id"
            )
        numbers = self.index.segments.add(codes, None)
        self._new_names = np.concatenate([names, self._new_names])
        self._new_numbers = np.concatenate([numbers, self._new_numbers])
        self._describe(numbers, table)
        self._note("add", len(numbers))
        return decoded(names)

    def remove(self, ids: Any) -> None:
        """Remove rows; see ``Catalogue.remove``."""
        numbers = self._known_numbers(ids) if self._root.texts else ids
        self.index.segments.remove(numbers)
        self._note("remove", len(np.atleast_1d(numbers)))

    def update(self, ids: Any, codes: Any = None, metadata: Any = None) -> None:
        """Replace rows; see ``Catalogue.update``."""
        numbers = self._known_numbers(ids) if self._root.texts else check_ids(ids, None)
        table = self._table(metadata, len(numbers))
        if codes is not None:
            codes = self.index.as_ours(codes)
        elif table is None or not len(numbers):
            raise InputError("nothing to update: give ids, and codes or metadata")
        else:
            codes = self.index.segments.codes_of(numbers)
        self.index.segments.update(numbers, codes)
        self._describe(numbers, table)
        self._note("update", len(numbers))

    def put(self, codes: Any, ids: Any, metadata: Any = None) -> int:
        """Add rows, in place of those that have their ids; see ``Catalogue.put``."""
        codes, is_known = self.index.as_ours(codes), self.known(ids)
        if len(is_known) != len(codes):
            raise InputError(f"{len(is_known)} ids for {len(codes)} rows; expected one a row")
        table = self._table(metadata, len(codes))
        old, new = np.flatnonzero(is_known), np.flatnonzero(~is_known)
        ids = np.asarray(ids)
        if len(new):
            self.add(codes.take(new), ids[new], None if table is None else table.take(new))
        if len(old):
            self.update(ids[old], codes.take(old), None if table is None else table.take(old))
        return len(old)

    def known(self, ids: Any) -> np.ndarray:
        """Whether each of the ids (m,) is in the catalogue: (m,) bool."""
        if self._root.texts:
            return self._numbers(self._given(ids, None)) >= 0
        return self.index.segments.known(check_ids(ids, None))

    def compact(self) -> None:
        """Merge all segments, and write lists of today's format; see ``Catalogue.compact``."""
        if not self.index.segments.whole:
            self.index.compact()
            self._note("compact", len(self.index))

    def configure(self, search: SearchSettings) -> None:
        """Set how dense queries are searched unless told.

        Raises:
            InputError: the catalogue takes sparse queries.
        """
        if not isinstance(self.index, CompressedIndex):
            raise InputError("search settings are for a catalogue with a model")
        self.index.configure(search)
        self._words.append("settings")

    def write(self) -> Version | None:
        """Write the files of the next version, not the version itself; None if nothing changed."""
        view, path = self._view, self._root.path
        index, number = self.index, view.version.number + 1
        by_codes = {id(part.segment.codes): part for part in view.stored}
        segments: list[SegmentRecord] = []
        removed: dict[str, np.ndarray] = {}
        for part in index.segments.parts:
            stored = by_codes.get(id(part.codes))
            before = None
            if stored is None:
                name = f"{number:010d}-{len(segments)}"
                names, metadata = self._names_of(part), self._metadata_of(part)
                segments.append(write_segment(path, name, part, names, metadata))
            else:
                segments.append(stored.record)
                before = stored.segment.alive
            if part.alive is not None and part.alive is not before:
                gone = ~part.alive if before is None else before & ~part.alive
                if gone.any():
                    removed[segments[-1].name] = np.flatnonzero(gone)
        search = index.search_settings if isinstance(index, CompressedIndex) else None
        old = view.version
        if not removed and tuple(segments) == old.segments and search == old.search:
            return None
        removals = self._removals(number, {segment.name for segment in segments}, removed)
        return Version(
            old.catalogue,
            number,
            now(),
            ", ".join(self._words),
            len(index),
            index.segments.next_id,
            tuple(segments),
            removals,
            search,
        )

    def _removals(
        self, number: int, segments: set[str], removed: dict[str, np.ndarray]
    ) -> tuple[RemovalRecord, ...]:
        """Removal files of the next version: older ones, and one of what is removed now.

        The last ones are merged while the older is less than twice the newer, so that there are few
        and a removed row is written a logarithmic number of times.
        """
        records = list(self._view.version.removals)
        if not any(part.alive is not None for part in self.index.segments.parts):
            return ()
        count = sum(map(len, removed.values()))
        if not count:
            return tuple(records)
        while records and records[-1].rows < 2 * count:
            for name, rows in read_removals(self._root.path, records.pop()).items():
                if name in segments:
                    mine = removed.get(name, np.empty(0, np.int64))
                    removed[name] = np.union1d(mine, rows)
            count = sum(map(len, removed.values()))
        name = f"{number:010d}.safetensors"
        return (*records, write_removals(self._root.path, name, removed))

    def _note(self, verb: str, rows: int) -> None:
        self._words.append(f"{verb} {rows:,}")

    # Metadata of rows.

    def _table(self, metadata: Any, rows: int) -> "pa.Table | None":
        """Check metadata of rows against the columns of the catalogue."""
        if metadata is None:
            return None
        if self._root.columns is None:
            raise InputError(
                "metadata: the catalogue was made without columns; create it with metadata"
            )
        first = self._view.stored[0].metadata
        assert first is not None
        return as_table(metadata, rows, first.dataset.schema)

    def _describe(self, numbers: np.ndarray, table: "pa.Table | None") -> None:
        """Note the metadata of numbered rows."""
        if table is not None:
            self._new_metadata.insert(0, (numbers, table))

    def _metadata_of(self, part: Segment) -> "pa.Table | None":
        """Metadata of a new segment's rows: what was given last for each."""
        if self._root.columns is None:
            return None
        numbers = part.ids_of(np.arange(len(part.codes)))
        sources = []
        for given, table in self._new_metadata:
            place = np.minimum(np.searchsorted(numbers, given), len(numbers) - 1)
            is_here = numbers[place] == given
            sources.append((place[is_here], table.filter(is_here)))
        for stored in self._view.stored:
            assert stored.metadata is not None
            rows = stored.segment.rows_of(numbers)
            places = np.flatnonzero(rows >= 0)
            if len(places):
                sources.append((places, stored.metadata.take(rows[places])))
        return gather(sources, len(numbers))

    # Names of rows.

    def _given(self, ids: Any, count: int | None) -> np.ndarray:
        """Check ids that are texts, and encode them."""
        if ids is None:
            raise InputError("ids are missing: rows of this catalogue are named by texts")
        names = encoded([ids] if isinstance(ids, str) else ids)
        if count is not None and len(names) != count:
            raise InputError(f"{len(names)} ids for {count} rows; expected one a row")
        check_distinct(names)
        return names

    def _numbers(self, names: np.ndarray) -> np.ndarray:
        """Numbers (m,) of named rows that are there now; −1 for others."""
        numbers = numbers_of(self._view.stored, names)
        if len(self._new_names):
            rows = Names.of(self._new_names).rows_of(names)
            numbers = np.where(rows >= 0, self._new_numbers[rows], numbers)
        return np.where(self.index.segments.known(numbers), numbers, -1)

    def _known_numbers(self, ids: Any) -> np.ndarray:
        names = self._given(ids, None)
        numbers = self._numbers(names)
        if (numbers < 0).any():
            missing = decoded(names)[np.flatnonzero(numbers < 0)[0]]
            raise InputError(f"id {str(missing)!r} is not in the index; nothing was changed")
        return numbers

    def _names_of(self, part: Segment) -> Names | None:
        """Names of a new segment's rows."""
        if not self._root.texts:
            return None
        numbers = part.ids_of(np.arange(len(part.codes)))
        names = names_of(self._view.stored, numbers)
        order = np.argsort(self._new_numbers)
        ascending = self._new_numbers[order]
        place = np.searchsorted(ascending, numbers)
        place = np.minimum(place, max(len(order) - 1, 0))
        if len(order):
            is_new = ascending[place] == numbers
            names = np.where(is_new, self._new_names[order[place]], names)
        return Names.of(names)


def numbers_of(stored: tuple[Stored, ...], names: np.ndarray) -> np.ndarray:
    """Numbers (m,) int64 of encoded names (m,) that rows of stored segments have; −1 for others."""
    numbers = np.full(len(names), -1, np.int64)
    for part in stored:
        assert part.names is not None
        rows = part.names.rows_of(names)
        is_there = rows >= 0
        if part.segment.alive is not None:
            is_there &= part.segment.alive[np.maximum(rows, 0)]
        numbers[is_there] = part.segment.ids_of(rows[is_there])
    return numbers


def names_of(stored: tuple[Stored, ...], numbers: np.ndarray) -> np.ndarray:
    """Encoded names (m,) of numbered rows (m,) of stored segments, removed ones too; empty for
    numbers that none has."""
    names = np.zeros(len(numbers), "S1")
    for part in stored:
        assert part.names is not None
        rows = part.whole.segment.rows_of(numbers)
        is_there = rows >= 0
        if is_there.any():
            own = part.names.take(rows[is_there])
            names = names.astype(np.promote_types(names.dtype, own.dtype))
            names[is_there] = own
    return names
