"""ShardedCatalogue: catalogues of parts of one table, searched as one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.io.atomic import check_writable, replacing
from compressae.retrieval.io.schema import Positive
from compressae.retrieval.store.catalogue import Catalogue
from compressae.retrieval.store.metadata import as_table
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
    serves.

    Args:
        folder: of the catalogues, made by ``compressae index --shards``.
        threads: processors to use; all that the process may use when None.

    Attributes:
        shards: the catalogues, in the order of the table's rows.

    Raises:
        InputError: no such folder, or a catalogue that is missing or another.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        self.path = Path(folder)
        self.shards = [
            open_shard(self.path, record, threads=threads) for record in read_catalogues(self.path)
        ]

    def __len__(self) -> int:
        """Rows of all shards."""
        return sum(map(len, self.shards))

    def __repr__(self) -> str:
        return (
            f"ShardedCatalogue({str(self.path)!r}, {len(self.shards)} shards, {len(self):,} rows)"
        )

    @property
    def nbytes(self) -> int:
        """Bytes that grow with n, on disk."""
        return sum(shard.nbytes for shard in self.shards)

    def refresh(self) -> None:
        """Move all shards to their newest versions."""
        for shard in self.shards:
            shard.refresh()

    def search(self, queries: Any, K: int, **options: Any) -> ShardedHits:
        """Find the K best rows of each query among all shards.

        Args:
            queries, K, options: see ``Catalogue.search``; ids of other shards may be among
                ``allowed`` and ``exclude``.

        Returns:
            Hits, best first; ties by smaller id, of texts by the order of the rows.
        """
        return merge_hits_of_shards(
            [shard.search(queries, K, **options) for shard in self.shards], K
        )


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
            records.append(CatalogueRecord(shard.name, len(catalogue), catalogue.identity))
        write_signed(folder / CATALOGUES, _Catalogues(tuple(records)))
    return ShardedCatalogue(output, threads)
