"""Engines of the search benchmark, one a file: each builds an index and gives the searches to time.

A file imports its library when it builds, so that a missing one is named and the others run.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

#: A query in the form that the engine's API takes, and K → ids (K,) or (1, K), −1 for none.
Single = Callable[[Any, int], np.ndarray]
#: K → ids (q, K) of all queries in one call.
Batch = Callable[[Any, int], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """One way to search an index.

    Attributes:
        name: what is set, "" where nothing is.
        search: one query; this call is what is timed.
        prepare: one row of the queries → the form that the engine's API takes; not timed.
        batch: all queries in one call, in the form of the benchmark; None where there is no such
            call.
        nbytes: bytes held by this search, where they differ from the engine's.
    """

    name: str
    search: Single
    prepare: Callable[[Any], Any] = lambda row: row
    batch: Batch | None = None
    nbytes: int | None = None


@dataclass(frozen=True)
class Engine:
    """An index that was built.

    Attributes:
        nbytes: bytes that grow with n: codes, lists, links, ids.
        constant_nbytes: bytes that do not: weights, codebooks, centroids.
        settings: the searches; an iterator may set a parameter of the index as it goes on.
        facts: other figures for the record.
    """

    nbytes: int
    constant_nbytes: int
    settings: Iterable[Setting]
    facts: dict[str, float] = field(default_factory=dict)


def padded(ids: Any, K: int) -> np.ndarray:
    """Ids (K,) int64, −1 where the engine found fewer."""
    out = np.full(K, -1, np.int64)
    out[: len(ids)] = ids
    return out


def saved_size(save: Callable[[str], object]) -> int:
    """Bytes of the files that ``save`` writes."""
    with TemporaryDirectory() as folder:
        save(f"{folder}/index")
        return sum(file.stat().st_size for file in Path(folder).iterdir())
