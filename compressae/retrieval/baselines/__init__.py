"""The methods that compressed search is compared with: a file a family, an entry a method.

A baseline is built from (items (n, d), **settings), reads them as rows to compare by cosine or dot
product (``Embeddings.compared_by``), and is a ``Baseline``: a ``Searcher`` of dense queries that
says what it holds and how many rows it learned from.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.hits import Searcher

__all__ = ["BASELINES", "Baseline", "Entry", "build", "check_settings"]


class Baseline(Searcher, Protocol):
    """A searcher that also says what else it holds, and what it learned from."""

    @property
    def code_nbytes(self) -> int:
        """Bytes of the n codes alone, without ids, links and lists."""

    @property
    def constant_nbytes(self) -> int:
        """Bytes held that do not grow with n: codebooks, centroids, weights."""

    @property
    def trained_rows(self) -> int:
        """Rows that codebooks, axes or weights were learned from; 0 where nothing is learned."""


@dataclass(frozen=True)
class Entry:
    """One method of the registry.

    Attributes:
        home: "module:name" of the class that is built.
        family: heading for charts.
        what: description for a legend.
        fixed: settings that make the class this method.
        search_settings: settings that may be changed on the built index, and the values that an
            evaluation tries by default.
        slow: slow to train: an evaluation of "all" leaves it out.
    """

    home: str
    family: str
    what: str
    fixed: dict[str, Any] = field(default_factory=dict)
    search_settings: dict[str, tuple[int, ...]] = field(default_factory=dict)
    slow: bool = False

    def builder(self) -> Callable[..., Baseline]:
        """Import the class that is built."""
        module, name = self.home.split(":")
        builder: Callable[..., Baseline] = getattr(import_module(f"{__name__}.{module}"), name)
        return builder

    def settings(self) -> dict[str, Any]:
        """Names and defaults of the settings that a user may choose."""
        parameters = list(inspect.signature(self.builder()).parameters.values())[1:]
        return {p.name: p.default for p in parameters if p.name not in self.fixed}

    def code_size(self, d: int, settings: Mapping[str, Any]) -> Any:
        """Bytes a row that settings end in, for rows of d dimensions: equal for the same index.

        Only some classes round ``code_bytes``; the others make codes of just that size.
        """
        rounded = getattr(self.builder(), "code_size", None)
        code_bytes = settings.get("code_bytes")
        if rounded is None or code_bytes is None:
            return code_bytes
        return rounded(d, code_bytes)


_FEWER, _CODES, _INDEX, _SHARED = "fewer bits or dimensions", "quantisers", "indexes", "shared rows"
_QR, _TABLES = "quotient-remainder", "compositional:Compositional"

#: Family whose methods may be given an error weighting (``weighted``), and those of them that may
#: be given a byte for the length of a row (``length``), as compressed search has one.
QUANTISERS = _CODES
MAY_HOLD_LENGTHS = ("pq", "opq", "rq", "prq", "lsq")

BASELINES = {
    "dense": Entry("dense:Dense", "dense rows", "every row in float32, scanned"),
    "float16": Entry("scalar:Scalar", _FEWER, "float16 numbers, scanned", {"kind": "float16"}),
    "int8": Entry("scalar:Scalar", _FEWER, "8 bits a dimension, ranges learned", {"kind": "int8"}),
    "int4": Entry("scalar:Scalar", _FEWER, "4 bits a dimension, ranges learned", {"kind": "int4"}),
    "binary": Entry("binary:Binary", _FEWER, "the sign of each dimension, queries dense"),
    "truncate": Entry("truncation:Truncated", _FEWER, "the first dimensions", {"axes": "given"}),
    "pca": Entry("truncation:Truncated", _FEWER, "principal components", {"axes": "principal"}),
    "pca-int8": Entry(
        "truncation:Truncated",
        _FEWER,
        "principal components in 8 bits",
        {"axes": "principal", "values": "int8"},
    ),
    "pq": Entry("product:PQ", _CODES, "product quantisation, scanned (faiss)"),
    "opq": Entry("product:OPQ", _CODES, "the same after a learned rotation (faiss)"),
    "ne-pq": Entry(
        "norm_explicit:NormExplicitPQ", _CODES, "directions by PQ and a byte for the norm, decoded"
    ),
    "rq": Entry("additive:RQ", _CODES, "residual quantisation, scanned (faiss)"),
    "prq": Entry("additive:PRQ", _CODES, "residual quantisation of parts, scanned (faiss)"),
    "lsq": Entry(
        "additive:LSQ", _CODES, "local search quantisation of parts, scanned (faiss)", slow=True
    ),
    "scann": Entry("scann:ScaNN", _CODES, "anisotropic product quantisation, scanned (ScaNN)"),
    "rabitq": Entry("rabitq:RaBitQ", _CODES, "RaBitQ, 1 to 8 bits a dimension, scanned (faiss)"),
    "rabitqlib": Entry(
        "rabitqlib:RaBitQLibrary", _CODES, "RaBitQ around centroids of lists, scanned (rabitqlib)"
    ),
    "turboquant": Entry(
        "turboquant:TurboQuant", _CODES, "TurboQuant, 2 or 4 bits a dimension, scanned (turbovec)"
    ),
    "ivf-pq": Entry(
        "ivf:IVFPQ",
        _INDEX,
        "inverted lists of 4-bit PQ, fast scan (faiss)",
        search_settings={"nprobe": (8, 32, 128)},
    ),
    "hnsw": Entry(
        "hnsw:HNSW",
        _INDEX,
        "a graph over float32 rows (faiss)",
        search_settings={"ef": (100, 200, 400)},
    ),
    "annoy": Entry(
        "annoy:Annoy",
        _INDEX,
        "trees of random planes over float32 rows",
        search_settings={"search_k": (2_000, 10_000, 50_000)},
    ),
    "qr-concat": Entry(
        _TABLES,
        _SHARED,
        "rows of quotient and remainder of the id, joined",
        {"partition": _QR, "combine": "concat", "parts": 2},
    ),
    "qr-add": Entry(
        _TABLES,
        _SHARED,
        "rows of quotient and remainder of the id, added",
        {"partition": _QR, "combine": "add", "parts": 2},
    ),
    "qr-product": Entry(
        _TABLES,
        _SHARED,
        "rows of quotient and remainder of the id, multiplied",
        {"partition": _QR, "combine": "product", "parts": 2},
    ),
    "mixed-radix": Entry(
        _TABLES,
        _SHARED,
        "rows of the id's digits in a mixed radix, added",
        {"partition": "mixed-radix"},
    ),
    "chinese-remainder": Entry(
        _TABLES,
        _SHARED,
        "rows of remainders by coprime numbers, added",
        {"partition": "chinese-remainder"},
    ),
    "hashing": Entry(
        _TABLES,
        _SHARED,
        "one row for all ids of a remainder",
        {"partition": "hashing", "combine": "add", "parts": 1},
    ),
}


def build(name: str, items: Any, **settings: Any) -> Baseline:
    """Build a baseline over items (n, d).

    Args:
        name: a key of ``BASELINES``.
        items: an array, a path or ``Embeddings``; compared by cosine, or by dot product if they are
            ``as_embeddings(items).compared_by("dot")``.
        settings: those that ``BASELINES[name].settings()`` names.

    Raises:
        InputError: an unknown name or setting; settings or a table that do not suit the method; a
            library that is missing, with the command that installs it.

    >>> import numpy as np
    >>> items = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    >>> pq = build("pq", items, code_bytes=4)
    >>> pq.nbytes / len(pq), pq.trained_rows
    (4.0, 300)
    >>> build("dense", items).search(items[:2], 1).ids.tolist()
    [[0], [1]]
    """
    if name not in BASELINES:
        raise InputError(f"baseline {name!r}: expected one of {', '.join(BASELINES)}")
    entry = BASELINES[name]
    check_settings(name, settings, entry.settings())
    return entry.builder()(items, **entry.fixed, **settings)


def check_settings(name: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse settings that a method does not have.

    Raises:
        InputError: a setting is not among the known ones.
    """
    for setting in settings:
        if setting not in known:
            raise InputError(
                f"{name} has no setting {setting!r}; it has {', '.join(known) or 'none'}"
            )
