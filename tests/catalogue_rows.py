"""Rows of the small catalogue that tests of its searches share, and catalogues of its shards."""

from itertools import pairwise

import numpy as np

from compressae.retrieval import Catalogue
from compressae.retrieval.store.sharded import (
    CatalogueRecord,
    ShardedCatalogue,
    write_catalogues,
)

N, D = 300, 10
#: Rows of the shards.
CUTS = (0, 120, 121, N)


def in_shards(folder, projection, codes, ids=None, metadata=None):
    """Catalogues of three shards of N rows, searched as one."""
    ids = np.arange(N) if ids is None else np.asarray(ids)
    folder.mkdir()
    records = []
    for number, (start, stop) in enumerate(pairwise(CUTS)):
        rows = slice(start, stop)
        own = None if metadata is None else {k: v[rows] for k, v in metadata.items()}
        part = codes.take(np.arange(start, stop))
        shard = Catalogue.create(
            folder / f"part-{number:05d}", projection, part, ids[rows], metadata=own, threads=1
        )
        records.append(CatalogueRecord.of(shard))
    write_catalogues(folder, records)
    return ShardedCatalogue(folder, threads=1)


def shards_of(catalogue):
    """The catalogues that a writer may change: those of shards, or the one."""
    return getattr(catalogue, "shards", (catalogue,))


def version_of(catalogue):
    """Its version as JSON has it."""
    version = catalogue.version
    return version if isinstance(version, int) else list(version)
