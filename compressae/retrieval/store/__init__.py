"""The catalogue on disk: immutable segments, and versions that name them.

    config.json, model.safetensors, codes.safetensors   what never changes: the model, the quantiser
    segments/<name>/      codes, posting lists, ids and metadata of some rows; written once
    removals/<name>       rows that were removed from segments; written once
    versions/<number>.json  the segments and removals that make up a version; written once
    newest                the number of the newest version, noted after that is in place
    writer.lock           held by the one process that changes the catalogue

A change writes new files, syncs them, and renames a new version into place, which is the moment
when it happens. The newest version is the one of the largest number; that it is not lost is known
from the number that is noted. Readers open a version and
map its files; they need no lock and write nothing.
"""

from compressae.retrieval.store.cached import CachedSearch
from compressae.retrieval.store.catalogue import KIND, Catalogue
from compressae.retrieval.store.counters import Counters
from compressae.retrieval.store.reader import CatalogueReader
from compressae.retrieval.store.rerank_table import RerankTable
from compressae.retrieval.store.version import Version

__all__ = [
    "KIND",
    "CachedSearch",
    "Catalogue",
    "CatalogueReader",
    "Counters",
    "RerankTable",
    "Version",
]
