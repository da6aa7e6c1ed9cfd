"""What compressed search is measured against, one file a family and one line here a method.

A baseline is called with (items (n, d), **settings), normalises the rows, and is a ``Baseline``: a
``Searcher`` of dense queries that says what it holds.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from compressae.retrieval.errors import InputError
from compressae.retrieval.searcher import Baseline

__all__ = ["BASELINES", "Baseline", "Entry", "build"]


@dataclass(frozen=True)
class Entry:
    """A line of the registry.

    Attributes:
        home: "module:name" of what builds it.
        what: what it is, for a legend.
        fixed: settings that make it this method and no other.
        while_searching: settings that are attributes of what is built and may be changed there.
    """

    home: str
    what: str
    fixed: dict[str, Any] = field(default_factory=dict)
    while_searching: tuple[str, ...] = ()

    def builder(self) -> Callable[..., Baseline]:
        """The class or function that builds it; imported now."""
        module, name = self.home.split(":")
        found: Callable[..., Baseline] = getattr(import_module(f"{__name__}.{module}"), name)
        return found

    def settings(self) -> dict[str, Any]:
        """Names and defaults of what may be set."""
        parameters = list(inspect.signature(self.builder()).parameters.values())[1:]
        return {p.name: p.default for p in parameters if p.name not in self.fixed}


_IDS = "partitions of the row number, fitted by least squares"
BASELINES = {
    "dense": Entry("dense:Dense", "every row in float32, scanned"),
    "float16": Entry("scalar:Scalar", "float16 numbers, scanned", {"kind": "float16"}),
    "int8": Entry("scalar:Scalar", "8 bits a dimension, ranges learned", {"kind": "int8"}),
    "int4": Entry("scalar:Scalar", "4 bits a dimension, ranges learned", {"kind": "int4"}),
    "binary": Entry("binary:Binary", "the sign of each dimension, queries dense"),
    "truncate": Entry(
        "truncation:Truncated", "the first dimensions, as for Matryoshka", {"axes": "given"}
    ),
    "pca": Entry("truncation:Truncated", "the first principal components", {"axes": "principal"}),
    "pca-int8": Entry(
        "truncation:Truncated",
        "principal components in 8 bits",
        {"axes": "principal", "values": "int8"},
    ),
    "pq": Entry("product:PQ", "product quantisation, scanned (faiss)"),
    "opq": Entry("product:OPQ", "the same after a learned rotation (faiss)"),
    "rq": Entry("residual:RQ", "residual quantisation, scanned (faiss)"),
    "rabitq": Entry("rabitq:RaBitQ", "RaBitQ, 1 to 8 bits a dimension, scanned (faiss)"),
    "ivf-pq": Entry("ivf:IVFPQ", "inverted lists of 4-bit PQ, fast scan (faiss)", {}, ("nprobe",)),
    "hnsw": Entry("hnsw:HNSW", "a graph over float32 rows (faiss)", {}, ("ef",)),
    "annoy": Entry("annoy:Annoy", "trees of random planes over float32 rows", {}, ("search_k",)),
    "qr-concat": Entry(
        "compositional:Compositional",
        f"quotient and remainder, joined end to end: {_IDS}",
        {"partition": "quotient-remainder", "combine": "concat", "parts": 2},
    ),
    "qr-add": Entry(
        "compositional:Compositional",
        f"quotient and remainder, added: {_IDS}",
        {"partition": "quotient-remainder", "combine": "add", "parts": 2},
    ),
    "qr-product": Entry(
        "compositional:Compositional",
        f"quotient and remainder, multiplied: {_IDS}",
        {"partition": "quotient-remainder", "combine": "product", "parts": 2},
    ),
    "mixed-radix": Entry(
        "compositional:Compositional",
        f"digits in a mixed radix, added: {_IDS}",
        {"partition": "mixed-radix"},
    ),
    "chinese-remainder": Entry(
        "compositional:Compositional",
        f"remainders by coprime numbers, added: {_IDS}",
        {"partition": "chinese-remainder"},
    ),
    "hashing": Entry(
        "compositional:Compositional",
        "one row for all ids of a remainder: their mean",
        {"partition": "hashing", "combine": "add", "parts": 1},
    ),
}


def build(name: str, items: Any, **settings: Any) -> Baseline:
    """A baseline over items (n, d).

    Raises:
        InputError: an unknown name or setting; settings or a table that do not suit the method; a
            library that is missing, with the command that installs it.
    """
    if name not in BASELINES:
        raise InputError(f"baseline {name!r}: expected one of {', '.join(BASELINES)}")
    entry = BASELINES[name]
    known = entry.settings()
    for setting in settings:
        if setting not in known:
            has = ", ".join(known) or "none"
            raise InputError(f"{name} has no setting {setting!r}; it has {has}")
    return entry.builder()(items, **entry.fixed, **settings)
