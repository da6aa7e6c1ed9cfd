"""The methods that are compared: each makes the tables of a click model.

To add one, add a line to the list at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from benchmarks.calibrated import calibrate
from benchmarks.clicks.workbench import Workbench
from benchmarks.structured import ColumnTable, ShrinkingTable

from compressae.retrieval.errors import InputError
from compressae.tables import QuantizedTable, TableCollection

#: "start": trained from the start; "trained": made of the trained full tables, and judged so;
#: "tuned": made of these, then trained on.
Origin = Literal["start", "trained", "tuned"]
#: The collisions of arXiv 1909.02107 whose bytes are the budgets.
COLLISIONS = (2, 4, 8, 60)
THRESHOLDS = (20, 200, 2000)
#: Weight of the group lasso.
LASSO = 0.01


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: on the command line and in file names.
        label: in the report.
        make: a workbench to its tables.
        origin: see ``Origin``.
        optimizers: those that train it.
        autocast: trained in mixed precision.
    """

    name: str
    label: str
    make: Callable[[Workbench], TableCollection]
    origin: Origin = "start"
    optimizers: tuple[str, ...] = ("adagrad", "amsgrad")
    autocast: bool = False


def whole(bench: Workbench, kind: Literal["full", "int8", "int4"]) -> TableCollection:
    """Full tables, or integers of as many rows."""
    return bench.collection(kind)


def collisions(bench: Workbench, c: int, threshold: int = 0) -> TableCollection:
    """Products of quotient and remainder rows, c ids a remainder; features below full."""
    return bench.collection("quotient-remainder", collisions=c, threshold=threshold)


def equal_bytes(bench: Workbench, c: int, kind: Any, **settings: Any) -> TableCollection:
    """Tables in the bytes of ``collisions(bench, c)``."""
    return bench.collection(kind, budget=bench.budget(c), **settings)


def from_trained(bench: Workbench, c: int, kind: Any) -> TableCollection:
    """The trained full tables in the bytes of ``collisions(bench, c)``, frequent ids first."""
    importance = bench.frequencies if kind == "codes" else None
    return TableCollection.from_dense(
        bench.full_model().tables,
        kind,
        budget=bench.budget(c),
        importance=importance,
        seed=bench.recipe.seed,
    )


def rounded(bench: Workbench, kind: Any) -> TableCollection:
    """The trained full tables, rounded."""
    return TableCollection.from_dense(bench.full_model().tables, kind)


def calibrated(bench: Workbench) -> TableCollection:
    """The trained full tables in four bits, scales by the least squared error of each row."""
    tables = rounded(bench, "int4")
    for table in tables.values():
        if isinstance(table, QuantizedTable):
            calibrate(table)
    return tables


def structured(bench: Workbench, c: int) -> TableCollection:
    """Group lasso over the dimensions of each feature, as many left as fit in float16."""
    rows, dim = bench.examples.rows, bench.setting.dim
    sizes = {d: sum(ColumnTable.bytes_of(n, d) for n in rows.values()) for d in range(1, dim + 1)}
    fitting = [d for d, size in sizes.items() if size <= bench.budget(c)]
    if not fitting:
        raise InputError(f"one dimension in float16 has {sizes[1]} bytes")
    std = bench.setting.std
    return TableCollection.of(
        {n: ShrinkingTable(m, dim, max(fitting), LASSO, std=std) for n, m in rows.items()}, "mean"
    )


def _equal(name: str, label: str, c: int, kind: str, **settings: Any) -> Method:
    return Method(f"{name}-{c}", label, partial(equal_bytes, c=c, kind=kind, **settings))


_METHODS = [
    Method("full", "full tables", partial(whole, kind="full")),
    Method("full-autocast", "full tables, autocast", partial(whole, kind="full"), autocast=True),
    *(
        Method(f"qr-product-{c}", f"QR, product, {c} collisions", partial(collisions, c=c))
        for c in COLLISIONS
    ),
    *(
        Method(
            f"qr-product-4-above-{t}",
            f"QR, product, 4 collisions, features of {t:,} rows or more",
            partial(collisions, c=4, threshold=t),
        )
        for t in THRESHOLDS
    ),
    *(_equal("hashing", f"hashing, bytes of QR {c}", c, "hashing") for c in COLLISIONS),
    _equal("qr-add", "QR, add, bytes of QR 4", 4, "quotient-remainder", combine="add"),
    _equal("qr-concat", "QR, concat, bytes of QR 4", 4, "quotient-remainder", combine="concat"),
    _equal(
        "mixed-radix", "mixed radix, 3 parts, product, bytes of QR 4", 4, "mixed-radix", parts=3
    ),
    _equal("chinese", "Chinese remainder, product, bytes of QR 4", 4, "chinese-remainder"),
    _equal("path", "path-based, hidden 8, bytes of QR 4", 4, "path", hidden=8),
    Method("int8", "int8, trained through the rounding", partial(whole, kind="int8")),
    Method("int4", "int4, trained through the rounding", partial(whole, kind="int4")),
    Method(
        "int4-rounded", "int4, trained tables rounded", partial(rounded, kind="int4"), "trained"
    ),
    Method("int4-calibrated", "int4, calibrated, then tuned", calibrated, "tuned"),
    *(
        Method(
            f"structured-{c}",
            f"group lasso over dimensions, bytes of QR {c}",
            partial(structured, c=c),
        )
        for c in (2, 4)
    ),
    *(
        Method(
            f"pruned-{c}",
            f"magnitude pruning, then tuned, bytes of QR {c}",
            partial(from_trained, c=c, kind="pruned"),
            "tuned",
        )
        for c in (2, 4)
    ),
    *(
        Method(
            f"codes-{c}",
            f"sparse codes of the trained tables, bytes of QR {c}",
            partial(from_trained, c=c, kind="codes"),
            "trained",
        )
        for c in (4, 8)
    ),
]
METHODS = {method.name: method for method in _METHODS}
