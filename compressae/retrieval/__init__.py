"""Serving: codes and their bytes, readers and artifacts, indexes, metrics. Needs no torch on a CPU.

Public names are imported when first used, so that a part does not cost the whole.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressae.retrieval.codes import Codes, PackedCodes, SparseCodes, load_codes
    from compressae.retrieval.errors import InputError
    from compressae.retrieval.index.compressed import CompressedIndex
    from compressae.retrieval.index.exact import ExactIndex, exact_search
    from compressae.retrieval.index.gpu import GpuIndex
    from compressae.retrieval.index.hits import Hits, Searcher
    from compressae.retrieval.index.hot import HotRows
    from compressae.retrieval.index.inverted import InvertedIndex
    from compressae.retrieval.index.projection import Projection
    from compressae.retrieval.index.request import SearchRequest
    from compressae.retrieval.index.table_rows import TableRows
    from compressae.retrieval.index.tuning import Setting, tune
    from compressae.retrieval.io.embeddings import Embeddings, open_embeddings
    from compressae.retrieval.io.interactions import read_interactions
    from compressae.retrieval.metrics import recall_at
    from compressae.retrieval.store import CachedSearch, Catalogue, Counters, RerankTable

_HOME = {
    "CachedSearch": "store",
    "Catalogue": "store",
    "Codes": "codes",
    "CompressedIndex": "index.compressed",
    "Counters": "store",
    "Embeddings": "io.embeddings",
    "ExactIndex": "index.exact",
    "GpuIndex": "index.gpu",
    "Hits": "index.hits",
    "HotRows": "index.hot",
    "InputError": "errors",
    "InvertedIndex": "index.inverted",
    "PackedCodes": "codes",
    "Projection": "index.projection",
    "RerankTable": "store",
    "SearchRequest": "index.request",
    "Searcher": "index.hits",
    "Setting": "index.tuning",
    "SparseCodes": "codes",
    "TableRows": "index.table_rows",
    "exact_search": "index.exact",
    "load_codes": "codes",
    "open_embeddings": "io.embeddings",
    "read_interactions": "io.interactions",
    "recall_at": "metrics",
    "tune": "index.tuning",
}

__all__ = [
    "CachedSearch",
    "Catalogue",
    "Codes",
    "CompressedIndex",
    "Counters",
    "Embeddings",
    "ExactIndex",
    "GpuIndex",
    "Hits",
    "HotRows",
    "InputError",
    "InvertedIndex",
    "PackedCodes",
    "Projection",
    "RerankTable",
    "SearchRequest",
    "Searcher",
    "Setting",
    "SparseCodes",
    "TableRows",
    "exact_search",
    "load_codes",
    "open_embeddings",
    "read_interactions",
    "recall_at",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compressae.retrieval' has no attribute {name!r}")
    return getattr(import_module(f"compressae.retrieval.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
