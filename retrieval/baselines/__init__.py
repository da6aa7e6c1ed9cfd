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
        family: what it is one of, for pictures.
        what: what it is, for a legend.
        fixed: settings that make it this method and no other.
        while_searching: settings that are attributes of what is built and may be changed there,
            and the values that an evaluation tries unless told.
    """

    home: str
    family: str
    what: str
    fixed: dict[str, Any] = field(default_factory=dict)
    while_searching: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def builder(self) -> Callable[..., Baseline]:
        """The class or function that builds it; imported now."""
        module, name = self.home.split(":")
        found: Callable[..., Baseline] = getattr(import_module(f"{__name__}.{module}"), name)
        return found

    def settings(self) -> dict[str, Any]:
        """Names and defaults of what may be set."""
        parameters = list(inspect.signature(self.builder()).parameters.values())[1:]
        return {p.name: p.default for p in parameters if p.name not in self.fixed}


_FEWER, _CODES, _INDEX, _SHARED = "fewer bits or dimensions", "quantisers", "indexes", "shared rows"
_QR, _TABLES = "quotient-remainder", "compositional:Compositional"
# fmt: off
BASELINES = {
    "dense": Entry("dense:Dense", "dense rows", "every row in float32, scanned"),
    "float16": Entry("scalar:Scalar", _FEWER, "float16 numbers, scanned", {"kind": "float16"}),
    "int8": Entry("scalar:Scalar", _FEWER, "8 bits a dimension, ranges learned", {"kind": "int8"}),
    "int4": Entry("scalar:Scalar", _FEWER, "4 bits a dimension, ranges learned", {"kind": "int4"}),
    "binary": Entry("binary:Binary", _FEWER, "the sign of each dimension, queries dense"),
    "truncate": Entry("truncation:Truncated", _FEWER, "the first dimensions", {"axes": "given"}),
    "pca": Entry("truncation:Truncated", _FEWER, "principal components", {"axes": "principal"}),
    "pca-int8": Entry("truncation:Truncated", _FEWER, "principal components in 8 bits",
                      {"axes": "principal", "values": "int8"}),
    "pq": Entry("product:PQ", _CODES, "product quantisation, scanned (faiss)"),
    "opq": Entry("product:OPQ", _CODES, "the same after a learned rotation (faiss)"),
    "rq": Entry("residual:RQ", _CODES, "residual quantisation, scanned (faiss)"),
    "rabitq": Entry("rabitq:RaBitQ", _CODES, "RaBitQ, 1 to 8 bits a dimension, scanned (faiss)"),
    "ivf-pq": Entry("ivf:IVFPQ", _INDEX, "inverted lists of 4-bit PQ, fast scan (faiss)",
                    {}, {"nprobe": (8, 32, 128)}),
    "hnsw": Entry("hnsw:HNSW", _INDEX, "a graph over float32 rows (faiss)",
                  {}, {"ef": (100, 200, 400)}),
    "annoy": Entry("annoy:Annoy", _INDEX, "trees of random planes over float32 rows",
                   {}, {"search_k": (2_000, 10_000, 50_000)}),
    "qr-concat": Entry(_TABLES, _SHARED, "rows of quotient and remainder of the id, joined",
                       {"partition": _QR, "combine": "concat", "parts": 2}),
    "qr-add": Entry(_TABLES, _SHARED, "rows of quotient and remainder of the id, added",
                    {"partition": _QR, "combine": "add", "parts": 2}),
    "qr-product": Entry(_TABLES, _SHARED, "rows of quotient and remainder of the id, multiplied",
                        {"partition": _QR, "combine": "product", "parts": 2}),
    "mixed-radix": Entry(_TABLES, _SHARED, "rows of the id's digits in a mixed radix, added",
                         {"partition": "mixed-radix"}),
    "chinese-remainder": Entry(_TABLES, _SHARED, "rows of remainders by coprime numbers, added",
                               {"partition": "chinese-remainder"}),
    "hashing": Entry(_TABLES, _SHARED, "one row for all ids of a remainder",
                     {"partition": "hashing", "combine": "add", "parts": 1}),
}
# fmt: on


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
