"""The methods that are compared: each makes a table within a budget of bytes, and trains it.

To add one, write its function and add a line to the list at the end.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from benchmarks.calibrated import calibrate
from benchmarks.gowalla.codebooks import ENTRIES, NormedTable, ProductTable, ResidualTable
from benchmarks.gowalla.joined import JoinedTable
from benchmarks.gowalla.workbench import DoesNotFit, Workbench
from benchmarks.structured import ColumnTable, ShrinkingTable
from recommenders.bet import Settings as SearchSettings
from recommenders.bet import principal_axes, refit, search_and_retrain
from recommenders.models import survives_rotation

from compressae.cli.progress import progress
from compressae.retrieval.errors import InputError
from compressae.tables import (
    BudgetedTable,
    CodedTable,
    CompositionalTable,
    FullTable,
    HashedTable,
    PrunedTable,
    QuantizedTable,
    Table,
    widths_of_shares,
)

Options = dict[str, Any]
#: A workbench and a budget in bytes → a table as it is stored, trained.
Function = Callable[[Workbench, int], Table]
#: Version of the rules below (a method's own epochs, rates and decays) in records; raise it when
#: they change.
RULES = 2
#: Share of the recipe's learning rate for trained rows that are rounded.
TUNE_RATE = 0.3
#: The same for decoder and codebooks: seven times as much overfits within an epoch.
THROUGH_RATE = 0.01
#: Standard deviation of a product's initial entries.
PRODUCT_STD = 0.01
#: Weight of the group lasso.
LASSO = 0.1
#: BET's search: widths are tried after some epochs of tuning, the fittest trained by the recipe. A
#: short one, one as long as the paper's, and one for smoke runs.
BET = SearchSettings(iterations=20, retrain=1)
BET_LONG = SearchSettings(iterations=50, tune_epochs=10, retrain=5)
BET_SMOKE = SearchSettings(iterations=4, candidates=10, retrain=1)


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: on the command line and in file names.
        label: its name in the report.
        function: raises ``DoesNotFit`` where the budget is too small.
        note: for a reader of the report.
        settings: of its own, as JSON; cells that were made with others are refused.
        counts: what must stay within the budget: "bytes", all that is stored; "numbers", four bytes
            a number and nothing for its position, as BET counts; "items", the bytes of item rows
            as they are scored (after propagation), within the items' part of the budget.
        on_request: made only when named, for the time it takes.
    """

    name: str
    label: str
    function: Function
    note: str = ""
    settings: dict[str, Any] = field(default_factory=lambda: {"rules": RULES})
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
    """Hash users and items apart: row i mod m, m in proportion to their numbers."""
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
    """Quotient-remainder tables (arXiv 1909.02107) of users and of items.

    They have as many remainders as fit. Products start smaller, as validation preferred.
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
    """Prune the dense rows by magnitude, then train all epochs again (after arXiv 2406.17335).

    Entries are compared relative to their row's length, and each row keeps at least half of its
    even share. Where scores survive it, rows are first rotated to their principal axes; this
    changes no score and is not stored. Without these three, validation recall was a fifth.
    """
    entries = min(PrunedTable.most_entries(bench.n, bench.dim, budget, 2), bench.n * bench.dim)
    if entries < bench.n:
        raise DoesNotFit(f"{max(entries, 0)} entries for {bench.n} rows")
    rows = torch.from_numpy(bench.dense_rows())
    if survives_rotation(bench.setting.model):
        rows = principal_axes(rows)
    lengths = rows.norm(dim=1).clamp(min=1e-12)
    floor = max(1, entries // bench.n // 2)
    table = PrunedTable.from_dense(rows / lengths[:, None], entries, floor)
    with torch.no_grad():
        table.values.mul_(lengths.repeat_interleave(table.lengths.long()))
    bench.note(entries=entries, floor=floor)
    bench.train(table, cold=False, decay=bench.decay(entries / bench.n))
    return table.half().requires_grad_(False)


def structured(bench: Workbench, budget: int) -> Table:
    """Train all dimensions under a group lasso, and drop them by a schedule until they fit."""
    fitting = [d for d in range(1, bench.dim + 1) if ColumnTable.bytes_of(bench.n, d) <= budget]
    if not fitting:
        least = ColumnTable.bytes_of(bench.n, 1)
        raise DoesNotFit(f"one dimension in float16 has {least} bytes")
    d = max(fitting)
    table = ShrinkingTable(bench.n, bench.dim, d, LASSO, std=bench.setting.std)
    bench.train(table, decay=bench.decay(d))
    stored = table.export()
    bench.note(dimensions=stored.columns.tolist())
    return stored


def random_sizes(bench: Workbench, budget: int) -> Table:
    """Widths in proportion to shares of U(0, 1), whatever a row's frequency; no search."""
    if budget // 4 < bench.n:
        raise DoesNotFit(f"{budget // 4} numbers for {bench.n} rows")
    shares = np.random.default_rng(bench.seed).random(bench.n)
    widths = widths_of_shares(shares, bench.dim, budget // 4)
    table = BudgetedTable(widths, bench.dim, std=bench.setting.std)
    bench.train(table, decay=bench.decay(budget / 4 / bench.n))
    return table


def product(
    bench: Workbench, budget: int, through: bool = False, fit: Options | None = None, **form: Any
) -> Table:
    """Quantise the dense rows by PQ, or OPQ when ``rotated``, in as many bytes a row as fit; with
    ``through`` train the centroids after that."""
    shape = bench.n, bench.dim
    table = _quantised(bench, ProductTable, bench.dense_rows, shape, budget, fit, **form)
    if through:
        _tune(bench, table, THROUGH_RATE, decay=0.0)
    return table.export()


def quantised(bench: Workbench, budget: int, kind: Any) -> Table:
    """Quantise the dense rows by RQ or norm-explicit PQ, in as many bytes a row as fit."""
    shape = bench.n, bench.dim
    return _quantised(bench, kind, bench.dense_rows, shape, budget).export()


def integers(bench: Workbench, budget: int, bits: int, calibrated: bool = False) -> Table:
    """int8 or int4 with a float16 scale a row, of as many dimensions as fit: trained in float32,
    then tuned through the rounding (straight-through), with scales from the largest entry of a row,
    or ``calibrated``."""
    d = bench.widest(min((budget // bench.n - 2) * 8 // bits, bench.dim))
    if d < bench.dim:
        start = bench.full(d)
        bench.train(start, decay=bench.decay(d))
        rows: Any = start
    else:
        rows = bench.dense_rows()
    table = QuantizedTable.from_dense(rows, bits, scale_dtype=torch.float16)
    if calibrated:
        bench.note(clip=float(calibrate(table).mean()))
    _tune(bench, table, decay=bench.decay(d))
    return table.export()


def budgeted(bench: Workbench, budget: int, search: SearchSettings) -> Table:
    """Search widths on validation pairs (BET) and train the fittest by the recipe.

    Without validation pairs, a tenth of the training pairs is held out for the search, and the
    chosen widths are trained on all of them.
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

        found = search_and_retrain(
            split, bench.make, full, budget // 4, recipe, folder, report, search, resume=True
        )
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
    """Sparse codes of the dense rows; with ``through`` train the decoder after that."""
    table = _codes(bench, bench.dense_rows(), budget)
    if through:
        _tune(bench, table, THROUGH_RATE, decay=0.0)
    return table.export()


def items_coded(bench: Workbench, budget: int) -> Table:
    """Sparse codes of the item rows as they are scored; users are dense queries."""
    users, items = bench.served_rows()
    return JoinedTable(users, _codes(bench, items, _sides(bench, budget)[1][1]).export())


def items_quantised(
    bench: Workbench, budget: int, kind: Any, fit: Options | None = None, **form: Any
) -> Table:
    """Item rows as they are scored, quantised; users are dense queries."""
    users, items = bench.served_rows()
    share = _sides(bench, budget)[1][1]
    table = _quantised(bench, kind, lambda: items, items.shape, share, fit, **form)
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
    fit: Options | None = None,
    **form: Any,
) -> Any:
    """Quantise rows (n, d); ``make_rows`` is called only if the budget fits.

    Args:
        fit: options of ``kind.fit`` that change no size.
        form: options that do.
    """
    m = _most(kind.bytes_of, *shape, budget, **form)
    rows = make_rows()
    with bench.timed():
        table = kind.fit(rows, m, seed=bench.seed, **form, **(fit or {}))
    bench.note(m=m)
    return table


def _tune(bench: Workbench, table: Table, rate: float = TUNE_RATE, **changes: Any) -> None:
    """Fine-tune trained rows: a quarter of the recipe's epochs, a share of its learning rate."""
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
    """(rows, bytes) of users and of items: the budget in proportion to rows."""
    share = budget * bench.n_users // bench.n
    return [(bench.n_users, share), (bench.n - bench.n_users, budget - share)]


def _most(bytes_of: Callable[..., int], n: int, d: int, budget: int, **form: Any) -> int:
    """The largest m ≤ d with ``bytes_of(n, d, m, **form)`` within the budget."""
    if n < ENTRIES:
        raise DoesNotFit(f"{n} rows; codebooks of {ENTRIES} entries want as many to learn")
    fitting = [m for m in range(1, d + 1) if bytes_of(n, d, m, **form) <= budget]
    if not fitting:
        least = bytes_of(n, d, 1, **form)
        raise DoesNotFit(f"codes of one byte and their codebooks have {least} bytes")
    return max(fitting)


_PRUNED = "of the dense rows on principal axes, float16; columns counted; all epochs twice"
_QR = "users and items apart, as many remainders as fit"
_INTEGERS = "fewer dimensions; tuned for a quarter of the epochs"
_CLIP = f"scales by the least squared error; {_INTEGERS}"
_STRUCTURED = "float16; all are trained at first, half of the epochs with those that are left"
_QUANTISED = "of the trained dense rows; codebooks counted, float16"
_CODED = "of the trained dense rows; decoder, float16, and levels counted"
_THROUGH = "then a quarter of the epochs through the codes"
_ITEMS = (
    "items alone, after propagation, within their part; users dense, 4·d bytes each not counted"
)


def _qr(combine: str) -> Method:
    function = partial(quotient_remainder, combine=combine)
    return Method(f"qr-{combine}", f"QR, {combine}", function, _QR)


def _bet(name: str, label: str, search: SearchSettings, on_request: bool = True) -> Method:
    note = (
        f"widths tried: {search.iterations}, epochs each: {search.tune_epochs}, then trained: "
        f"{search.retrain}"
    )
    function, settings = partial(budgeted, search=search), {"rules": RULES, **asdict(search)}
    return Method(name, label, function, note, settings, "numbers", on_request)


def _items(name: str, label: str, function: Function) -> Method:
    return Method(f"{name}-items", f"{label}, items", function, _ITEMS, counts="items")


_METHODS = [
    Method("dense", "dense", dense),
    Method("uniform", "uniform, fewer dimensions", uniform),
    Method("hashing", "hashing", hashing, "users and items apart"),
    _qr("product"),
    _qr("add"),
    _qr("concat"),
    Method("pruned", "magnitude pruning", pruned, _PRUNED),
    Method("int8", "int8", partial(integers, bits=8), _INTEGERS),
    Method("int4", "int4", partial(integers, bits=4), _INTEGERS),
    Method(
        "int4-calibrated", "int4, calibrated", partial(integers, bits=4, calibrated=True), _CLIP
    ),
    Method("structured", "group lasso over dimensions", structured, _STRUCTURED),
    Method("random-sizes", "random sizes", random_sizes, counts="numbers"),
    _bet("bet", "BET, short search", BET, on_request=False),
    _bet("bet-long", "BET, long search", BET_LONG),
    *(
        _bet(f"bet-{variant}", f"BET, {label}", replace(BET, variant=variant))
        for variant, label in (
            ("public", "public code's choices"),
            ("random-choice", "random choice"),
            ("unsorted", "unsorted"),
        )
    ),
    Method("pq", "PQ", product, _QUANTISED),
    Method("opq", "OPQ", partial(product, rotated=True), f"{_QUANTISED}, and the rotation"),
    Method("rq", "RQ", partial(quantised, kind=ResidualTable), _QUANTISED),
    Method("neq", "PQ of directions and norms", partial(quantised, kind=NormedTable), _QUANTISED),
    Method("pq-through", "PQ, trained through", partial(product, through=True), _THROUGH),
    Method("codes", "sparse codes", coded, _CODED),
    Method(
        "codes-through", "sparse codes, trained through", partial(coded, through=True), _THROUGH
    ),
    _items("pq", "PQ", partial(items_quantised, kind=ProductTable)),
    _items("opq", "OPQ", partial(items_quantised, kind=ProductTable, rotated=True)),
    _items("rq", "RQ", partial(items_quantised, kind=ResidualTable)),
    _items("neq", "PQ of directions and norms", partial(items_quantised, kind=NormedTable)),
    _items("codes", "sparse codes", items_coded),
]
METHODS = {method.name: method for method in _METHODS}


def _shortened(name: str) -> Method:
    function = partial(METHODS[name].function, fit={"iterations": 2})
    return replace(METHODS[name], function=function, settings={"rules": RULES, "iterations": 2})


#: The same with the longest ones shortened, for smoke runs.
SMOKE_METHODS = {
    **METHODS,
    **{name: _shortened(name) for name in ("opq", "opq-items")},
    "bet": _bet("bet", "BET, short search", BET_SMOKE, on_request=False),
}
