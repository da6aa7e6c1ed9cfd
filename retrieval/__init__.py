"""Finding: codes, their storage, dense readers, exact and inverted search, metrics.

Public names are imported when first used, so that a part does not cost the whole.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressae.retrieval.codes import SparseCodes
    from compressae.retrieval.embeddings import Embeddings, open_embeddings
    from compressae.retrieval.errors import InputError
    from compressae.retrieval.exact import ExactIndex, exact_search
    from compressae.retrieval.inverted import InvertedIndex
    from compressae.retrieval.metrics import recall_at
    from compressae.retrieval.packed import PackedCodes, load_codes
    from compressae.retrieval.searcher import Hits, Searcher

_HOME = {
    "Embeddings": "embeddings",
    "ExactIndex": "exact",
    "Hits": "searcher",
    "InputError": "errors",
    "InvertedIndex": "inverted",
    "PackedCodes": "packed",
    "Searcher": "searcher",
    "SparseCodes": "codes",
    "exact_search": "exact",
    "load_codes": "packed",
    "open_embeddings": "embeddings",
    "recall_at": "metrics",
}

__all__ = [
    "Embeddings",
    "ExactIndex",
    "Hits",
    "InputError",
    "InvertedIndex",
    "PackedCodes",
    "Searcher",
    "SparseCodes",
    "exact_search",
    "load_codes",
    "open_embeddings",
    "recall_at",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compressae.retrieval' has no attribute {name!r}")
    return getattr(import_module(f"compressae.retrieval.{_HOME[name]}"), name)
