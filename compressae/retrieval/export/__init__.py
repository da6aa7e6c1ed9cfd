"""Export: the rows of a catalogue in the formats of other engines; one target a file.

Rows are written as they are scored, so that their dot product with ``sparse_query`` is the score
here, residual codes apart. Public names are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressae.retrieval.export.arrow import to_arrow, to_parquet
    from compressae.retrieval.export.elastic import to_elastic
    from compressae.retrieval.export.milvus import to_milvus
    from compressae.retrieval.export.postgres import sparsevec, to_postgres
    from compressae.retrieval.export.postings import to_postings
    from compressae.retrieval.export.qdrant import point_id, to_qdrant
    from compressae.retrieval.export.query import sparse_query
    from compressae.retrieval.export.rows import ExportRows, ResidualWarning
    from compressae.retrieval.export.scipy import to_scipy

_HOME = {
    "ExportRows": "rows",
    "ResidualWarning": "rows",
    "point_id": "qdrant",
    "sparse_query": "query",
    "sparsevec": "postgres",
    "to_arrow": "arrow",
    "to_elastic": "elastic",
    "to_milvus": "milvus",
    "to_parquet": "arrow",
    "to_postgres": "postgres",
    "to_postings": "postings",
    "to_qdrant": "qdrant",
    "to_scipy": "scipy",
}

__all__ = [
    "ExportRows",
    "ResidualWarning",
    "point_id",
    "sparse_query",
    "sparsevec",
    "to_arrow",
    "to_elastic",
    "to_milvus",
    "to_parquet",
    "to_postgres",
    "to_postings",
    "to_qdrant",
    "to_scipy",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compressae.retrieval.export' has no attribute {name!r}")
    return getattr(import_module(f"compressae.retrieval.export.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
