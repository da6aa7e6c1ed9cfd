"""Rows in memory, added and removed by id: immutable segments and the set of them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from compressae.kernels.pages import blocks_read
from compressae.kernels.postings import Postings
from compressae.retrieval.codes import Codes, as_codes
from compressae.retrieval.errors import InputError

#: The largest id.
LAST_ID = (1 << 63) - 2


@dataclass(eq=False)
class Pages:
    """What is known of the pages of mapped files.

    Attributes:
        missing: the last search had some read from disk, or there was none.
    """

    missing: bool = True


@contextmanager
def watched(segments: "Sequence[Segment]") -> Iterator[None]:
    """Note after a search whether pages of mapped segments were read from disk.

    A search reads ahead if the one before had something read: asking the system for pages that are
    all in memory would cost a search of few rows a tenth of its time.
    """
    mapped = [segment.pages for segment in segments if segment.pages is not None]
    before = blocks_read() if mapped else 0
    yield
    if mapped:
        missing = blocks_read() > before
        for pages in mapped:
            pages.missing = missing


@dataclass(frozen=True, eq=False)
class Segment:
    """Codes with their posting lists and ids. Immutable: removing rows returns another segment.

    Attributes:
        codes: (n, h).
        lists: posting lists of the rows; None if a search scans the codes.
        factors: (n,) float64 of ``Codes.inverse_norms`` for cosine; None for dot products.
        ids: (n,) int64, ascending; the row numbers when None.
        alive: (n,) bool, False for removed rows; None if no row is removed.
        pages: of codes and lists that are mapped from files; None if they are in memory.
        has_older_lists: the files' lists are of an older format, and ``lists`` were built again.
    """

    codes: Codes
    lists: Postings | None = None
    factors: np.ndarray | None = None
    ids: np.ndarray | None = None
    alive: np.ndarray | None = None
    pages: "Pages | None" = None
    has_older_lists: bool = False

    @property
    def from_disk(self) -> bool:
        """Whether a search is to read ahead what it needs."""
        return self.pages is not None and self.pages.missing

    def __len__(self) -> int:
        """Number of rows that are not removed."""
        return self._left

    @cached_property
    def _left(self) -> int:
        return len(self.codes) if self.alive is None else int(np.count_nonzero(self.alive))

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, lists, factors, ids and flags."""
        parts = (self.lists, self.factors, self.ids, self.alive)
        return self.codes.nbytes + sum(part.nbytes for part in parts if part is not None)

    @cached_property
    def last_id(self) -> int:
        """The largest id that is not removed; −1 if all are."""
        if self.alive is not None:
            rows = np.flatnonzero(self.alive)
            return int(self.ids_of(rows).max(initial=-1))
        if self.ids is None:
            return len(self.codes) - 1
        return int(self.ids[-1])

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """Ids (m,) int64 of rows (m,)."""
        return rows if self.ids is None else self.ids[rows]

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows (m,) of ids (m,) int64; −1 for ids that the segment lacks or that are removed."""
        n = len(self.codes)
        if self.ids is None:
            rows, is_present = ids, (ids >= 0) & (ids < n)
        else:
            rows = np.minimum(np.searchsorted(self.ids, ids), n - 1)
            is_present = self.ids[rows] == ids
        if self.alive is not None:
            is_present = is_present & self.alive[np.where(is_present, rows, 0)]
        return np.where(is_present, rows, -1)

    def without(self, rows: np.ndarray) -> "Segment":
        """Return a segment with rows (m,) removed."""
        alive = np.ones(len(self.codes), bool) if self.alive is None else self.alive.copy()
        alive[rows] = False
        return replace(self, alive=alive)


@dataclass(frozen=True, eq=False)
class AllowedRows:
    """Rows that may be found, by segment: what a filter over a catalogue's metadata gives.

    Attributes:
        segments: of one snapshot.
        masks: for each its rows (n,) bool, none that is removed.
    """

    segments: tuple[Segment, ...]
    masks: list[np.ndarray]


#: Builds a segment from codes and their ids (n,), ascending, or None for 0…n − 1.
Build = Callable[[Codes, np.ndarray | None], Segment]


class Segments:
    """The first segment and tail segments of rows added later.

    Tails are merged as they grow: their number is at most log2 of the number of rows added. Only
    ``compact`` rebuilds the first segment. A search reads a snapshot, which changes by other
    threads do not affect. Ids of removed rows are not reused unless the caller passes them.

    Args:
        codes: the first rows (n, h).
        build: builds a segment.
        ids: (n,) distinct ids ≥ 0; 0…n − 1 when None.

    Attributes:
        parts: the current segments.
        next_id: id of the next row that is added without one.

    Raises:
        InputError: the ids are not n distinct whole numbers from 0 to 2⁶³ − 2.

    >>> from compressae.retrieval.codes import SparseCodes
    >>> def rows(count):
    ...     return SparseCodes.from_rows(np.zeros((count, 1), int), np.ones((count, 1)), latents=4)
    >>> segments = Segments(rows(3), lambda codes, ids: Segment(codes, ids=ids))
    >>> segments.add(rows(2))
    array([3, 4])
    >>> segments.remove([1])
    >>> len(segments), segments.known([0, 1, 4])
    (4, array([ True, False,  True]))
    >>> len(segments.parts), segments.compact().ids
    (2, array([0, 2, 3, 4]))
    """

    def __init__(self, codes: Codes, build: Build, ids: Any = None) -> None:
        if ids is not None:
            codes, ids = _by_id(codes, check_ids(ids, len(codes)))
        self._begin([build(codes, ids)], build)

    @classmethod
    def of(cls, parts: Sequence[Segment], build: Build, next_id: int) -> "Segments":
        """Wrap existing segments that ``build`` made; new ids begin at ``next_id`` or above."""
        segments = cls.__new__(cls)
        segments._begin(parts, build)
        segments.next_id = max(segments.next_id, next_id)
        return segments

    def _begin(self, parts: Sequence[Segment], build: Build) -> None:
        self._build = build
        self._lock = threading.Lock()
        self.next_id = max(segment.last_id for segment in parts) + 1
        self.parts = tuple(parts)

    def __len__(self) -> int:
        """Number of rows that are not removed."""
        return sum(len(segment) for segment in self.parts)

    def known(self, ids: Any) -> np.ndarray:
        """Whether each of the ids (m,) is in the index: (m,) bool."""
        ids = np.asarray(ids).astype(np.int64)
        return np.any([segment.rows_of(ids) >= 0 for segment in self.parts], axis=0)

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.nbytes for segment in self.parts)

    @property
    def list_nbytes(self) -> int:
        """Bytes of the posting lists, including their bounds."""
        return sum(s.lists.nbytes for s in self.parts if s.lists is not None)

    @property
    def whole(self) -> bool:
        """Whether there is one segment without removed rows, of today's format."""
        first = self.parts[0]
        return len(self.parts) == 1 and first.alive is None and not first.has_older_lists

    def add(self, codes: Codes, ids: Any = None) -> np.ndarray:
        """Add rows; see ``InvertedIndex.add``."""
        with self._lock:
            self.parts[0].codes.check_compatible(codes)
            ids = self._new_ids(codes, ids)
            duplicate_ids = ids[self.known(ids)]
            if len(duplicate_ids):
                raise InputError(
                    f"id {duplicate_ids[0]} is in the index already; update it or choose another id"
                )
            self._append(self.parts, codes, ids)
            return ids

    def remove(self, ids: Any) -> None:
        """Remove rows; see ``InvertedIndex.remove``."""
        with self._lock:
            self.parts = self._without(check_ids(ids, None))

    def update(self, ids: Any, codes: Codes) -> None:
        """Replace rows; see ``InvertedIndex.update``."""
        with self._lock:
            self.parts[0].codes.check_compatible(codes)
            ids = check_ids(ids, len(codes))
            self._append(self._without(ids), codes, ids)

    def compact(self) -> Segment:
        """Merge all segments into one, free the bytes of removed rows and return the segment."""
        with self._lock:
            if not self.whole and len(self):
                self.parts = (self._merge(self.parts),)
            return self.parts[0]

    def merged(self) -> Segment:
        """Merge all segments into one, as ``compact`` does, without changing the set.

        Raises:
            InputError: no row is left.
        """
        parts = self.parts
        if not sum(map(len, parts)):
            raise InputError("no row is left in the index; add some before it is saved")
        return parts[0] if len(parts) == 1 and parts[0].alive is None else self._merge(parts)

    def codes(self) -> Codes:
        """Codes by ascending id; a copy unless there is one segment without removed rows."""
        parts = self.parts
        if len(parts) == 1 and (parts[0].alive is None or not len(parts[0])):
            return parts[0].codes
        return _join(parts)[0]

    def codes_of(self, ids: Any) -> Codes:
        """Codes (m, h) of ids (m,).

        Raises:
            InputError: an id that the index lacks, or no id.
        """
        ids = check_ids(ids, None)
        if not len(ids):
            raise InputError("no ids; expected at least one")
        places, parts = [], []
        for segment in self.parts:
            rows = segment.rows_of(ids)
            if (rows >= 0).any():
                places.append(np.flatnonzero(rows >= 0))
                parts.append(segment.codes.take(rows[rows >= 0]))
        missing = np.setdiff1d(np.arange(len(ids)), np.concatenate([[], *places]))
        if len(missing):
            raise InputError(f"id {ids[missing[0]]} is not in the index; nothing was changed")
        return parts[0].join(parts[1:]).take(np.argsort(np.concatenate(places)))

    def snapshot(self, allowed: Any) -> tuple[tuple[Segment, ...], list[np.ndarray | None]]:
        """Take a snapshot: the current segments and, for each, its searchable rows.

        Args:
            allowed: searchable ids (m,), where ids that the index lacks are ignored; or bool (m,)
                by id, with m above the largest id; or ``AllowedRows``; None for all.

        Returns:
            The segments, and for each a mask (n,) bool or None for all rows.

        Raises:
            InputError: ``allowed`` has another dtype or shape, or too few flags.
        """
        segments = self.parts
        if allowed is None:
            return segments, [segment.alive for segment in segments]
        if isinstance(allowed, AllowedRows):
            if allowed.segments is not segments:
                raise InputError("allowed: rows of another version; search the index they are of")
            return segments, list(allowed.masks)
        allowed = np.asarray(allowed)
        if allowed.ndim != 1 or (allowed.dtype != bool and allowed.dtype.kind not in "iu"):
            if allowed.size:
                raise InputError(
                    f"allowed: {allowed.dtype} of shape {allowed.shape}; expected ids (m,) or a "
                    "bool (m,) by id"
                )
            allowed = np.empty(0, np.int64)
        masks: list[np.ndarray | None] = []
        for segment in segments:
            n = len(segment.codes)
            if allowed.dtype == bool:
                if len(allowed) <= segment.last_id:
                    raise InputError(
                        f"allowed: {len(allowed)} flags; expected one for each id, up to "
                        f"{segment.last_id}"
                    )
                # Removed rows may be beyond the flags.
                if segment.ids is None:
                    mask = np.pad(allowed[:n], (0, max(n - len(allowed), 0)))
                else:
                    mask = allowed[np.minimum(segment.ids, max(len(allowed) - 1, 0))]
                if segment.alive is not None:
                    mask = mask & segment.alive
            else:
                rows = segment.rows_of(allowed.astype(np.int64))
                mask = np.zeros(n, bool)
                mask[rows[rows >= 0]] = True
            masks.append(mask)
        return segments, masks

    def _new_ids(self, codes: Codes, ids: Any) -> np.ndarray:
        """Ids (m,) of rows to add: the next free ids when None."""
        if ids is None:
            if self.next_id > LAST_ID - len(codes):
                raise InputError(f"no ids are left after {self.next_id - 1}; give the rows ids")
            return np.arange(self.next_id, self.next_id + len(codes), dtype=np.int64)
        return check_ids(ids, len(codes))

    def _without(self, ids: np.ndarray) -> tuple[Segment, ...]:
        """The segments with ids (m,) removed; tails without rows are dropped."""
        segments, is_known = [], np.zeros(len(ids), bool)
        for segment in self.parts:
            rows = segment.rows_of(ids)
            is_present = rows >= 0
            is_known |= is_present
            segments.append(segment.without(rows[is_present]) if is_present.any() else segment)
        if not is_known.all():
            raise InputError(f"id {ids[~is_known][0]} is not in the index; nothing was changed")
        return (segments[0], *(segment for segment in segments[1:] if len(segment)))

    def _append(self, segments: tuple[Segment, ...], codes: Codes, ids: np.ndarray) -> None:
        """Append a tail; merge the last two while the older is less than twice the newer."""
        codes, ids = _by_id(codes, ids)
        tails = [*segments[1:], self._build(codes, ids)]
        while len(tails) > 1 and len(tails[-2]) < 2 * len(tails[-1]):
            tails[-2:] = [self._merge(tails[-2:])]
        self.parts = (segments[0], *tails)
        self.next_id = max(self.next_id, int(ids.max()) + 1)

    def _merge(self, segments: Sequence[Segment]) -> Segment:
        """Build one segment of the rows that are not removed."""
        codes, ids = _join(segments)
        is_range = ids[-1] == len(ids) - 1  # Ids ascend and are distinct: 0…n − 1.
        return self._build(codes, None if is_range else ids)


class SegmentedIndex:
    """What indexes over segments have in common: rows that come and go by id.

    Attributes:
        segments: the rows.
    """

    segments: Segments

    def build(self, codes: Codes, ids: np.ndarray | None) -> Segment:
        """Build a segment of rows as this index holds them; see ``Build``."""
        raise NotImplementedError

    def as_ours(self, rows: Any) -> Codes:
        """Any sparse rows as codes in the form of this index's; see ``codes.as_codes``."""
        return self.segments.parts[0].codes.like_these(as_codes(rows, "codes"))

    def over(self, parts: Sequence[Segment], next_id: int) -> Self:
        """An index of other segments, in all else like this one; see ``Segments.of``."""
        index = copy(self)
        index.segments = Segments.of(parts, self.build, next_id)
        return index

    def __len__(self) -> int:
        """Rows that are not removed."""
        return len(self.segments)

    @property
    def codes(self) -> Codes:
        """The codes by ascending id; a copy where rows changed since the last ``compact``."""
        return self.segments.codes()

    @property
    def list_nbytes(self) -> int:
        """Bytes of the posting lists alone, their bounds included."""
        return self.segments.list_nbytes

    def remove(self, ids: Any) -> None:
        """Remove rows by id; ``compact`` frees their bytes.

        Args:
            ids: (m,) ids in the index, each once.

        Raises:
            InputError: an id that is not in the index, or is given twice. Nothing was changed.
        """
        self.segments.remove(ids)

    def compact(self) -> None:
        """Merge added rows into one set of lists, and free the bytes of removed ones.

        Exact searches answer as before. A two-stage search may choose other candidates at the
        cut-off, since the merged lists round their values with another step.
        """
        self.segments.compact()


def _join(segments: Sequence[Segment]) -> tuple[Codes, np.ndarray]:
    """Join the codes and ids of rows that are not removed, by ascending id."""
    parts, ids = [], []
    for segment in segments:
        if segment.alive is None:
            parts.append(segment.codes)
            ids.append(segment.ids_of(np.arange(len(segment.codes))))
        elif len(segment):
            rows = np.flatnonzero(segment.alive)
            parts.append(segment.codes.take(rows))
            ids.append(segment.ids_of(rows))
    return _by_id(parts[0].join(parts[1:]), np.concatenate(ids))


def _by_id(codes: Codes, ids: np.ndarray) -> tuple[Codes, np.ndarray]:
    """Sort rows by ascending id."""
    if (np.diff(ids) > 0).all():
        return codes, ids
    order = np.argsort(ids)
    return codes.take(order), ids[order]


def check_ids(ids: Any, count: int | None) -> np.ndarray:
    """Check ids and convert them to (m,) int64.

    Args:
        ids: whole numbers (m,), or one.
        count: m; any number when None.

    Raises:
        InputError: they are not ``count`` distinct whole numbers from 0 to 2⁶³ − 2.
    """
    array = np.atleast_1d(np.asarray(ids))
    if array.size == 0 and count in (None, 0):
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"ids: {array.dtype} of shape {array.shape}; expected whole numbers (m,)")
    if count is not None and len(array) != count:
        raise InputError(f"{len(array)} ids for {count} rows; expected one a row")
    distinct, counts = np.unique(array, return_counts=True)
    if counts.max() > 1:
        raise InputError(f"id {distinct[counts.argmax()]} is given more than once")
    if int(distinct[0]) < 0 or int(distinct[-1]) > LAST_ID:
        raise InputError(f"ids from {distinct[0]} to {distinct[-1]}; expected 0 to 2⁶³ − 2")
    return array.astype(np.int64)
