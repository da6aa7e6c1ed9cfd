"""Posting lists as a parquet file: a row a nonzero, sorted by latent, which SQL searches."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressae.retrieval.export.arrow import (
    described,
    id_type,
    parquet_writer,
    pyarrow,
)
from compressae.retrieval.export.rows import ExportRows
from compressae.retrieval.io.atomic import check_new_file, replacing
from compressae.retrieval.io.remote import REMOTE_OUTPUT, local_path
from compressae.retrieval.store.catalogue import Catalogue

if TYPE_CHECKING:
    import pyarrow as pa

#: Postings that are sorted at a time, about; rows are read once for each such group of latents.
GROUP_POSTINGS = 1 << 25


def to_postings(
    catalogue: Catalogue,
    path: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> int:
    """Write a parquet file of a row for each nonzero: ``latent`` (int32), ``id`` (int64 or
    string), ``value`` (float32), by ascending latent.

    A search is a join with the query's entries and a sum by id:
    ``SELECT id, sum(p.value * q.value) AS score FROM postings p JOIN query q USING (latent) GROUP
    BY id ORDER BY score DESC LIMIT 10``.

    Args:
        catalogue: the version that it has open is written.
        path: the file.
        overwrite: replace an older file.
        progress: called with (postings done, postings).

    Returns:
        Postings written.

    Raises:
        InputError: something else at the path, or the disk failed. What was there is unchanged.
        MissingExtraError: pyarrow is not installed.
    """
    path = local_path(path, REMOTE_OUTPUT)
    rows = ExportRows(catalogue, columns=())
    pa = pyarrow()
    fields = [
        pa.field("latent", pa.int32(), nullable=False),
        pa.field("id", id_type(rows), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
    ]
    schema = described(pa.schema(fields), rows, "postings")
    check_new_file(path, overwrite)
    counts = np.zeros(rows.latents, np.int64)
    for batch in rows.batches():
        counts += np.bincount(batch.latents, minlength=rows.latents)
    done, total = 0, int(counts.sum())
    with replacing(path) as file, parquet_writer(file, schema, sorted_by=0) as write:
        for first, last in _groups(counts):
            for table in _tables(rows, first, last, schema):
                write(table)
                done += len(table)
                if progress is not None:
                    progress(done, total)
    return total


def _groups(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs first..last of latents that have at most ``GROUP_POSTINGS`` postings, or are one."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts) and ends[-1] > (before := int(ends[first] - counts[first])):
        last = max(first + 1, int(np.searchsorted(ends, before + GROUP_POSTINGS, "right")))
        yield first, last
        first = last


def _tables(rows: ExportRows, first: int, last: int, schema: "pa.Schema") -> Iterator["pa.Table"]:
    """Postings of latents first..last: sorted, or batch by batch where it is one latent."""
    pa = pyarrow()
    parts = []
    for batch in rows.batches():
        is_own = (batch.latents >= first) & (batch.latents < last)
        ids = np.repeat(batch.ids, np.diff(batch.bounds))[is_own]
        part = pa.table(
            [batch.latents[is_own], pa.array(ids, schema.field("id").type), batch.values[is_own]],
            schema=schema,
        )
        if last == first + 1:
            yield part
        else:
            parts.append(part)
    if parts:
        table = pa.concat_tables(parts)
        order = np.argsort(table["latent"].to_numpy(), kind="stable")
        yield table.take(pa.array(order))
