"""Which codes fit a memory, and what recall to expect of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compressae.budget import parse_budget
from compressae.compress import PackedType
from compressae.config import TrainConfig
from compressae.kernels.packed import MAX_BITS, SPARE, Layout
from compressae.model import CompresSAE
from compressae.retrieval.embeddings import as_embeddings, unit_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.exact import exact_search, largest_dots
from compressae.retrieval.lists import list_bytes
from compressae.retrieval.metrics import recall_at
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.quantizer import id_bits
from compressae.training import held_out_rows, train

LATENTS = (4096, 16384)
TOP = 100
#: Nonzeros that are tried; besides, as many as fit without residual codes.
_NONZEROS = (4, 8, 16, 32)
_MOST = 64
#: Tried at every k; the others only at the best one, for they differ little.
_VALUES: PackedType = "int2"
_OTHER_VALUES: PackedType = "int4"
#: k that models are trained at; codes of any other k are made with them.
TRAINED_NONZEROS = 16
_LEAST_ROWS = 2000


@dataclass(frozen=True)
class Plan:
    """Settings of codes, what they take, and what they were measured to give.

    Attributes:
        latents, nonzeros, values, residual_bytes: the settings.
        code_bytes: of a row.
        held_bytes: of a row: code and posting lists.
        total_bytes: of all rows and the constants that search holds: the model and, at most, the
            quantiser.
        recall: recall@100 among the sample's rows; None where nothing was measured.
        expected: the same among as many rows as were planned for: ``recall`` moved along the trend
            that it showed from a quarter of the sample to all of it, as many doublings as it takes.
    """

    latents: int
    nonzeros: int
    values: PackedType
    residual_bytes: int
    code_bytes: int
    held_bytes: float
    total_bytes: int
    recall: float | None = None
    expected: float | None = None


def fitting(
    items: int,
    dim: int,
    memory: str | int,
    latents: Sequence[int] = LATENTS,
    values: Sequence[PackedType] = (_VALUES,),
    nonzeros: Sequence[int] | None = None,
    lists: bool = True,
) -> list[Plan]:
    """Settings whose index of ``items`` rows takes at most ``memory``, residual codes filling it.

    Args:
        items: rows.
        dim: d.
        memory: bytes, or such as "8 GB" or "80 B/row".
        latents: numbers of latents to consider.
        values: value types to consider.
        nonzeros: numbers of nonzeros to consider; 4 to 32 and the most that fit when None.
        lists: count the posting lists, which search by candidates needs; a scan does not.

    Raises:
        InputError: nothing fits, or more latents than packed codes can name.
    """
    total = parse_budget(memory, items)
    if id_bits(max(latents)) + 8 > MAX_BITS:
        raise InputError(
            f"{max(latents)} latents: packed codes name at most {1 << (MAX_BITS - 8)}; try fewer"
        )
    found: dict[tuple[int, int, str], Plan] = {}
    for h in latents:
        for kind in values:
            bits = int(kind[3:])
            wanted = nonzeros
            if wanted is None:
                few = range(1, min(_MOST, h) + 1)
                pure = [k for k in few if _size(items, dim, h, k, bits, 0, lists)[2] <= total]
                wanted = [*(k for k in _NONZEROS if k <= h), *pure[-1:]]
            for k in wanted:
                sizes = [_size(items, dim, h, k, bits, m, lists) for m in range(dim + 1)]
                fit = [m for m, size in enumerate(sizes) if size[2] <= total]
                if fit:
                    found[h, k, kind] = Plan(h, k, kind, fit[-1], *sizes[fit[-1]])
    if not found:
        least = min(
            _size(items, dim, h, min(nonzeros or [1]), int(v[3:]), 0, lists)[2]
            for h in latents
            for v in values
        )
        raise InputError(
            f"memory {memory!r}: {total:,} bytes for {items:,} items of {dim} dimensions; the "
            f"smallest index takes {least:,}; give more"
        )
    return list(found.values())


def _size(
    items: int, dim: int, h: int, k: int, bits: int, m: int, lists: bool
) -> tuple[int, float, int]:
    """Code bytes and held bytes of a row, and total bytes."""
    layout = Layout(id_bits(h), np.full(k, bits), m + 1)
    code = int(layout.lengths[-1])
    part = -(-dim // m) if m else 0
    model = 2 * 4 * h * dim + 4 * h
    levels = 4 * 256 * (k + 1)  # A rank may have all of 256 levels.
    quantizer = levels + 8 * k + 4 * dim * dim + 4 * (2 * dim + 256) * m * part
    constants = model + quantizer + SPARE
    posted = list_bytes(items, items * k, h) if lists else 0
    return code, code + posted / items, items * code + posted + constants


def plan(
    sample: Any,
    items: int,
    memory: str | int,
    latents: Sequence[int] = LATENTS,
    queries: int = 1000,
    lists: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Plan]:
    """Plans that fit, measured on a sample of the table, best first.

    For each h a model is trained on the sample; for each plan its codes are made and held-out
    queries are answered by scoring all of them. Value types but int2 are tried only at the best
    plan's h and k.

    Args:
        sample: (n, d) embeddings like the table's, 2,000 rows or more.
        items, memory, latents, lists: as of ``fitting``; latents above n / 4 are left out.
        queries: rows of the sample held out, at most a tenth of it.
        progress: called with (steps done, steps, what is done).

    Raises:
        InputError: nothing fits, or the sample is too small.
    """
    sample = as_embeddings(sample, "sample")
    n, dim = sample.shape
    if n < _LEAST_ROWS:
        raise InputError(f"{sample.name}: {n} rows; a plan needs at least {_LEAST_ROWS:,}")
    tried = [h for h in latents if h <= n // 4] or [min(latents)]
    plans = fitting(items, dim, memory, tried, lists=lists)
    tried = sorted({one.latents for one in plans})
    held, kept = held_out_rows(n, min(queries, n // 10))
    measure = _Measure(sample.take(held), sample.subset(np.sort(kept)), items)
    steps = len(tried) + len(plans) + 1
    done = 0

    def show(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, steps, what)
        done += 1

    models: dict[int, CompresSAE] = {}
    measured = []
    for h in tried:
        show(f"training h = {h}")
        config = TrainConfig(latents=h, nonzeros=min(TRAINED_NONZEROS, h), hold_out=len(held))
        models[h] = train(sample, config, device="cpu")
    for one in plans:
        show(f"h = {one.latents}, k = {one.nonzeros}")
        measured.append(measure(models[one.latents], one))
    top = max(measured, key=_rank)
    show("other values")
    try:
        others = fitting(items, dim, memory, [top.latents], [_OTHER_VALUES], [top.nonzeros], lists)
    except InputError:
        others = []  # They do not fit.
    measured += [measure(models[top.latents], one) for one in others]
    if progress is not None:
        progress(steps, steps, "")
    return sorted(measured, key=_rank, reverse=True)


def _rank(one: Plan) -> float:
    assert one.recall is not None
    return one.recall


class _Measure:
    """Recall of plans' codes among a sample's rows."""

    def __init__(self, queries: np.ndarray, corpus: Any, items: int) -> None:
        self.queries, self.corpus = unit_rows(queries), corpus
        n = len(corpus)
        self.sizes = (n // 4, n)
        self.truths = [exact_search(corpus.subset(np.arange(size)), queries, TOP).ids
                       for size in self.sizes]  # fmt: skip
        self.doublings = float(np.log2(items / n))

    def __call__(self, model: CompresSAE, one: Plan) -> Plan:
        codes = model.compress(
            self.corpus, one.values, one.nonzeros, residual_bytes=one.residual_bytes
        )
        assert isinstance(codes, PackedCodes)
        remembered = codes.reconstruct(model.decoder.detach().numpy())
        few, all_of_them = (
            recall_at(largest_dots(self.queries, remembered[:size], TOP), truth, TOP)
            for size, truth in zip(self.sizes, self.truths, strict=True)
        )
        expected = all_of_them + (all_of_them - few) / 2 * self.doublings  # A quarter: two of them.
        return replace(one, recall=all_of_them, expected=float(np.clip(expected, 0, 1)))
