"""What a benchmark asks of a store: rows to hold, queries, and ways to search."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from compressae import open_embeddings
from compressae.retrieval import Catalogue
from compressae.retrieval.export import sparse_query
from compressae.retrieval.export.signs import Signs
from compressae.retrieval.io.embeddings import Embeddings


def corpus_and_queries(path: Path, rows: int, queries: int) -> tuple[Embeddings, np.ndarray]:
    """The first ``rows`` rows of a file as the corpus, and queries (q, d) drawn from the others."""
    items = open_embeddings(path)
    others = np.random.default_rng(0).choice(np.arange(rows, len(items)), queries, replace=False)
    return items.subset(np.arange(rows)), items.take(np.sort(others))


@dataclass(frozen=True)
class Setting:
    """One way to search a store.

    Attributes:
        name: what is set, and how many entries of q' = W·x the query has.
        prepare: make a query of x (1, d), in the form that the store's client takes.
        search: ids of the C best rows for such a query, best first.
        nbytes: of the store, as far as they grow with the rows.
        counted: what these bytes are.
        most: C, at most; None without a limit.
        by_codes: scores are those of the codes, residual codes included.
        approximate: finds other first rows when asked for more.
    """

    name: str
    prepare: Callable[[np.ndarray], Any]
    search: Callable[[Any, int], np.ndarray]
    nbytes: int
    counted: str
    most: int | None = None
    by_codes: bool = False
    approximate: bool = False


class Store(Protocol):
    """Rows in a store that searches them.

    Attributes:
        name: of the store.
        facts: what its Python package does not say: versions of a server, time of a build.
        settings: ways to search it.
    """

    name: str
    facts: dict[str, Any]
    settings: list[Setting]

    def close(self) -> None:
        """Stop what runs."""


@dataclass(frozen=True, eq=False)
class Source:
    """What a store is made of.

    Attributes:
        catalogue: rows to export.
        folder: an empty one for the store's files.
        entries: of q' in short queries.
        trial: (m, d) dense queries by which a store may choose among its own ways.
    """

    catalogue: Catalogue
    folder: Path
    entries: int
    trial: np.ndarray

    def queries(self, signs: Signs = "both") -> dict[str, Callable[[np.ndarray], sparse.csr_array]]:
        """{name: from x (1, d) to a row of ``sparse_query``}: all entries, and the largest."""

        def of(count: int | None) -> Callable[[np.ndarray], sparse.csr_array]:
            return lambda x: sparse_query(self.catalogue.projection, x, count, signs=signs)

        return {"all entries": of(None), f"{self.entries} entries": of(self.entries)}
