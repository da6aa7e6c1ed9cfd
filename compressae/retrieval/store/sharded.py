"""ShardedCatalogue: catalogues of parts of one table, searched as one."""

import re
import threading
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from compressae.retrieval.codes import Codes
from compressae.retrieval.errors import InputError, UnknownIdError
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.hot import HotRows
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.index.table_rows import TableRows
from compressae.retrieval.io.atomic import check_writable, replacing
from compressae.retrieval.io.embeddings import Similarity
from compressae.retrieval.io.schema import Positive
from compressae.retrieval.store.catalogue import Catalogue
from compressae.retrieval.store.metadata import as_table, gather
from compressae.retrieval.store.rerank_table import RerankTable
from compressae.retrieval.store.shards import (
    PART,
    ShardName,
    check_distinct_ids,
    open_shards,
    read_manifest,
    read_signed,
    write_signed,
)
from compressae.retrieval.store.version import Identity

if TYPE_CHECKING:
    import pyarrow as pa

CATALOGUES = "shards.json"
_CURE = "index the shards again"


@dataclass(frozen=True)
class CatalogueRecord:
    """A shard's catalogue.

    Attributes:
        name: of its folder.
        rows: when it was made.
        catalogue: its identity.
    """

    name: ShardName
    rows: Positive
    catalogue: Identity

    @classmethod
    def of(cls, catalogue: Catalogue) -> "CatalogueRecord":
        """The record of a catalogue that was just made."""
        return cls(catalogue.path.name, len(catalogue), catalogue.identity)


@dataclass(frozen=True)
class _Catalogues:
    """The catalogues of all shards, in the order of the table's rows."""

    catalogues: tuple[CatalogueRecord, ...]


@dataclass(frozen=True, eq=False)
class ShardedHits(Hits):
    """Hits of shards.

    Attributes:
        missing: names of the shards that did not answer.
    """

    missing: tuple[str, ...] = ()


class ShardedCatalogue:
    """Catalogues of parts of one table, searched one after another and merged exactly.

    With ``candidates="all"`` ids and scores are those of one catalogue of all rows. Otherwise each
    shard rescores as many candidates, which is more than one catalogue would: a share of them
    serves. Shards are changed one by one, each a ``Catalogue`` of its own; who adds rows sees to it
    that no two shards hold one id. Threads may search during any change.

    Args:
        folder: of the catalogues, made by ``compressae index --shards``.
        threads: processors to use; all that the process may use when None.

    Attributes:
        path: the folder.
        shards: the catalogues, in the order of the table's rows, at the versions that are open.

    Raises:
        InputError: no such folder, or a catalogue that is missing or another.

    >>> import tempfile
    >>> from scipy import sparse
    >>> from compressae.retrieval import SparseCodes
    >>> rows = SparseCodes.from_scipy(sparse.csr_array(np.eye(4, dtype=np.float32)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     parts = [
    ...         Catalogue.create(f"{folder}/part-0000{i}", None, rows.take([2 * i, 2 * i + 1]), ids)
    ...         for i, ids in enumerate([["a", "b"], ["c", "d"]])
    ...     ]
    ...     write_catalogues(Path(folder), [CatalogueRecord.of(part) for part in parts])
    ...     shards = ShardedCatalogue(folder)
    ...     parts[1].remove(["c"])
    ...     before, moved = shards.version, shards.refresh()
    ...     before, moved, shards.version, shards.search(rows.take([3]).to_scipy(), 1).ids.tolist()
    ((1, 1), True, (1, 2), [['d']])
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        self.path = Path(folder)
        self.shards = tuple(
            open_shard(self.path, record, threads=threads) for record in read_catalogues(self.path)
        )
        self._moving = threading.Lock()

    def __len__(self) -> int:
        """Rows of all shards."""
        return sum(map(len, self.shards))

    def __repr__(self) -> str:
        return (
            f"ShardedCatalogue({str(self.path)!r}, {len(self.shards)} shards, {len(self):,} rows)"
        )

    @property
    def version(self) -> tuple[int, ...]:
        """Numbers of the versions that are open, one a shard."""
        return tuple(shard.version for shard in self.shards)

    @property
    def like(self) -> Codes:
        """Codes of the first shard, for ``encode_like``."""
        return self.shards[0].like

    @property
    def projection(self) -> Projection | None:
        """Weights of the model; None where queries are sparse."""
        return self.shards[0].projection

    @property
    def similarity(self) -> Similarity:
        """How queries are compared with rows: "cosine" or "dot"."""
        return self.shards[0].similarity

    @property
    def has_text_ids(self) -> bool:
        """Whether ids are texts."""
        return self.shards[0].has_text_ids

    @property
    def columns(self) -> dict[str, str]:
        """Names and Arrow types of the metadata; empty without."""
        return self.shards[0].columns

    @property
    def nbytes(self) -> int:
        """Bytes that grow with n, on disk."""
        return sum(shard.nbytes for shard in self.shards)

    def pin(self) -> "ShardedCatalogue":
        """The versions that are open, as a catalogue that stays at them when this one moves on."""
        pinned = copy(self)
        pinned.shards = tuple(shard.pin() for shard in self.shards)
        return pinned

    def refresh(self) -> bool:
        """Move all shards to their newest versions at once; return whether one was newer.

        Raises:
            InputError: the newest version of a shard cannot be opened; that shard stays where it
                is, the others move.
        """
        with self._moving:
            newest = self.pin().shards
            has_moved, errors = False, []
            for shard in newest:
                try:
                    has_moved |= shard.refresh()
                except InputError as error:
                    errors.append(error)
            if has_moved:
                self.shards = newest
        if errors:
            raise errors[0]
        return has_moved

    def search(self, queries: Any, K: int, **options: Any) -> ShardedHits:
        """Find the K best rows of each query among all shards.

        Args:
            queries, K, options: see ``Catalogue.search``; ids of other shards may be among
                ``allowed`` and ``exclude``.

        Returns:
            Hits, best first; ties by smaller id, of texts by the order of the rows.

        Raises:
            InputError: see ``Catalogue.search``; or rows to rerank with are those of one shard.
        """
        return merge_hits_of_shards(search_shards(self.shards, queries, K, **options), K)

    def as_queries(self, ids: Any) -> Any:
        """Rows of distinct ids (m,) as queries, whichever shards hold them; see
        ``Catalogue.as_queries``.

        Raises:
            InputError: no id, or what is none; ``UnknownIdError`` for one that no shard holds.
        """
        found = self._holders(ids)
        parts = [shard.as_queries(own) for shard, own, _ in found]
        rows = np.concatenate if self.projection is not None else _stacked
        return rows(parts)[np.argsort(np.concatenate([places for *_, places in found]))]

    def metadata(self, ids: Any) -> "pa.Table":
        """Read the metadata of distinct ids (m,), in their order.

        Raises:
            InputError: an id that no shard holds, or they were made without metadata.
        """
        found = self._holders(ids)
        return gather([(places, shard.metadata(own)) for shard, own, places in found], len(ids))

    def _holders(self, ids: Any) -> list[tuple[Catalogue, np.ndarray, np.ndarray]]:
        """Shards that hold some of the ids (m,): each with those ids, and their places.

        Raises:
            UnknownIdError: no shard holds an id.
        """
        found, is_left = [], np.ones(len(ids), bool)
        for shard in self.shards:
            places = np.flatnonzero(shard.known(ids) & is_left)
            is_left[places] = False
            if len(places):
                found.append((shard, np.asarray(ids)[places], places))
        if is_left.any():
            raise UnknownIdError(f"id {ids[int(np.argmax(is_left))]} is not in the catalogue")
        return found or [(self.shards[0], np.asarray(ids), np.arange(0))]  # Of no ids.


def _stacked(parts: list[Any]) -> Any:
    """Sparse rows below each other, as CSR."""
    return sparse.vstack(parts, "csr")


def open_catalogue(path: str | Path, threads: int | None = None) -> Catalogue | ShardedCatalogue:
    """Open a catalogue, or the catalogues of shards in a folder, at the newest version.

    Args:
        path: what ``compressae index`` made, with ``--shards`` or without.
        threads: processors to use; all that the process may use when None.

    Raises:
        InputError: it is neither, or not whole.
    """
    if has_catalogues(Path(path)):
        return ShardedCatalogue(path, threads)
    return Catalogue.open(path, threads=threads)


def search_shards(shards: Sequence[Catalogue], queries: Any, K: int, **options: Any) -> list[Hits]:
    """Search shards one after another: the hits of each.

    Args:
        shards: of one table.
        queries, K, options: see ``Catalogue.search``.

    Raises:
        InputError: see ``ShardedCatalogue.search``.
    """
    rerank = options.get("rerank")
    if shards[0].has_text_ids and isinstance(rerank, HotRows | TableRows):
        # Texts are numbered in each catalogue by itself.
        raise InputError(
            "rerank: rows of one catalogue, not of its shards; expected a RerankTable of "
            "embeddings and their ids"
        )
    if isinstance(rerank, tuple) and len(rerank) == 2:
        options["rerank"] = RerankTable(*rerank)  # Checked once, not by each shard.
    return [shard.search(queries, K, **options) for shard in shards]


def merge_hits_of_shards(parts: Sequence[Hits], K: int, missing: Sequence[str] = ()) -> ShardedHits:
    """Merge the hits of shards exactly.

    Args:
        parts: of shards, in the order of the table's rows.
        K: results a query.
        missing: names of shards that did not answer.

    Raises:
        InputError: no shard answered.

    >>> a = Hits(np.array([[1, 4]]), np.array([[3, 1]], np.float32))
    >>> b = Hits(np.array([[0, -1]]), np.array([[3, -np.inf]], np.float32))
    >>> merge_hits_of_shards([a, b], 3).ids
    array([[0, 1, 4]])
    """
    if not parts:
        raise InputError(f"no shard answered; missing: {', '.join(missing)}")
    ids = np.concatenate([part.ids for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    if ids.dtype.kind == "U":  # As rows are numbered, which is how one catalogue breaks ties.
        order = np.argsort(-scores, axis=1, kind="stable")
    else:
        order = np.lexsort((ids, -scores), axis=1)
    order = order[:, :K]
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    rows_scored = sum(part.rows_scored for part in parts)
    return ShardedHits(ids, scores, rows_scored, tuple(missing))


def read_catalogues(folder: Path) -> tuple[CatalogueRecord, ...]:
    """Records of the shards' catalogues in a folder; ``open_shard`` opens and checks each.

    Raises:
        InputError: no such folder, or a damaged file.
    """
    records = read_signed(folder / CATALOGUES, _Catalogues, _CURE).catalogues
    if not records or len({record.name for record in records}) < len(records):
        raise InputError(f"{folder / CATALOGUES}: damaged or not of compressae; {_CURE}")
    return records


def write_catalogues(folder: Path, records: Sequence[CatalogueRecord]) -> None:
    """Write the file that names the catalogues of shards in a folder, in the order of the rows.

    Raises:
        InputError: the disk failed.
    """
    write_signed(folder / CATALOGUES, _Catalogues(tuple(records)))


def has_catalogues(folder: Path) -> bool:
    """Whether a path is a folder of shards' catalogues."""
    return (folder / CATALOGUES).is_file()


def open_shard(
    folder: Path, record: CatalogueRecord, version: int | None = None, threads: int | None = None
) -> Catalogue:
    """Open the catalogue of a shard.

    Args:
        folder: of the catalogues.
        record: the shard.
        version, threads: see ``Catalogue.open``.

    Raises:
        InputError: it is missing, or another than the one that was made.
    """
    catalogue = Catalogue.open(folder / record.name, version, threads=threads)
    if catalogue.identity != record.catalogue:
        raise InputError(
            f"{folder / record.name}: another catalogue than {CATALOGUES} names; {_CURE}"
        )
    return catalogue


def index_shards(
    source: Path,
    output: Path,
    projection: Projection | None,
    metadata: Any = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> ShardedCatalogue:
    """Make a catalogue of each shard of codes, and then the file that names them.

    Args:
        source: a folder of shards.
        output: a new folder, or one of catalogues with ``overwrite``.
        projection: see ``Catalogue.create``.
        metadata: a table of n rows, in the order of the shards' rows; see ``Catalogue.create``.
        overwrite: replace the catalogues of an older one.
        threads: processors to use; all that the process may use when None.

    Raises:
        InputError: see ``open_shards``; something else is at the output; or two rows have one id.
    """
    check_writable(output)
    names = [entry.name for entry in output.iterdir()] if output.is_dir() else []
    foreign = [name for name in names if name != CATALOGUES and not re.fullmatch(PART, name)]
    if foreign or (names and CATALOGUES not in names) or (output.exists() and not output.is_dir()):
        raise InputError(f"{output}: something else is there; choose another name")
    if names and not overwrite:
        raise InputError(
            f"{output}: older catalogues are there; overwrite them (--overwrite), or choose "
            "another name"
        )
    manifest, opened = read_manifest(source), open_shards(source)
    check_distinct_ids(source, opened)
    table = None if metadata is None else as_table(metadata, manifest.rows)
    with replacing(output, folder=True) as folder:
        records = []
        for shard, first, (codes, ids) in zip(
            manifest.shards, manifest.first_ids, opened, strict=True
        ):
            own = None if table is None else table.slice(first, shard.rows)
            catalogue = Catalogue.create(
                folder / shard.name, projection, codes, ids, metadata=own, threads=threads
            )
            records.append(CatalogueRecord.of(catalogue))
        write_catalogues(folder, records)
    return ShardedCatalogue(output, threads)
