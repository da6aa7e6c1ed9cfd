"""The methods of the Gowalla table: each makes a table of at most so many bytes, and trains it.

To add one, put a line into ``METHODS``; nothing else has to know of it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from benchmarks.gowalla.codebooks import ENTRIES, NormedTable, ProductTable, ResidualTable
from benchmarks.gowalla.joined import JoinedTable
from benchmarks.gowalla.workbench import DoesNotFit, Workbench
from recommenders.bet import Settings as SearchSettings
from recommenders.bet import principal_axes, refit, search_and_retrain

from compressae.cli.progress import progress
from compressae.retrieval.errors import InputError
from compressae.tables import (
    CodedTable,
    CompositionalTable,
    FullTable,
    HashedTable,
    PrunedTable,
    QuantizedTable,
    Table,
)

#: A workbench and a budget in bytes → a table as it is stored, trained.
Function = Callable[[Workbench, int], Table]
#: Names the rules below for a method's own epochs, rates and decays in records; raise it with them.
RULES = 2
#: Of the recipe's learning rate, for rows that were trained and are rounded.
TUNE_RATE = 0.3
#: The same for what all sparse codes share: seven times as much overfits within an epoch.
THROUGH_RATE = 0.01
#: Of a product's entries at the start.
PRODUCT_STD = 0.01
#: BET's search: widths are tried after some epochs of tuning, the fittest trained by the recipe. A
#: short one, and one as long as the paper's.
BET = SearchSettings(iterations=20, retrain=1)
BET_LONG = SearchSettings(iterations=50, tune_epochs=10, retrain=5)


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: on the command line and in file names.
        label: in the report.
        function: raises ``DoesNotFit`` where the budget is too small.
        note: what a reader of the report should know.
        settings: of its own, as JSON; cells that were made with others are refused.
        counts: what has to stay within the budget: all bytes; or, as BET counts, four bytes for
            each number and nothing for where it is; or the bytes of items, within their part, of a
            table of rows as they are scored, after propagation.
        on_request: made only where it is named, for the time it takes.
    """

    name: str
    label: str
    function: Function
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    counts: Literal["bytes", "numbers", "items"] = "bytes"
    on_request: bool = False


def dense(bench: Workbench, budget: int) -> Table:
    """The full table that all budgets are a share of."""
    table = FullTable.from_dense(bench.dense_rows())
    bench.trainings.append(bench.dense_training)
    bench.seconds = bench.dense_seconds
    return table


def uniform(bench: Workbench, budget: int) -> Table:
    """A full table of fewer dimensions."""
    d = bench.widest(min(budget // (4 * bench.n), bench.dim))
    table = bench.full(d)
    bench.train(table, decay=bench.decay(d))
    return table


def hashing(bench: Workbench, budget: int) -> Table:
    """Row i mod m for users and items apart, m in proportion to their numbers."""
    parts = []
    for n, share in _sides(bench, budget):
        rows = min(n, share // (4 * bench.dim))
        if rows < 1:
            raise DoesNotFit(f"{share} bytes; one row of {bench.dim} numbers has {4 * bench.dim}")
        parts.append(HashedTable(n, bench.dim, rows, std=bench.setting.std))
    bench.note(rows=[len(part.weight) for part in parts])
    table = JoinedTable(*parts)
    bench.train(table)
    return table


def quotient_remainder(
    bench: Workbench, budget: int, combine: Literal["concat", "add", "product"]
) -> Table:
    """Users and items apart, remainders as many as the budget allows (arXiv 1909.02107).

    Products start smaller than the others, as validation preferred.
    """
    std = PRODUCT_STD if combine == "product" else bench.setting.std
    parts = []
    for n, share in _sides(bench, budget):
        try:
            part = CompositionalTable.within(n, bench.dim, share // 4, combine=combine, std=std)
        except InputError as error:
            raise DoesNotFit(str(error)) from error
        parts.append(part)
    bench.note(classes=[list(part.partitioner.sizes) for part in parts])
    table = JoinedTable(*parts)
    bench.train(table)
    return table


def pruned(bench: Workbench, budget: int) -> Table:
    """The largest entries of the dense rows, then all epochs again (after arXiv 2406.17335).

    Entries count in relation to the length of their row, and each row keeps half of its even share.
    Where scores are dot products the rows are turned to their principal axes before, which changes
    no score and is not stored: magnitudes then tell what matters. Without these three, validation
    found a fifth of the recall.
    """
    entries = min(PrunedTable.most_entries(bench.n, bench.dim, budget, 2), bench.n * bench.dim)
    if entries < bench.n:
        raise DoesNotFit(f"{max(entries, 0)} entries for {bench.n} rows")
    rows = torch.from_numpy(bench.dense_rows())
    if bench.setting.model != "ncf":
        rows = principal_axes(rows)
    lengths = rows.norm(dim=1).clamp(min=1e-12)
    floor = max(1, entries // bench.n // 2)
    table = PrunedTable.from_dense(rows / lengths[:, None], entries, floor)
    with torch.no_grad():
        table.values.mul_(lengths.repeat_interleave(table.lengths.long()))
    bench.note(entries=entries, floor=floor)
    bench.train(table, cold=False, decay=bench.decay(entries / bench.n))
    return table.half().requires_grad_(False)


def product(bench: Workbench, budget: int, rotated: bool = False, through: bool = False) -> Table:
    """The dense rows by PQ, or after a learned rotation (OPQ), in as many bytes a row as fit;
    ``through``: then centroids are trained on."""
    shape = bench.n, bench.dim
    table = _quantised(bench, ProductTable, bench.dense_rows, shape, budget, rotated=rotated)
    if through:
        _tune(bench, table, THROUGH_RATE, decay=0.0)
    return table.export()


def residual(bench: Workbench, budget: int) -> Table:
    """The dense rows by residual quantisation, in as many stages as fit."""
    shape = bench.n, bench.dim
    return _quantised(bench, ResidualTable, bench.dense_rows, shape, budget).export()


def integers(bench: Workbench, budget: int, bits: int) -> Table:
    """int8 or int4 with a float16 scale a row, of the most dimensions that fit (the dense table's
    at most): trained in float32 first, then tuned through the rounding, and exported."""
    d = bench.widest(min((budget // bench.n - 2) * 8 // bits, bench.dim))
    if d < bench.dim:
        start = bench.full(d)
        bench.train(start, decay=bench.decay(d))
        rows: Any = start
    else:
        rows = bench.dense_rows()
    table = QuantizedTable.from_dense(rows, bits, scale_dtype=torch.float16)
    _tune(bench, table, decay=bench.decay(d))
    return table.export()


def budgeted(bench: Workbench, budget: int, search: SearchSettings) -> Table:
    """BET: widths searched on validation pairs, the fittest trained by the recipe.

    Where training pairs alone are given, a tenth of them is held out for the search, and the chosen
    widths are trained on all of them.
    """
    if budget // 4 < bench.n:
        raise DoesNotFit(f"{budget // 4} numbers for {bench.n} rows")
    split, full = bench.searched()
    recipe = replace(bench.recipe, decay=bench.decay(budget / 4 / bench.n))
    folder = bench.folder
    folder.mkdir(parents=True, exist_ok=True)
    with progress(bench.what) as show:

        def report(stage: str, done: int, total: int, details: str) -> None:
            show(done, total, f"{stage} {details}")

        given = (split, bench.make, full, budget // 4, recipe, folder, report, search)
        found = search_and_retrain(*given, resume=True)
        model = found.model
        bench.seconds += found.seconds
        bench.trained("retrain", found.chosen.outcome, recipe, bench.dim)
        if split is not bench.split:
            model, outcome = refit(split, bench.make, full, found, recipe, folder, report, search)
            bench.seconds += outcome.seconds
            bench.trained("refit", outcome, recipe, bench.dim)
    bench.note(search=found.record())
    return bench.keep(model)


def coded(bench: Workbench, budget: int, through: bool = False) -> Table:
    """Sparse codes of the dense rows, users and items alike; ``through``: then trained on."""
    table = _codes(bench, bench.dense_rows(), budget)
    if through:
        _tune(bench, table, THROUGH_RATE, decay=0.0)
    return table.export()


def items_coded(bench: Workbench, budget: int) -> Table:
    """Sparse codes of the items as they are scored; users are dense queries."""
    users, items = bench.served_rows()
    return JoinedTable(users, _codes(bench, items, _sides(bench, budget)[1][1]).export())


def items_quantised(bench: Workbench, budget: int, kind: Any, **form: Any) -> Table:
    """The same by a table of codebooks."""
    users, items = bench.served_rows()
    share = _sides(bench, budget)[1][1]
    table = _quantised(bench, kind, lambda: items, items.shape, share, **form)
    return JoinedTable(users, table.export())


def _codes(bench: Workbench, rows: np.ndarray, budget: int) -> CodedTable:
    least = CodedTable.least_bytes(*rows.shape)
    if budget < least:
        raise DoesNotFit(f"{budget} bytes; a decoder and one nonzero a row have {least}")
    with bench.timed():
        table = CodedTable.from_dense(rows, budget, seed=bench.seed)
    nonzeros = table.nonzeros.double()
    bench.note(latents=len(table.decoder), nonzeros=float(nonzeros.mean()))
    return table


def _quantised(
    bench: Workbench,
    kind: Any,
    make_rows: Callable[[], np.ndarray],
    shape: tuple[int, int],
    budget: int,
    **form: Any,
) -> Any:
    """Rows of a shape as a table of codebooks; they are made once it is known that they fit."""
    m = _most(kind.bytes_of, *shape, budget, **form)
    rows = make_rows()
    with bench.timed():
        table = kind.fit(rows, m, seed=bench.seed, **form)
    bench.note(m=m)
    return table


def _tune(bench: Workbench, table: Table, rate: float = TUNE_RATE, **changes: Any) -> None:
    """Train on from trained rows: a quarter of the recipe's epochs, a share of its rate."""
    epochs = -(-bench.recipe.epochs // 4)
    bench.train(
        table,
        "tune",
        cold=False,
        epochs=epochs,
        learning_rate=bench.recipe.learning_rate * rate,
        check_every=1,
        **changes,
    )


def _sides(bench: Workbench, budget: int) -> list[tuple[int, int]]:
    """Rows of users and of items, each with its share of the budget, in proportion to rows."""
    share = budget * bench.n_users // bench.n
    return [(bench.n_users, share), (bench.n - bench.n_users, budget - share)]


def _most(bytes_of: Callable[..., int], n: int, d: int, budget: int, **form: Any) -> int:
    """The largest m, d at most, with which ``bytes_of(n, d, m, **form)`` is within the budget."""
    if n < ENTRIES:
        raise DoesNotFit(f"{n} rows; codebooks of {ENTRIES} entries want as many to learn")
    fitting = [m for m in range(1, d + 1) if bytes_of(n, d, m, **form) <= budget]
    if not fitting:
        least = bytes_of(n, d, 1, **form)
        raise DoesNotFit(f"codes of one byte and their codebooks have {least} bytes")
    return max(fitting)


_PRUNED = "of the dense rows on principal axes, float16; columns counted; all epochs twice"
_QR = "users and items apart, as many remainders as fit"
_BET = "widths tried: {0.iterations}, epochs each: {0.tune_epochs}, then trained: {0.retrain}"
_QUANTISED = "of the trained dense rows; codebooks counted, float16"
_CODED = "of the trained dense rows; decoder, float16, and levels counted"
_THROUGH = "then a quarter of the epochs through the codes"
_ITEMS = (
    "items alone, after propagation, within their part; users dense, 4·d bytes each not counted"
)


def _methods() -> list[Method]:
    integer = "fewer dimensions; tuned for a quarter of the epochs"
    return [
        Method("dense", "dense", dense),
        Method("uniform", "uniform, fewer dimensions", uniform),
        Method("hashing", "hashing", hashing, "users and items apart"),
        Method("qr-product", "QR, product", partial(quotient_remainder, combine="product"), _QR),
        Method("qr-add", "QR, add", partial(quotient_remainder, combine="add"), _QR),
        Method("qr-concat", "QR, concat", partial(quotient_remainder, combine="concat"), _QR),
        Method("pruned", "magnitude pruning", pruned, _PRUNED),
        Method("int8", "int8", partial(integers, bits=8), integer),
        Method("int4", "int4", partial(integers, bits=4), integer),
        Method("bet", "BET, short search", partial(budgeted, search=BET), _BET.format(BET),
               asdict(BET), "numbers"),
        Method("bet-long", "BET, long search", partial(budgeted, search=BET_LONG),
               _BET.format(BET_LONG), asdict(BET_LONG), "numbers", on_request=True),
        Method("pq", "PQ", product, _QUANTISED),
        Method("opq", "OPQ", partial(product, rotated=True), f"{_QUANTISED}, and the rotation"),
        Method("rq", "RQ", residual, _QUANTISED),
        Method("pq-through", "PQ, trained through", partial(product, through=True), _THROUGH),
        Method("codes", "sparse codes", coded, _CODED),
        Method("codes-through", "sparse codes, trained through",
               partial(coded, through=True), _THROUGH),
        Method("pq-items", "PQ, items", partial(items_quantised, kind=ProductTable),
               _ITEMS, counts="items"),
        Method("opq-items", "OPQ, items", partial(items_quantised, kind=ProductTable, rotated=True),
               _ITEMS, counts="items"),
        Method("rq-items", "RQ, items", partial(items_quantised, kind=ResidualTable),
               _ITEMS, counts="items"),
        Method("neq-items", "PQ of directions and norms, items",
               partial(items_quantised, kind=NormedTable), _ITEMS, counts="items"),
        Method("codes-items", "sparse codes, items", items_coded, _ITEMS, counts="items"),
    ]  # fmt: skip


METHODS: dict[str, Method] = {
    method.name: replace(method, settings={"rules": RULES, **method.settings})
    for method in _methods()
}
