"""Finding: codes, their storage, dense readers, exact and inverted search, metrics."""

from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.embeddings import Embeddings, open_embeddings
from compressae.retrieval.errors import InputError
from compressae.retrieval.exact import ExactIndex, exact_search
from compressae.retrieval.inverted import InvertedIndex
from compressae.retrieval.metrics import recall_at
from compressae.retrieval.searcher import Hits, Searcher

__all__ = [
    "Embeddings",
    "ExactIndex",
    "Hits",
    "InputError",
    "InvertedIndex",
    "Searcher",
    "SparseCodes",
    "exact_search",
    "open_embeddings",
    "recall_at",
]
