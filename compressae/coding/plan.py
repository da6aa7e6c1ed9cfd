"""Which codes fit a memory, and what recall to expect of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compressae.coding.compress import compress
from compressae.kernels.packed import SPARE
from compressae.model import CompresSAE
from compressae.retrieval.codes.size import (
    PackedType,
    check_latents,
    list_bytes,
    parse_bytes,
    quantizer_bytes,
    row_lengths,
    value_bits,
)
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.exact import exact_search, largest_dots
from compressae.retrieval.io.embeddings import as_embeddings, unit_rows
from compressae.retrieval.metrics import recall_at
from compressae.training.config import TrainConfig, held_out_rows
from compressae.training.loop import train

LATENTS = (4096, 16384)
TOP = 100
#: Nonzeros that are tried; besides, as many as fit without residual codes.
_NONZEROS = (4, 8, 16, 32)
_MOST = 64
#: Tried at every k; the others only at the best one, for they differ little.
_VALUE_TYPE: PackedType = "int2"
_OTHER_VALUE_TYPE: PackedType = "int4"
#: k that models are trained at; codes of any other k are made with them.
TRAINED_NONZEROS = 16
_LEAST_ROWS = 2000


@dataclass(frozen=True)
class Plan:
    """Settings of codes, what they take, and what they were measured to give.

    Attributes:
        latents, nonzeros, value_type, residual_bytes: the settings.
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
    value_type: PackedType
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
    value_types: Sequence[PackedType] = (_VALUE_TYPE,),
    nonzeros: Sequence[int] | None = None,
    lists: bool = True,
) -> list[Plan]:
    """Settings whose index of ``items`` rows takes at most ``memory``, residual codes filling it.

    Args:
        items: rows.
        dim: d.
        memory: bytes, or such as "8 GB" or "80 B/row".
        latents: numbers of latents to consider.
        value_types: value types to consider.
        nonzeros: numbers of nonzeros to consider; 4 to 32 and the most that fit when None.
        lists: count the posting lists, which search by candidates needs; a scan does not.

    Raises:
        InputError: nothing fits, or more latents than packed codes can name.
    """
    total = parse_bytes(memory, items, "memory")
    check_latents(max(latents))
    plans: dict[tuple[int, int, str], Plan] = {}
    for h in latents:
        for value_type in value_types:
            bits = value_bits(value_type)
            counts = nonzeros
            if counts is None:
                # Some usual numbers, and the most nonzeros that fit without residual codes.
                pure = [
                    k
                    for k in range(1, min(_MOST, h) + 1)
                    if _size(items, dim, h, k, bits, 0, lists)[2] <= total
                ]
                counts = [*(k for k in _NONZEROS if k <= h), *pure[-1:]]
            for k in counts:
                sizes = [_size(items, dim, h, k, bits, m, lists) for m in range(dim + 1)]
                fitting = [m for m, size in enumerate(sizes) if size[2] <= total]
                if fitting:
                    m = fitting[-1]
                    plans[h, k, value_type] = Plan(h, k, value_type, m, *sizes[m])
    if not plans:
        least = min(
            _size(items, dim, h, min(nonzeros or [1]), value_bits(value_type), 0, lists)[2]
            for h in latents
            for value_type in value_types
        )
        raise InputError(
            f"memory {memory!r}: {total:,} bytes for {items:,} items of {dim} dimensions; the "
            f"smallest index takes {least:,}; give more"
        )
    return list(plans.values())


def _size(
    items: int, dim: int, h: int, k: int, bits: int, m: int, lists: bool
) -> tuple[int, float, int]:
    """Code bytes and held bytes of a row, and bytes of all rows and constants."""
    code = int(row_lengths(h, bits, m, k)[-1])
    posted = list_bytes(items, items * k, h) if lists else 0
    model = 2 * 4 * h * dim + 4 * h
    constants = model + quantizer_bytes(dim, k, m) + SPARE
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
        others = fitting(
            items, dim, memory, [top.latents], [_OTHER_VALUE_TYPE], [top.nonzeros], lists
        )
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
        self.truths = [
            exact_search(corpus.subset(np.arange(size)), queries, TOP).ids for size in self.sizes
        ]
        self.doublings = float(np.log2(items / n))

    def __call__(self, model: CompresSAE, one: Plan) -> Plan:
        codes = compress(
            model, self.corpus, one.value_type, one.nonzeros, residual_bytes=one.residual_bytes
        )
        rows = codes.reconstruct(model.decoder.detach().numpy())
        few, all_of_them = (
            recall_at(largest_dots(self.queries, rows[:size], TOP), truth, TOP)
            for size, truth in zip(self.sizes, self.truths, strict=True)
        )
        expected = all_of_them + (all_of_them - few) / 2 * self.doublings  # A quarter: two of them.
        return replace(one, recall=all_of_them, expected=float(np.clip(expected, 0, 1)))
