"""Plan codes for a memory size: which settings fit, and the recall to expect of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compressae.coding.compress import check_width, compress
from compressae.kernels.packed import SPARE
from compressae.model import CompresSAE
from compressae.retrieval.baselines.sample import sample_rows
from compressae.retrieval.codes.size import (
    PackedType,
    check_latents,
    decoder_bytes,
    fit_row,
    list_bytes,
    parse_bytes,
    quantizer_bytes,
    row_lengths,
    value_bits,
)
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.exact import exact_search, largest_dots
from compressae.retrieval.io.embeddings import Embeddings, Similarity, as_embeddings
from compressae.retrieval.metrics import recall_at
from compressae.training.config import TrainConfig, held_out_rows
from compressae.training.loop import train

#: Numbers of latents that are tried.
LATENTS = (1024, 4096, 16384)
#: K of the measured recall@K.
TOP = 100
#: Numbers of nonzeros that are tried, besides the largest that fits without residual codes.
_NONZEROS = (4, 8, 16, 32)
#: Largest number of nonzeros that is tried.
_MOST = 64
#: Value type that is tried at every k. The other is tried only at the best k: they differ little.
_VALUE_TYPE: PackedType = "int2"
_OTHER_VALUE_TYPE: PackedType = "int4"
#: k of the trained models, which also encode with any other k.
TRAINED_NONZEROS = 8
#: Rows that a sample needs.
_LEAST_ROWS = 2000
#: Where a table has more than this many times the rows of the sample, most of its rows are unseen
#: in training. A quarter of the sample is kept out of it to measure what that costs.
_MANY, _QUARTER = 2, 4
#: ``latent_dropout`` of models for such tables, with fewer rows than this for each latent.
_DROPOUT, _FEW_ROWS = 0.15, 10
#: Nonzeros that ``choose_form`` tries, its rows, queries, and recall that counts as equal.
_CHOICES = (1, 2, 4, 6, 8, 12, 16, 24, 32)
#: Fewer nonzeros than this share of those that would fit are not tried.
_FEWEST = 12
_CHOICE_ROWS, _CHOICE_QUERIES, _LEVEL = 8192, 400, 0.002
#: Values that are tried at the best of them.
_FINER: PackedType = "int3"
#: Most queries of a table of their own that are answered.
_MOST_QUERIES = 1000


@dataclass(frozen=True)
class Plan:
    """Settings of codes, their bytes and their measured recall.

    Attributes:
        latents, nonzeros, value_type, residual_bytes: the settings.
        code_bytes: bytes of a row's code.
        held_bytes: bytes of a row's code and posting lists.
        total_bytes: bytes of all rows, the decoder and, at most, the quantiser.
        recall: recall@100 on the rows of the sample; None if not measured.
        expected: recall@100 extrapolated to all rows of the table: the change from a quarter of the
            sample to all of it, two doublings, continues with every further doubling; and where
            most rows of the table are unseen in training, what that costs is taken off.
        latent_dropout: that of the model which was trained to measure; see ``TrainConfig``.
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
    latent_dropout: float = 0.0


def fitting(
    items: int,
    dim: int,
    memory: str | int,
    latents: Sequence[int] = LATENTS,
    value_types: Sequence[PackedType] = (_VALUE_TYPE,),
    nonzeros: Sequence[int] | None = None,
    lists: bool = True,
) -> list[Plan]:
    """List settings whose index takes at most ``memory``, with the largest residual codes that fit.

    Args:
        items: number of rows.
        dim: d.
        memory: bytes, or text such as "8 GB" or "80 B/row".
        latents: numbers of latents to consider.
        value_types: value types to consider.
        nonzeros: numbers of nonzeros to consider; 4 to 32, and the largest that fits, when None.
        lists: count the posting lists, which a search by candidates needs and a scan does not.

    Returns:
        Plans without recalls.

    Raises:
        InputError: nothing fits; or more latents than packed codes can name.

    >>> plans = fitting(1_000_000, dim=128, memory="64 B/row", latents=[1024], nonzeros=[4, 8])
    >>> [(plan.nonzeros, plan.residual_bytes, plan.code_bytes) for plan in plans]
    [(4, 44, 51), (8, 26, 39)]
    """
    total = parse_bytes(memory, items, "memory")
    check_latents(max(latents))
    plans: dict[tuple[int, int, str], Plan] = {}
    for h in latents:
        for value_type in value_types:
            bits = value_bits(value_type)
            counts = nonzeros
            if counts is None:
                # Usual numbers, and the largest that fits without residual codes.
                without_residual = [
                    k
                    for k in range(1, min(_MOST, h) + 1)
                    if _size(items, dim, h, k, bits, 0, lists)[2] <= total
                ]
                counts = [*(k for k in _NONZEROS if k <= h), *without_residual[-1:]]
            for k in counts:
                # The largest number of residual bytes that fits.
                sizes = [_size(items, dim, h, k, bits, m, lists) for m in range(dim + 1)]
                fitting_bytes = [m for m, size in enumerate(sizes) if size[2] <= total]
                if fitting_bytes:
                    m = fitting_bytes[-1]
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
    """Bytes of settings, in the order of ``Plan``: code_bytes, held_bytes, total_bytes."""
    code = int(row_lengths(h, bits, m, k)[-1])
    postings = list_bytes(items, items * k, h) if lists else 0
    constants = decoder_bytes(dim, h) + quantizer_bytes(items, dim, k, m) + SPARE
    return code, code + postings / items, items * code + postings + constants


def plan(
    sample: Any,
    items: int,
    memory: str | int,
    latents: Sequence[int] = LATENTS,
    queries: Any = 1000,
    lists: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
    similarity: Similarity = "cosine",
) -> list[Plan]:
    """Measure the recall of the plans that fit on a sample of the table.

    Trains a model on the sample for each h. Encodes the sample for each plan and answers held-out
    queries by a scan of all codes. int2 values are tried for every plan, int4 only at the best h
    and k. A dictionary codes rows that it was trained on better than others: for a table of more
    than twice the rows of the sample, a quarter of the sample is not trained on, and the difference
    goes into ``expected``.

    Args:
        sample: (n, d) embeddings of the table, n ≥ 2000.
        items, memory, latents, lists: see ``fitting``; latents above n / 4 are left out.
        queries: rows of the sample held out as queries, at most a tenth of it; or a table of
            queries, such as users, by which errors are weighted too.
        progress: called with (steps done, all steps, name of the next step).
        similarity: "cosine" or "dot".

    Returns:
        Plans by descending ``expected``.

    Raises:
        InputError: nothing fits, or the sample is too small.
    """
    # List the plans that fit and split the sample into queries and rows to search.
    sample = as_embeddings(sample, "sample")
    n, dim = sample.shape
    if n < _LEAST_ROWS:
        raise InputError(f"{sample.name}: {n} rows; a plan needs at least {_LEAST_ROWS:,}")
    latent_counts = [h for h in latents if h <= n // 4] or [min(latents)]
    plans = fitting(items, dim, memory, latent_counts, lists=lists)
    latent_counts = sorted({plan.latents for plan in plans})
    sample = sample.compared_by("dot") if similarity == "dot" else sample
    hold_out = min(queries, n // 10) if isinstance(queries, int) else 0
    query_rows, corpus_rows = held_out_rows(n, hold_out)
    corpus, users = sample.subset(corpus_rows), None
    unseen = len(corpus) // _QUARTER if items > _MANY * n else 0
    trained = sample.subset(np.sort(corpus_rows[unseen:]))
    asked = sample.subset(query_rows) if hold_out else as_embeddings(queries, "queries")
    if asked.shape[1] != dim:
        raise InputError(f"{asked.name}: rows of {asked.shape[1]} columns; expected {dim}")
    if not hold_out:
        asked, users = _halves(asked, _MOST_QUERIES)
    measure = _Measure(asked, corpus, items, similarity, users, unseen)
    steps = len(latent_counts) + len(plans) + 1
    done = 0

    def show(what: str) -> None:
        """Report the start of a step."""
        nonlocal done
        if progress is not None:
            progress(done, steps, what)
        done += 1

    # Train a model for each h and measure its plans.
    models: dict[int, CompresSAE] = {}
    dropouts = {}
    for h in latent_counts:
        show(f"training h = {h}")
        dropouts[h] = _DROPOUT if unseen and len(trained) < _FEW_ROWS * h else 0.0
        k = min(TRAINED_NONZEROS, h)
        config = TrainConfig(h, k, similarity=similarity, latent_dropout=dropouts[h])
        models[h] = train(trained, config, device="cpu")

    def measured(plan: Plan) -> Plan:
        h = plan.latents
        return measure(models[h], replace(plan, latent_dropout=dropouts[h]))

    results = []
    for plan in plans:
        show(f"h = {plan.latents}, k = {plan.nonzeros}")
        results.append(measured(plan))

    # Measure the other value type at the best h and k, if it fits.
    top = max(results, key=_expected)
    show("other values")
    try:
        others = fitting(
            items, dim, memory, [top.latents], [_OTHER_VALUE_TYPE], [top.nonzeros], lists
        )
    except InputError:
        others = []
    results += map(measured, others)
    if progress is not None:
        progress(steps, steps, "")
    return sorted(results, key=_expected, reverse=True)


def choose_form(
    model: CompresSAE,
    items: Any,
    code_bytes: int,
    queries: Any = None,
    similarity: Similarity | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Choose nonzeros, residual bytes and values of codes of a size, by the recall they measure.

    Codes 8,192 rows in each form that fills ``code_bytes`` and answers held-out queries by a scan.
    Among forms within .002 of the best recall@100 the one of fewest nonzeros is chosen, whose
    posting lists are shortest.

    Args:
        model: a trained model.
        items: (n, d) embeddings of the table, n ≥ 2000.
        code_bytes: most bytes of a row's code.
        queries: (q, d) queries like those to come, which weight errors too; rows of the table that
            are held out when None.
        similarity: "cosine" or "dot"; the model's when None.
        progress: called with (forms done, all forms, the next form).

    Returns:
        Arguments of ``compress``: ``nonzeros``, ``residual_bytes``, ``value_type``.

    Raises:
        InputError: not one nonzero fits; fewer rows; or see ``compress``.

    >>> from compressae import TrainConfig, load_sample, train
    >>> items = load_sample().embeddings.subset(np.arange(2500))
    >>> model = train(items, TrainConfig(latents=256, nonzeros=8, steps=4))
    >>> form = choose_form(model, items, code_bytes=24)
    >>> sorted(form), form["residual_bytes"] > 0
    (['nonzeros', 'residual_bytes', 'value_type'], True)
    """
    items = as_embeddings(items)
    check_width(model, items)
    n, h, d = len(items), model.latents, model.dim
    if n < _LEAST_ROWS:
        raise InputError(f"{items.name}: {n} rows; a choice needs at least {_LEAST_ROWS:,}")
    similarity = similarity or model.similarity
    sample = items.subset(sample_rows(n, _CHOICE_ROWS))
    asked, corpus_rows = held_out_rows(len(sample), _CHOICE_QUERIES)
    corpus, users = sample.subset(corpus_rows), None
    query_table = sample.subset(asked)
    if queries is not None:
        queries = as_embeddings(queries, "queries")
        if len(queries) < 2:
            raise InputError(f"{queries.name}: {len(queries)} queries; expected at least 2")
        query_table, users = _halves(queries, _CHOICE_QUERIES)

    # Every k whose codes fit, the rest of the bytes to the residual; then finer values at the best.
    most = fit_row(code_bytes, h, value_bits(_VALUE_TYPE), d, 1, residual=False)[0]
    counts = sorted({k for k in _CHOICES if most / _FEWEST <= k < most} | {most})
    measure, steps = _Measure(query_table, corpus, n, similarity, users), len(counts) + 1
    plans: list[Plan] = []

    def measured(k: int, value_type: PackedType) -> None:
        bits = value_bits(value_type)
        m = min(code_bytes - int(row_lengths(h, bits, 0, k)[k]), d)
        if progress is not None:
            progress(len(plans), steps, f"k = {k}, {m} residual bytes")
        if m >= 0:
            sizes = _size(n, d, h, k, bits, m, lists=True)
            plans.append(measure(model, Plan(h, k, value_type, m, *sizes)))

    for k in counts:
        measured(k, _VALUE_TYPE)
    measured(max(plans, key=_recall).nonzeros, _FINER)
    if progress is not None:
        progress(steps, steps, "")
    least = max(map(_recall, plans)) - _LEVEL
    best = min((one for one in plans if _recall(one) >= least), key=lambda one: one.nonzeros)
    return {
        "nonzeros": best.nonzeros,
        "residual_bytes": best.residual_bytes,
        "value_type": best.value_type,
    }


def _halves(queries: Embeddings, most: int) -> tuple[Embeddings, Embeddings]:
    """Queries that are answered, and others that weight errors: at most ``most`` of each."""
    rows = np.random.default_rng(0).permutation(len(queries))[: 2 * most]
    return queries.subset(rows[::2]), queries.subset(rows[1::2])


def _recall(plan: Plan) -> float:
    """Recall of a measured plan."""
    assert plan.recall is not None
    return plan.recall


def _expected(plan: Plan) -> float:
    """Expected recall of a measured plan."""
    assert plan.expected is not None
    return plan.expected


class _Measure:
    """Measures the recall of plans on the rows of a sample.

    Args:
        queries: (q, d) ``Embeddings``, held-out rows or queries of their own.
        corpus: (n, d) ``Embeddings``, the other rows of the sample, in random order.
        items: number of rows of the whole table.
        similarity: "cosine" or "dot".
        users: (m, d) other queries, by which errors are weighted; the rows' own when None.
        unseen: of the corpus the first rows that were not trained on: none, or a quarter.
    """

    def __init__(
        self,
        queries: Embeddings,
        corpus: Embeddings,
        items: int,
        similarity: Similarity,
        users: Any,
        unseen: int = 0,
    ) -> None:
        self.queries = queries.compared_by(similarity).to_array()
        self.corpus, self.users = corpus, users
        n = len(corpus)
        quarter = n // _QUARTER
        self.parts = [slice(0, quarter), slice(quarter, 2 * quarter), slice(0, n)]
        self.truths = [
            exact_search(corpus.subset(np.arange(n)[part]), queries, TOP, similarity).ids
            for part in self.parts
        ]
        self.doublings = float(np.log2(items / n))
        #: Unseen rows of the table that are beyond those of the corpus, as shares of both.
        self.more_unseen = (items - n + unseen) / items - unseen / n if unseen else 0.0

    def __call__(self, model: CompresSAE, plan: Plan) -> Plan:
        """Encode the corpus as planned and fill in ``recall`` and ``expected``."""
        codes = compress(
            model,
            self.corpus,
            plan.value_type,
            plan.nonzeros,
            residual_bytes=plan.residual_bytes,
            queries=self.users,
        )
        rows = codes.reconstruct(model.decoder.detach().numpy())
        first, second, recall = (
            recall_at(largest_dots(self.queries, rows[part], TOP), truth, TOP)
            for part, truth in zip(self.parts, self.truths, strict=True)
        )
        # Two doublings from a quarter to all of the corpus, where three are like the second.
        doubling = (recall - (first + 3 * second) / 4) / 2
        expected = recall + doubling * self.doublings + (first - second) * self.more_unseen
        return replace(plan, recall=recall, expected=float(np.clip(expected, 0, 1)))
