"""Compress tables to codes, in batches and without gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from compressae.coding.budget import allot, check_budget, check_importance
from compressae.coding.coder import Coder, fit_quantizer, pack_rows
from compressae.kernels.backend import current, fetch, tensors_on
from compressae.kernels.packed import SPARE
from compressae.kernels.support import MOST_LATENTS, Dictionary
from compressae.model import CompresSAE
from compressae.retrieval.codes import Codes, PackedCodes, SparseCodes
from compressae.retrieval.codes.quantizer import RowQuantizer, fit_error_weighting
from compressae.retrieval.codes.size import (
    MOST_NONZEROS,
    PackedType,
    mean_nonzeros,
    parse_bytes,
    ragged_bytes,
    value_bits,
)
from compressae.retrieval.codes.sparse import VALUE_TYPES, ValueType, id_dtype
from compressae.retrieval.devices import pick_device
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import (
    Embeddings,
    Similarity,
    as_embeddings,
    check_similarity,
    split_lengths,
)

#: Activations (rows, h) of one batch: 64 MiB of float32. More on a GPU, where they are never in
#: memory together and a larger batch uses a kernel launch better.
_ACTIVATIONS, _ON_GPU = 1 << 24, 1 << 27
#: Rows of the sample that the error weighting and the quantiser are fitted to.
_SAMPLE_ROWS = 1 << 16

Progress = Callable[[int, int], None] | None


@torch.no_grad()
def compress(
    model: CompresSAE,
    items: Any,
    value_type: PackedType | None = None,
    nonzeros: int | None = None,
    residual_bytes: int = 0,
    budget: str | int | None = None,
    importance: Any = None,
    like: PackedCodes | None = None,
    progress: Progress = None,
    device: str = "auto",
    similarity: Similarity | None = None,
    queries: Any = None,
    beam: int = 1,
) -> PackedCodes:
    """Compress a table to packed codes: a few bytes a row.

    Latents are chosen by their error reduction (see ``select_latents``). Rows are scaled to their
    least-squares length under an error weighting (see ``fit_error_weighting``), so that (W q)·s
    estimates the cosine of a unit query with the row. With similarity "dot" that scale includes the
    row's own length, in the same byte, and (W q)·s estimates the dot product. Resident memory is
    the codes, one batch and 2·h² bytes of the latents' products (on the CPU). A budget adds
    6 to 8 bytes a nonzero considered, and considers twice as many as a row gets on average.

    Args:
        model: a trained model.
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        value_type: "int2" (when None), "int3" or "int4": 2, 3 or 4 bits a value on average. Ids
            take ⌈log2 h⌉ bits, the gain one byte.
        nonzeros: k; the model's when None.
        residual_bytes: bytes of a row's code of the residual x − x̂.
        budget: bytes of the codes: a number, "4 GB" (10^9 bytes each; also KB, MB, GiB …) or
            "48 B/row". Rows then differ in k: nonzeros go where they reduce the error most. The
            codes never exceed the budget. They use over 99 % of it from some hundred rows on.
        importance: (n,) ≥ 0, by which the budget weights the squared errors of rows, those of unit
            rows for cosine: popularity, for example. Equal when None.
        like: packed codes of the same table whose quantiser these rows share. It sets the value
            type, nonzeros and residual bytes. If its rows differ in k and ``budget`` is None, these
            rows get as many bytes a row.
        progress: called after each batch with (rows done, all rows).
        device: "cpu", "cuda", "cuda:NUMBER" or "auto": the model's GPU, or else a GPU if there is
            one. Codes can be read on any device. Those of a GPU may differ from those of a CPU by
            rounding.
        similarity: "cosine" or "dot"; that of ``like``, or else the model's, when None. With "dot"
            rows of zeros are allowed and score 0.
        queries: (q, d) a sample of the queries to come, which are not like the rows where users
            search for items: errors are weighted by their second moment. The rows' own when None.
        beam: supports of a row that the choice of its latents keeps; on the CPU, and without a
            budget. More take longer, and pay where there is no residual code.

    Returns:
        ``PackedCodes`` (n, h).

    Raises:
        InputError: the width of the table is not that of the model; a row holds NaN or infinity, or
            with "cosine" only zeros; a row is too long for the codes to match; settings exclude
            each other; or the budget is too small for one nonzero a
            row, or larger than any codes of this table.

    >>> from compressae import TrainConfig, load_sample, train
    >>> items = load_sample().embeddings.subset(np.arange(2000))
    >>> model = train(items, TrainConfig(latents=256, nonzeros=8, steps=4))
    >>> codes = compress(model, items)
    >>> codes.shape, round(codes.nbytes / len(codes), 2)
    ((2000, 256), 11.0)
    """
    tensors = _tensors(model, device)
    items = as_embeddings(items)
    check_width(model, items)

    # Codes to match set the value type, nonzeros and residual bytes, and a budget if ragged.
    if like is not None:
        own = (value_type, nonzeros, residual_bytes or None, similarity, queries)
        if any(setting is not None for setting in own):
            raise InputError(
                "value type, nonzeros, residual bytes, similarity or queries beside a quantiser to "
                "share, which has its own; leave them out"
            )
        _check_like(model, like)
        similarity = like.similarity
        value_type, nonzeros = like.settings["values"], like.quantizer.nonzeros
        residual_bytes = like.residual_bytes
        if budget is None and like.counts is not None:
            budget = _equal_budget(like, len(items))

    # Check the options.
    value_type = value_type or "int2"
    bits = value_bits(value_type)
    if not 0 <= residual_bytes <= model.dim:
        raise InputError(
            f"{residual_bytes} residual bytes: expected 0 to {model.dim}, the dimensions"
        )
    if importance is not None and budget is None:
        raise InputError("importance without a budget; give a budget too")
    _check_beam(model, beam, budget, tensors)
    if nonzeros is not None and budget is not None and like is None:
        raise InputError("nonzeros and a budget, which decides them row by row; give one of them")
    k = _check_nonzeros(model, nonzeros)
    if k > MOST_NONZEROS and budget is None:
        raise InputError(
            f"{k} nonzeros: packed rows hold at most {MOST_NONZEROS}; store the values as int8"
        )
    residual_bytes = int(residual_bytes)

    # Fit the error weighting to a sample of queries or rows, or take that of the codes to match.
    table = _Table(items, similarity or model.similarity)
    sample: _Sample | None = None
    if like is not None:
        weighting = like.quantizer.error_weighting
    else:
        sample = table.sample()
        others = None if queries is None else _query_sample(queries, model.dim)
        weighting = fit_error_weighting(sample.x if others is None else others, sample.x)
    coder = Coder(model, weighting, pursuit=True, refit=True, device=tensors, beam=beam)
    settings: dict[str, Any] = {
        "refit": True,
        "nonzeros": k,
        "values": value_type,
        "residual_bytes": residual_bytes,
        "similarity": table.similarity,
    }

    def quantizer(most: int, typical: int) -> RowQuantizer:
        """Fit a quantiser of up to ``most`` nonzeros, or take that of the codes to match."""
        if like is not None:
            return like.quantizer
        assert sample is not None
        return fit_quantizer(
            coder, sample.x, most, bits, residual_bytes, typical, sample.lengths, table.longest
        )

    # Encode in two passes under a budget, in one without.
    with current(tensors):
        if budget is not None:
            total = parse_bytes(budget, len(items))
            return _budgeted(coder, table, quantizer, total, importance, settings, progress)
        return _packed(coder, table, quantizer(k, k), settings, progress)


@torch.no_grad()
def encode(
    model: CompresSAE,
    items: Any,
    value_type: ValueType = "float32",
    nonzeros: int | None = None,
    refit: bool | None = None,
    progress: Progress = None,
    device: str = "auto",
    similarity: Similarity | None = None,
) -> SparseCodes:
    """Encode a table to plain codes: CSR arrays of k nonzeros a row.

    Args:
        model: a trained model.
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        value_type: "float32", "float16", or "int8" with a float32 scale a row.
        nonzeros: k; the model's when None.
        refit: take least-squares values. Otherwise the encoder's values are scaled so that x̂ has
            unit length. None means True, but False for a model of the recipe "paper".
        progress, device: see ``compress``.
        similarity: "cosine" or "dot", where values are multiplied by the rows' lengths; the model's
            when None.

    Returns:
        ``SparseCodes`` (n, h); the nonzeros of a row by descending |value|.

    Raises:
        InputError: the width of the table is not that of the model; a row holds NaN or infinity, or
            with "cosine" only zeros; or the value type or the number of nonzeros is not supported.

    >>> from compressae import TrainConfig, load_sample, train
    >>> items = load_sample().embeddings.subset(np.arange(2000))
    >>> model = train(items, TrainConfig(latents=256, nonzeros=8, steps=4))
    >>> encode(model, items, value_type="int8").to_scipy().shape
    (2000, 256)
    """
    if value_type not in VALUE_TYPES:
        raise InputError(f"values {value_type!r}: expected one of {', '.join(VALUE_TYPES)}")
    tensors = _tensors(model, device)
    items = as_embeddings(items)
    check_width(model, items)
    k = _check_nonzeros(model, nonzeros)
    recipe = model.settings.get("recipe")
    refit = recipe != "paper" if refit is None else refit
    pursuit = refit and recipe == "pursuit"
    table = _Table(items, similarity or model.similarity)
    coder = Coder(model, fit_error_weighting(table.sample().x), pursuit, refit, tensors)
    settings = {
        "refit": refit,
        "nonzeros": k,
        "values": value_type,
        "similarity": table.similarity,
    }
    with current(tensors):
        return _plain(coder, table, k, value_type, settings, progress)


@torch.no_grad()
def encode_like(
    model: CompresSAE, items: Any, like: Codes, progress: Progress = None, device: str = "auto"
) -> Codes:
    """Encode rows to add to an index: codes of the same kind, settings and quantiser.

    Args:
        model: the model that made ``like``: ``CompresSAE.from_projection(index.projection)``.
        items: (m, d) embeddings.
        like: codes of the index: ``index.codes``.
        progress, device: see ``compress``.

    Returns:
        Codes (m, h) that ``like.check_compatible`` accepts.

    Raises:
        InputError: see ``compress``; or another model made ``like``.

    >>> items = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
    >>> model = CompresSAE(dim=8, latents=32, nonzeros=4)
    >>> codes = compress(model, items)
    >>> encode_like(model, items[:10] + 1, codes).quantizer is codes.quantizer
    True
    """
    if isinstance(like, PackedCodes):
        return compress(model, items, like=like, progress=progress, device=device)
    assert isinstance(like, SparseCodes)
    items = as_embeddings(items)
    check_width(model, items)
    _check_like(model, like)
    # Plain codes do not store the error weighting: fit it to reconstructions of their rows.
    rows = np.unique(np.linspace(0, len(like) - 1, min(len(like), _SAMPLE_ROWS)).astype(int))
    decoder = model.decoder.detach().cpu().numpy()
    table = _Table(items, like.similarity)
    sample = like.take(rows).reconstruct(decoder)
    if like.similarity == "dot":
        sample = split_lengths(sample)[0]
    weighting = fit_error_weighting(sample)
    refit, pursuit = like.settings["refit"], model.settings.get("recipe") == "pursuit"
    tensors = _tensors(model, device)
    coder = Coder(model, weighting, refit and pursuit, refit, tensors)
    value_type: ValueType = like.value_type  # type: ignore[assignment]
    with current(tensors):
        return _plain(coder, table, like.settings["nonzeros"], value_type, like.settings, progress)


def check_width(model: CompresSAE, items: Embeddings) -> None:
    """Refuse a table whose width is not that of the model.

    Raises:
        InputError: see above.

    >>> check_width(CompresSAE(dim=8, latents=32, nonzeros=4), as_embeddings(np.ones((2, 7))))
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: array: rows of 7 columns, but the model was trained on \
8; give embeddings like those it was trained on
    """
    if items.shape[1] != model.dim:
        raise InputError(
            f"{items.name}: rows of {items.shape[1]} columns, but the model was trained on "
            f"{model.dim}; give embeddings like those it was trained on"
        )


def _check_like(model: CompresSAE, like: Codes) -> None:
    """Refuse codes of another model."""
    if like.model_id != model.model_id:
        raise InputError(
            f"codes of model {like.model_id}, but this is model {model.model_id}; give codes "
            "of the same model"
        )


def _check_beam(
    model: CompresSAE, beam: int, budget: str | int | None, tensors: torch.device | None
) -> None:
    """Refuse a beam outside its range, or where latents are not chosen by one."""
    if beam < 1:
        raise InputError(f"a beam of {beam}: expected 1 or more")
    if beam == 1:
        return
    if budget is not None:
        raise InputError(
            f"a beam of {beam} and a budget, under which rows keep the first of their latents, "
            "while a beam chooses them as a whole; leave one out"
        )
    if tensors is not None or not Dictionary.fits(model.latents):
        raise InputError(
            f"a beam of {beam}: latents are chosen by one on the CPU, from at most "
            f"{MOST_LATENTS:,}; leave it out"
        )


def _check_nonzeros(model: CompresSAE, nonzeros: int | None) -> int:
    """k, the model's when None; refuse one outside 1…h."""
    k = model.nonzeros if nonzeros is None else int(nonzeros)
    if not 1 <= k <= model.latents:
        raise InputError(f"{k} nonzeros: expected 1 to {model.latents}, the model's latents")
    return k


def _equal_budget(like: PackedCodes, rows: int) -> int:
    """Budget of ``rows`` rows that take as many bytes a row as ``like``."""
    mean_bytes = (len(like.data) - SPARE) / len(like)
    return int(np.ceil(mean_bytes * rows)) + ragged_bytes(rows)


@dataclass(frozen=True)
class _Sample:
    """Unit rows x (m, d), and their lengths (m,) for dot products, None for cosine."""

    x: np.ndarray
    lengths: np.ndarray | None


class _Table:
    """A table as it is coded: unit rows times lengths, which are 1 for cosine."""

    def __init__(self, items: Embeddings, similarity: Similarity) -> None:
        check_similarity(similarity)
        self.similarity = similarity
        self.items = items.compared_by(similarity)

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Iterate over (first row, unit rows (m, d), lengths (m,))."""
        for start, rows in self.items.batches(size):
            yield start, *self._split(rows)

    def _split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.similarity == "dot":
            return split_lengths(rows)
        return rows, np.ones(len(rows), np.float32)

    def sample(self) -> _Sample:
        """At most ``_SAMPLE_ROWS`` rows, evenly spaced over the table; rows of zeros are left out.

        Raises:
            InputError: only rows of zeros.
        """
        n = len(self.items)
        rows = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE_ROWS)).astype(int))
        x, lengths = self._split(self.items.take(rows))
        if self.similarity == "cosine":
            return _Sample(x, None)
        if not lengths.any():
            raise InputError(f"{self.items.name}: only rows of zeros; expected trained embeddings")
        return _Sample(x[lengths > 0], lengths[lengths > 0])

    @cached_property
    def longest(self) -> float:
        """The largest length: 1 for cosine, else of a pass over the table."""
        if self.similarity == "cosine":
            return 1.0
        return max(float(split_lengths(rows)[1].max()) for _, rows in self.items.batches())


def _query_sample(queries: Any, dim: int) -> np.ndarray:
    """Sample unit rows (m, d) of the queries that are not zero.

    Raises:
        InputError: another width, or only rows of zeros.
    """
    table = as_embeddings(queries, "queries")
    if table.shape[1] != dim:
        raise InputError(
            f"{table.name}: rows of {table.shape[1]} columns; expected {dim}, the items' width"
        )
    return _Table(table, "dot").sample().x


def _tensors(model: CompresSAE, device: str) -> torch.device | None:
    """The GPU that encodes; None for the CPU."""
    model_device = model.encoder.device
    if device == "auto" and model_device.type == "cuda":
        return tensors_on(model_device)
    return tensors_on(pick_device(device))


def _batch(coder: Coder) -> int:
    """Rows of a batch."""
    numbers = _ACTIVATIONS if coder.device is None else _ON_GPU
    return max(1, numbers // max(coder.model.latents, coder.model.dim))


def _plain(
    coder: Coder,
    items: _Table,
    k: int,
    value_type: ValueType,
    settings: dict[str, Any],
    progress: Progress,
) -> SparseCodes:
    """Encode a table to plain codes of k nonzeros a row."""
    n, latents = len(items), coder.model.latents
    ids = np.empty((n, k), id_dtype(latents))
    values = np.empty((n, k), value_type)
    scales = np.empty(n, np.float32) if value_type == "int8" else None
    for start, unit, lengths in items.batches(_batch(coder)):
        # Encode a batch and quantise its values.
        x = coder.put(unit)
        batch_ids, batch_values = coder.code(x, k)
        batch_values = batch_values * coder.scales(x, batch_ids, batch_values)[:, None]
        batch_values = batch_values * coder.put(lengths)[:, None]
        batch = SparseCodes.from_rows(fetch(batch_ids), fetch(batch_values), latents, value_type)
        stop = start + len(x)
        ids[start:stop] = batch.indices.reshape(-1, k)
        values[start:stop] = batch.values.reshape(-1, k)
        # Fit the scales again to the quantised values.
        if scales is not None and batch.scales is not None:
            batch_values = coder.put(batch.row_values().reshape(-1, k))
            factors = fetch(coder.scales(x, batch_ids, batch_values)) * lengths
            scales[start:stop] = batch.scales * factors
        if progress is not None:
            progress(stop, n)
    indptr = np.arange(n + 1, dtype=np.int64) * k
    flat_ids, flat_values = ids.reshape(-1), values.reshape(-1)
    model_id = coder.model.model_id
    return SparseCodes(indptr, flat_ids, flat_values, scales, latents, model_id, settings)


def _packed(
    coder: Coder,
    items: _Table,
    quantizer: RowQuantizer,
    settings: dict[str, Any],
    progress: Progress,
) -> PackedCodes:
    """Encode a table to packed codes of K nonzeros a row."""
    n, length = len(items), int(quantizer.layout.lengths[-1])
    data = np.zeros(n * length + SPARE, np.uint8)
    out = data[: n * length].reshape(n, length)
    for start, unit, lengths in items.batches(_batch(coder)):
        x, factors = coder.put(unit), coder.put(lengths)
        weighted = coder.weigh(x)
        ids, values = coder.values(weighted, coder.support(x, quantizer.nonzeros))
        out[start : start + len(x)] = pack_rows(coder, quantizer, weighted, factors, ids, values)
        if progress is not None:
            progress(start + len(x), n)
    return PackedCodes(data, None, quantizer, coder.model.model_id, settings)


def _budgeted(
    coder: Coder,
    items: _Table,
    quantizer_of: Callable[[int, int], RowQuantizer],
    budget: int,
    importance: Any,
    settings: dict[str, Any],
    progress: Progress,
) -> PackedCodes:
    """Encode a table to packed codes of at most ``budget`` bytes, whose rows differ in k.

    The first pass measures the error reduction of each successive nonzero of a row. The second
    encodes each row with the nonzeros allotted to it.
    """
    # Consider up to twice the mean number of nonzeros that the budget allows.
    n, model = len(items), coder.model
    base = ragged_bytes(n)
    typical = mean_nonzeros(
        (budget - base) / n,
        model.latents,
        value_bits(settings["values"]),
        settings["residual_bytes"],
    )
    most = int(min(MOST_NONZEROS, model.latents, max(2 * typical, 2)))

    # Fit the quantiser, or take that of the codes to match, which sets K.
    quantizer = quantizer_of(most, min(most, max(1, round(typical))))
    most = quantizer.nonzeros
    lengths = quantizer.layout.lengths
    importance = check_importance(importance, n)
    check_budget(budget, n, lengths, base)

    # First pass: choose K latents of each row and measure their error reductions.
    reductions = np.empty((n, most), np.float16)
    supports = np.empty((n, most), id_dtype(model.latents))
    for start, unit, scales in items.batches(_batch(coder)):
        x = coder.put(unit)
        stop = start + len(x)
        ids = coder.support(x, most)
        supports[start:stop] = fetch(ids)
        reductions[start:stop] = fetch(coder.error_reduction(x, ids))
        importance[start:stop] *= np.square(scales / items.longest)
        if progress is not None:
            progress(stop, 2 * n)

    # Allot nonzeros to rows; from them follow the bytes and the place of each row.
    counts = allot(reductions, lengths, budget - base, importance)
    ends = np.cumsum(lengths[counts])
    data = np.zeros(int(ends[-1]) + SPARE, np.uint8)

    # Second pass: encode the rows of a batch that have equal k together.
    for start, unit, scales in items.batches(_batch(coder)):
        weighted, factors = coder.weigh(coder.put(unit)), coder.put(scales)
        batch_counts = counts[start : start + len(unit)]
        for k in np.unique(batch_counts):
            members = np.flatnonzero(batch_counts == k)
            own, own_factors = weighted[coder.put(members)], factors[coder.put(members)]
            support = coder.put(supports[start + members, :k].astype(np.int32))
            ids, values = coder.values(own, support)
            length = int(lengths[k])
            positions = (ends[start + members] - length)[:, None] + np.arange(length)
            data[positions] = pack_rows(coder, quantizer, own, own_factors, ids, values)
        if progress is not None:
            progress(n + start + len(unit), 2 * n)
    settings = {**settings, "nonzeros": most, "budget": budget}
    return PackedCodes(data, counts, quantizer, model.model_id, settings)
