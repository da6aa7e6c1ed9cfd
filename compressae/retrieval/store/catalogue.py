"""Catalogue: an index on disk that many processes read while one changes it."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from scipy import sparse

from compressae.retrieval.codes import Codes, as_codes
from compressae.retrieval.errors import InputError, UnknownIdError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.hot import HotRows
from compressae.retrieval.index.inverted import InvertedIndex
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.index.segments import LAST_ID, AllowedRows, check_ids
from compressae.retrieval.index.table_rows import TableRows
from compressae.retrieval.io.artifacts import check_destination
from compressae.retrieval.io.atomic import replacing, sweep, sync_folder
from compressae.retrieval.io.embeddings import Similarity
from compressae.retrieval.io.remote import REMOTE_OUTPUT, local_path
from compressae.retrieval.store import version as version_files
from compressae.retrieval.store.change import Change, names_of, numbers_of
from compressae.retrieval.store.files import (
    REMOVALS,
    SEGMENTS,
    Stored,
    verify_lists,
    write_segment,
)
from compressae.retrieval.store.metadata import as_table, gather
from compressae.retrieval.store.names import Names, check_row_ids, decoded, encoded
from compressae.retrieval.store.rerank_table import RerankTable
from compressae.retrieval.store.version import Version, now, read_version, write_version
from compressae.retrieval.store.view import KIND, Index, Root, View

if TYPE_CHECKING:
    import pyarrow as pa

_LOCK = "writer.lock"
#: How often a reader begins again because versions were pruned under it.
_TRIES = 20


class Catalogue:
    """An index on disk: opened by many readers, changed by one writer at a time.

    A change writes files of its own size and then one new version, which is there whole or not at
    all. A catalogue stays at the version that it opened until ``refresh``, or a change of its own.
    Files are mapped, so that opening reads little and a catalogue larger than memory is searched.
    Threads may search during any change.

    Make one by ``create`` or ``open``.

    Attributes:
        path: the folder.

    >>> import tempfile
    >>> from compressae.retrieval import SparseCodes
    >>> rows = sparse.csr_array(np.eye(4, dtype=np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     catalogue = Catalogue.create(f"{folder}/lists", None, rows, ids=["a", "b", "c", "d"])
    ...     catalogue.remove(["b"])
    ...     added = catalogue.add(rows[[1]], ["e"])
    ...     catalogue.version, len(catalogue), catalogue.search(rows[[1]], 1).ids.tolist()
    (3, 4, [['e']])
    """

    def __init__(self, root: Root, view: View) -> None:
        self._root, self._view = root, view
        self._writer, self._moving = threading.Lock(), threading.Lock()
        self._writing_thread: int | None = None
        self.path = root.path

    # Making and opening.

    @classmethod
    def create(
        cls,
        path: str | Path,
        projection: Projection | None,
        codes: Any,
        ids: Any = None,
        *,
        metadata: Any = None,
        threads: int | None = None,
        overwrite: bool = False,
        **settings: Any,
    ) -> "Catalogue":
        """Write a catalogue of codes.

        Args:
            path: a new folder; its parent must exist.
            projection: ``model.projection`` of the model that made the codes, for dense queries;
                None for sparse ones.
            codes: (n, h) codes; without a model also a scipy sparse matrix or sparse tensor.
            ids: (n,) distinct: whole numbers ≥ 0, or texts of up to 255 bytes; 0…n − 1 when None.
                Rows that are added later have ids of the same kind.
            metadata: columns of the n rows, by which searches filter: {name: values}, a path to a
                ``.parquet``, or a table of pyarrow, pandas, polars or DuckDB. Rows that are added
                later have the same columns.
            threads: processors to use; all that the process may use when None.
            overwrite: replace a catalogue that stands at the path.
            settings: of ``CompressedIndex`` or, without a model, of ``InvertedIndex``.

        Raises:
            InputError: ids, metadata or codes that do not fit, something else at the path, or the
                disk failed. What was there is unchanged.
            MissingExtraError: metadata without pyarrow.
        """
        check_place(local_path(path, REMOTE_OUTPUT), overwrite)
        codes = as_codes(codes, "codes")
        names = check_row_ids(ids, len(codes))
        numbers = None if names is not None else ids
        table = None if metadata is None else as_table(metadata, len(codes))
        if table is not None and numbers is not None:
            places = np.argsort(np.argsort(np.asarray(ids)))
            table = gather([(places, table)], len(table))  # As rows are kept.
        index: Index
        if projection is None:
            index = InvertedIndex(codes, threads, ids=numbers, **settings)
        else:
            index = CompressedIndex(projection, codes, threads, numbers, **settings)
        return cls.write(path, index, names, overwrite, table)

    @classmethod
    def write(
        cls,
        path: str | Path,
        index: Index,
        names: np.ndarray | None = None,
        overwrite: bool = False,
        metadata: "pa.Table | None" = None,
    ) -> "Catalogue":
        """Write an index in memory as a catalogue; the index stays as it is.

        Args:
            path: see ``create``.
            index: a ``CompressedIndex`` or ``InvertedIndex``.
            names: (n,) encoded texts that identify its rows 0…n − 1.
            overwrite: see ``create``.
            metadata: n rows of columns, by ascending id.

        Raises:
            InputError: see ``create``; or no row is left in the index.
        """
        path = local_path(path, REMOTE_OUTPUT)
        check_place(path, overwrite)
        segment = index.segments.merged()
        with _lock_of_older(path), replacing(path, folder=True) as folder:
            identity = Root.write(folder, index, names is not None, metadata)
            for name in (SEGMENTS, REMOVALS, version_files.FOLDER):
                (folder / name).mkdir()
            named = None if names is None else Names.of(names)
            record = write_segment(folder, f"{1:010d}-0", segment, named, metadata)
            search = index.search_settings if isinstance(index, CompressedIndex) else None
            next_id = index.segments.next_id
            change = f"create {len(index):,}"
            first = Version(identity, 1, now(), change, len(index), next_id, (record,), (), search)
            write_version(folder, first)
        return cls.open(path, threads=index.threads)

    @classmethod
    def open(
        cls,
        path: str | Path,
        version: int | None = None,
        *,
        threads: int | None = None,
        verify: bool = False,
    ) -> "Catalogue":
        """Open a catalogue.

        Whatever the files hold, a search of them ends in hits or an ``InputError``. That they are
        the files that were written, and lists those of their codes, is known after ``verify``. A
        newest version whose file is lost is an error too, not the version before it.

        Args:
            path: the folder.
            version: its number; the newest when None.
            threads: processors to use; all that the process may use when None.
            verify: read every file and compare it with its checksum, and the lists with the codes.

        Raises:
            InputError: no whole catalogue, or no such version.
        """
        path = local_path(path, "an index is mapped into memory")
        if not path.exists():
            raise InputError(f"{path}: no such folder; expected a catalogue")
        for tries_left in reversed(range(_TRIES)):
            root = Root.open(path, threads, verify)
            try:
                view = (
                    _newest(root, None, verify) if version is None else _at(root, version, verify)
                )
                break
            except InputError:  # Another catalogue may have taken its place meanwhile.
                if not tries_left or Root.open(path, threads).settings == root.settings:
                    raise
        if verify:
            for part in view.stored:
                verify_lists(part, view.index.build, path)
        return cls(root, view)

    # Reading.

    @property
    def version(self) -> int:
        """Number of the version that is open."""
        return self._view.version.number

    @property
    def index(self) -> Index:
        """The version that is open, as an index; change the catalogue, not this."""
        return self._view.index

    @property
    def like(self) -> Codes:
        """Codes of the catalogue, for ``encode_like``: those of its first segment."""
        return self._view.index.segments.parts[0].codes

    @property
    def projection(self) -> Projection | None:
        """Weights of the model; None where queries are sparse."""
        return self._root.projection

    @property
    def similarity(self) -> Similarity:
        """How queries are compared with rows: "cosine" or "dot"."""
        return self._view.index.similarity

    @property
    def identity(self) -> str:
        """What tells this catalogue from any other, in hexadecimal."""
        return self._root.settings.catalogue

    @property
    def has_text_ids(self) -> bool:
        """Whether ids are texts."""
        return self._root.texts

    @property
    def stored(self) -> tuple[Stored, ...]:
        """Segments of the version that is open, as they lie on disk."""
        return self._view.stored

    @property
    def columns(self) -> dict[str, str]:
        """Names and Arrow types of the metadata; empty without."""
        return self._root.columns or {}

    @property
    def nbytes(self) -> int:
        """Bytes that grow with n, on disk: codes, lists, ids and metadata."""
        return self._view.version.bytes

    def __len__(self) -> int:
        """Rows of the version that is open."""
        return len(self._view.index)

    def __repr__(self) -> str:
        return f"Catalogue({str(self.path)!r}, version {self.version}, {len(self):,} rows)"

    def search(
        self,
        queries: Any,
        K: int,
        *,
        allowed: Any = None,
        where: Any = None,
        exclude: Any = None,
        on: Any = None,
        **options: Any,
    ) -> Hits:
        """Find the K best rows of each query.

        Args:
            queries: (q, d) dense where there is a model, else (q, h) sparse.
            K: results a query; above n, rows are padded.
            allowed: ids (m,) that alone may be found, or for whole numbers bool (m,) by id.
            where: a condition of the metadata's columns, in SQL: ``"in_stock and price < 30"``, or
                a ``pyarrow.compute.Expression``. Only rows for which it is true are found, exactly:
                as if there were no others. Goes with ``allowed`` and ``exclude``.
            exclude: what each query leaves out: a scipy sparse matrix (q, any width) whose
                nonzeros' columns are ids; or q sequences of ids.
            on: what searches the version that is open: ``GpuIndex(catalogue.index)``, say; the
                index itself when None.
            options: of ``CompressedIndex.search`` or ``InvertedIndex.search``. ``rerank`` may be
                (table, ids) too, a table whose rows have ids of their own, or a ``RerankTable`` of
                them, which serves many searches.

        Returns:
            Hits, with the catalogue's own ids: int64, or texts, "" where a query has fewer than K
            results.

        Raises:
            InputError: ``where`` does not fit the columns; or see the index's own search.
            MissingExtraError: ``where`` as a text without DuckDB.
        """
        view = self._view
        rerank = options.get("rerank")
        if isinstance(rerank, tuple) and len(rerank) == 2:
            rerank = RerankTable(*rerank)
        if isinstance(rerank, RerankTable):
            options["rerank"] = rerank.rows_of(view, self._root.texts)
        elif self._root.texts and not isinstance(rerank, HotRows | TableRows | None):
            raise InputError(
                "rerank: rows named by texts; expected (table, ids), the ids of the table's rows, "
                "or a RerankTable of them"
            )
        if self._root.texts and allowed is not None:
            numbers = numbers_of(view.stored, encoded(allowed))
            allowed = numbers[numbers >= 0]
        if exclude is not None and not sparse.issparse(exclude):
            exclude = self._pairs(view, exclude)
        elif exclude is not None and self._root.texts:
            raise InputError("exclude: rows are named by texts; expected a sequence of ids a query")
        if where is not None:
            allowed = self._rows_where(view, where, allowed)
        searcher = view.index if on is None else on
        hits = searcher.search(queries, K, allowed=allowed, exclude=exclude, **options)
        return self._named(view, hits) if self._root.texts else hits

    def hot_rows(self, table: Any, ids: Any, dtype: Any = np.float16) -> HotRows:
        """Full-precision embeddings of some rows, for ``search(…, rerank=…)``.

        Args:
            table: (m, d) embeddings; see ``HotRows``.
            ids: (m,) of the catalogue's kind.
            dtype: float16 or float32, as which they are kept in memory.

        Raises:
            InputError: see ``HotRows``; or an id that the catalogue lacks.
        """
        return HotRows(table, self._numbers(self._view, ids), self.like.similarity, dtype)

    def table_rows(self, table: Any, ids: Any) -> TableRows:
        """A table whose rows have ids of their own, for ``search(…, rerank=…)``.

        Of the version that is open: after an added or updated row make it again, or use
        ``RerankTable(table, ids)``, which does so by itself.

        Args:
            table, ids: see ``RerankTable``.

        Raises:
            InputError: another number of ids than rows, one twice; or a row of the catalogue that
                the table lacks.
        """
        return RerankTable(table, ids).rows_of(self._view, self._root.texts)

    def metadata(self, ids: Any) -> "pa.Table":
        """Read the metadata of ids (m,), in their order.

        Raises:
            InputError: an id that the catalogue lacks, or it was made without metadata.
        """
        view = self._view
        if self._root.columns is None:
            raise InputError(f"{self.path}: made without metadata")
        numbers = self._numbers(view, ids)
        sources = []
        for part in view.stored:
            assert part.metadata is not None
            rows = part.segment.rows_of(numbers)
            places = np.flatnonzero(rows >= 0)
            if len(places) or part is view.stored[0]:
                sources.append((places, part.metadata.take(rows[places])))
        return gather(sources, len(numbers))

    def known(self, ids: Any) -> np.ndarray:
        """Whether each of distinct ids (m,) is in the catalogue: (m,) bool.

        Raises:
            InputError: what is no id.
        """
        return self._found(self._view, ids)[1]

    def _found(self, view: View, ids: Any) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (m,) int64 of ids (m,), and whether each is in the catalogue."""
        if self._root.texts:
            numbers = numbers_of(view.stored, encoded(ids))
        else:
            numbers = check_ids(ids, None)
        return numbers, view.index.segments.known(numbers)

    def _numbers(self, view: View, ids: Any) -> np.ndarray:
        """Numbers (m,) int64 of ids (m,).

        Raises:
            InputError: an id that the catalogue lacks.
        """
        numbers, is_known = self._found(view, ids)
        if not is_known.all():
            missing = np.atleast_1d(ids)[int(np.argmin(is_known))]
            raise UnknownIdError(f"id {missing} is not in the catalogue")
        return numbers

    def _rows_where(self, view: View, where: Any, allowed: Any) -> AllowedRows:
        """Rows for which a condition is true, among those of ``allowed``."""
        if self._root.columns is None:
            raise InputError(f"where: {self.path} was made without metadata")
        segments, masks = view.index.segments.snapshot(allowed)
        rows = []
        for part, mask in zip(view.stored, masks, strict=True):
            assert part.metadata is not None
            is_true = part.metadata.where(where, self._root.engine)
            rows.append(is_true if mask is None else is_true & mask)
        return AllowedRows(segments, rows)

    def _pairs(self, view: View, excluded: Any) -> sparse.csr_array:
        """CSR (q, any width) of q sequences of ids."""
        bounds = np.cumsum([0, *map(len, excluded)])
        flat = [own for sequence in excluded for own in sequence]
        if self._root.texts:
            numbers = numbers_of(view.stored, encoded(flat)) if flat else np.empty(0, np.int64)
        else:
            numbers = np.asarray(flat, np.int64 if not flat else None)
            if numbers.dtype.kind not in "iu":
                raise InputError(f"exclude: {numbers.dtype} ids; expected whole numbers")
        rows = np.repeat(np.arange(len(excluded)), np.diff(bounds))
        known = (numbers >= 0) & (numbers <= LAST_ID)
        shape = len(excluded), int(numbers[known].max(initial=0)) + 1
        pairs = sparse.coo_array(
            (np.ones(int(known.sum()), np.int8), (rows[known], numbers[known])), shape
        )
        return pairs.tocsr()

    def _named(self, view: View, hits: Hits) -> Hits:
        """Hits with texts as ids."""
        names = decoded(names_of(view.stored, hits.ids.reshape(-1))).reshape(hits.ids.shape)
        return replace(hits, ids=names)

    def texts_of(self, numbers: Any) -> np.ndarray:
        """Texts (m,) that name the rows of ``index`` with ids (m,); "" for ids that it lacks.

        Raises:
            InputError: the catalogue's ids are whole numbers.
        """
        if not self._root.texts:
            raise InputError(f"{self.path}: ids are whole numbers, not texts")
        return decoded(names_of(self._view.stored, np.asarray(numbers, np.int64)))

    def pin(self) -> "Catalogue":
        """The version that is open, as a catalogue that stays at it when this one moves on."""
        return copy(self)

    def as_queries(self, ids: Any) -> Any:
        """Rows of ids (m,) as queries, to find more like them: (m, d) float32 decoded embeddings
        where there is a model, else (m, h) CSR.

        Raises:
            InputError: no id, or what is none; ``UnknownIdError`` for one that the catalogue lacks.
        """
        view = self._view
        codes = view.index.segments.codes_of(self._numbers(view, ids))
        if self.projection is None:
            return codes.to_scipy()
        return codes.reconstruct(self.projection.decoder)

    def refresh(self) -> bool:
        """Move to the newest version; return whether there was a newer one.

        Raises:
            InputError: the newest version cannot be opened; the one that is open stays.
        """
        before = self._view
        newest = version_files.newest(self.path)
        if newest == before.version.number:
            try:
                identity = read_version(self.path, newest).catalogue
            except InputError:  # What is open stays, whatever became of its file.
                return False
            if identity != before.version.catalogue:
                raise InputError(f"{self.path}: was replaced by another catalogue; open it again")
            return False
        return self._move(_newest(self._root, before))

    def _move(self, view: View) -> bool:
        """Open a view unless another thread has moved as far; return whether."""
        with self._moving:
            if view.version.number <= self.version:
                return False
            self._view = view
            return True

    def versions(self) -> list[Version]:
        """The versions that are kept, oldest first.

        Raises:
            InputError: a version's file is damaged.
        """
        return [read_version(self.path, number) for number in version_files.numbers(self.path)]

    # Changing.

    @contextmanager
    def writing(self, wait: float = 0) -> Iterator[Change]:
        """Hold the writer's lock, and make a version of all changes in the block.

        The changes begin at the newest version, whichever was open. If the block raises, nothing is
        changed.

        Args:
            wait: seconds to wait for another process that writes.

        Raises:
            InputError: another process writes; or the disk failed. Nothing was changed.
        """
        with self._locked(wait):
            self.refresh()
            view = self._view  # The newest: no other process writes.
            change = Change(self._root, view)
            yield change
            version = change.write()
            if version is not None:
                write_version(self.path, version)
                self._move(self._root.open_version(version, view))

    def add(self, codes: Any, ids: Any = None, metadata: Any = None) -> np.ndarray:
        """Add rows, as a version of their own.

        Args:
            codes: (m, h) like those of the catalogue: ``encode_like(model, embeddings,
                catalogue.like)``.
            ids: (m,) of the catalogue's kind, none of which it holds; for whole numbers the next
                ones when None.
            metadata: columns of the m rows, where the catalogue has some; see ``create``.

        Returns:
            The ids (m,).

        Raises:
            InputError: codes of another model, form or quantiser; an id that it holds; other
                columns; another process writes. Nothing was changed.
        """
        with self.writing() as change:
            return change.add(codes, ids, metadata)

    def remove(self, ids: Any) -> None:
        """Remove the rows of ids (m,), as a version of its own; ``compact`` frees their bytes.

        Raises:
            InputError: an id that the catalogue lacks, or is given twice; another process writes.
                Nothing was changed.
        """
        with self.writing() as change:
            change.remove(ids)

    def update(self, ids: Any, codes: Any = None, metadata: Any = None) -> None:
        """Replace the rows of ids (m,), as a version of its own.

        Args:
            ids: (m,) that the catalogue holds.
            codes: (m, h); the present ones when None.
            metadata: columns of the m rows; the present ones when None.

        Raises:
            InputError: see ``add`` and ``remove``. Nothing was changed.
        """
        with self.writing() as change:
            change.update(ids, codes, metadata)

    def put(self, codes: Any, ids: Any, metadata: Any = None) -> int:
        """Add rows, in place of those that have their ids, as a version of its own.

        Returns:
            How many were replaced.

        Raises:
            InputError: see ``add``. Nothing was changed.
        """
        with self.writing() as change:
            return change.put(codes, ids, metadata)

    def compact(self) -> None:
        """Merge all segments, as a version of its own; ``prune`` frees the bytes of older ones.

        Exact searches answer as before. A two-stage search may choose other candidates at the
        cut-off, since the merged lists round their values with another step.

        Raises:
            InputError: another process writes, or the disk failed. Nothing was changed.
        """
        with self.writing() as change:
            change.compact()

    def rollback(self, number: int) -> None:
        """Make a new version that holds what an older one held.

        Raises:
            InputError: no such version; another process writes. Nothing was changed.
        """
        with self._locked(0):
            newest = max(version_files.numbers(self.path)[-1], version_files.noted(self.path))
            old = read_version(self.path, number)
            if number == newest:
                return
            next_id = old.next_id
            with suppress(InputError):  # The newest version may be what is wrong.
                next_id = max(next_id, read_version(self.path, newest).next_id)
            version = replace(
                old,
                number=newest + 1,
                next_id=next_id,
                created=now(),
                change=f"roll back to {number}",
            )
            view = self._root.open_version(version, None)  # Its files are there.
            write_version(self.path, version)
            self._move(view)

    def prune(self, keep: int = 1) -> int:
        """Delete older versions, and the files that only they name.

        Readers keep what they opened: the system frees the bytes when they move on.

        Args:
            keep: how many of the newest versions stay.

        Returns:
            Bytes that were freed.

        Raises:
            InputError: another process writes. Nothing was changed.
        """
        if keep < 1:
            raise InputError(f"keep = {keep}: expected at least 1 version")
        with self._locked(0):
            version_files.newest(self.path)  # None is deleted if that one is lost.
            numbers = version_files.numbers(self.path)
            kept = [read_version(self.path, number) for number in numbers[-keep:]]
            for number in numbers[:-keep]:
                version_files.path_of(self.path, number).unlink()
            sync_folder(self.path / version_files.FOLDER)
            return self._sweep(kept)

    @contextmanager
    def _locked(self, wait: float) -> Iterator[None]:
        """Hold the lock of this process and the one of all processes."""
        if self._writing_thread == threading.get_ident():
            raise InputError(
                "the catalogue is being changed by this thread: use its `writing` block"
            )
        with self._writer:
            self._writing_thread = threading.get_ident()
            try:
                with _file_lock(self.path, wait):
                    for folder in (SEGMENTS, REMOVALS, version_files.FOLDER):
                        sweep(self.path / folder)
                    yield
            finally:
                self._writing_thread = None

    def _sweep(self, kept: list[Version]) -> int:
        """Delete segments and removals that none of the versions names; return their bytes."""
        names: dict[str, set[str]] = {SEGMENTS: set(), REMOVALS: set()}
        for version in kept:
            names[SEGMENTS] |= {segment.name for segment in version.segments}
            names[REMOVALS] |= {removal.name for removal in version.removals}
        freed = 0
        for folder, used in names.items():
            for entry in (self.path / folder).iterdir():
                if entry.name in used:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    freed += sum(file.stat().st_size for file in entry.iterdir())
                    shutil.rmtree(entry)
                else:
                    freed += entry.lstat().st_size
                    entry.unlink()
        return freed


def check_place(path: Path, overwrite: bool) -> None:
    """Refuse a path where ``Catalogue.create`` cannot write, before long work starts.

    Raises:
        InputError: something else stands there, or a catalogue without ``overwrite``; or the parent
            folder cannot be written.
    """
    parts = (SEGMENTS, REMOVALS, version_files.FOLDER, version_files.NEWEST, _LOCK)
    check_destination(path, KIND, parts)
    if not overwrite and path.exists() and any(path.iterdir()):
        raise InputError(
            f"{path}: an older catalogue is there; overwrite it (--overwrite), or choose another "
            "name"
        )


@contextmanager
def _lock_of_older(path: Path) -> Iterator[None]:
    """Hold the lock of a catalogue that is to be replaced, if one stands there."""
    if not (path / version_files.FOLDER).is_dir():
        yield
        return
    with _file_lock(path, 0):
        yield


@contextmanager
def _file_lock(path: Path, wait: float) -> Iterator[None]:
    """Hold the lock of a catalogue's one writer; the system frees it when the process dies."""
    try:
        with FileLock(path / _LOCK, timeout=wait, thread_local=False):
            yield
    except Timeout:
        raise InputError(
            f"{path}: another process is writing to it; try again when it is done"
        ) from None
    except OSError as error:
        if error.filename is None or Path(error.filename).name != _LOCK:
            raise
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); nothing was changed"
        ) from error


def _newest(root: Root, before: View | None, verify: bool = False) -> View:
    """Open the newest version; once more where it was pruned meanwhile."""
    for _ in range(_TRIES):
        number = version_files.newest(root.path)
        try:
            return root.open_version(read_version(root.path, number), before, verify)
        except InputError:
            if version_files.newest(root.path) == number:
                raise
    raise InputError(f"{root.path}: changed {_TRIES} times while it was opened; try again")


def _at(root: Root, number: int, verify: bool) -> View:
    """Open a version by its number."""
    kept = version_files.numbers(root.path)
    if number not in kept:
        raise InputError(
            f"{root.path}: no version {number}; expected one of {kept[0]} to {kept[-1]}"
        )
    return root.open_version(read_version(root.path, number), None, verify)
