"""Compress whole tables to codes, in batches and without gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from compressae.coding.budget import allot, check_budget, check_importance
from compressae.coding.coder import Coder, fit_quantizer, pack_rows
from compressae.kernels.backend import current, fetch, tensors_on
from compressae.kernels.packed import SPARE
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
from compressae.retrieval.io.embeddings import Embeddings, as_embeddings, unit_rows

#: Numbers of one batch's (rows, h) activations: 64 MiB of float32; more on a GPU, where they are
#: never held together and each launch of a kernel is to have enough to do.
_ACTIVATIONS, _ON_GPU = 1 << 24, 1 << 27
#: Rows that the error weighting, the levels and the residual's centroids are fitted to.
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
) -> PackedCodes:
    """Compress a table to packed codes: a few bytes a row.

    Latents are chosen by pursuit. Rows are scaled to their least-squares length under the table's
    error weighting (see ``fit_error_weighting``), so that (W q)·s estimates a unit query's cosine
    with the row. Resident memory is the codes and one batch, whatever the size of the table; with
    a budget also 6 to 8 bytes a nonzero considered, twice as many as a row gets on average.

    Args:
        model: a trained model.
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        value_type: "int2" (when None), "int3" or "int4": 2, 3 or 4 bits a value on average. Ids
            take ⌈log2 h⌉ bits, the gain one byte.
        nonzeros: k; the model's when None.
        residual_bytes: bytes a row for the residual x − x̂.
        budget: bytes of the whole codes: a number, "4 GB" (10^9 bytes each; also KB, MB, GiB …) or
            "48 B/row". Rows then differ in k: nonzeros go where they reduce the error most. The
            codes never take a byte more, and less than 1 % stays unused (of some hundred rows).
        importance: (n,) weights of rows for the budget, ≥ 0: popularity, say. Even when None.
        like: packed codes whose quantiser these rows share, as rows of one table coded at another
            time; it sets value type, nonzeros and residual bytes, and, of codes that kept to a
            budget, as many bytes a row unless ``budget`` is given.
        progress: called after each batch with (rows done, rows to do).
        device: "cpu", "cuda", "cuda:NUMBER", or "auto", the model's GPU or else one where there is
            one. Codes of one device are read on any; those of a GPU differ from the CPU's where
            rounding decides.

    Returns:
        ``PackedCodes`` (n, h).

    Raises:
        InputError: the table's width is not the model's; a row is NaN, infinite or zero; settings
            that do not go together; a budget too small for one nonzero a row, or larger than any
            codes of this table.

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
    if like is not None:
        if value_type is not None or nonzeros is not None or residual_bytes:
            raise InputError(
                "value type, nonzeros or residual bytes beside a quantiser to share, which has its "
                "own; leave them out"
            )
        _check_like(model, like)
        value_type, nonzeros = like.settings["values"], like.quantizer.nonzeros
        residual_bytes = like.residual_bytes
        if budget is None and like.counts is not None:
            budget = _equal_budget(like, len(items))
    value_type = value_type or "int2"
    bits = value_bits(value_type)
    if not 0 <= residual_bytes <= model.dim:
        raise InputError(
            f"{residual_bytes} residual bytes: expected 0 to {model.dim}, the dimensions"
        )
    if importance is not None and budget is None:
        raise InputError("importance without a budget, which it shares out; give one")
    if nonzeros is not None and budget is not None and like is None:
        raise InputError("nonzeros and a budget, which decides them row by row; give one of them")
    k = _check_nonzeros(model, nonzeros)
    if k > MOST_NONZEROS and budget is None:
        raise InputError(
            f"{k} nonzeros: packed rows hold at most {MOST_NONZEROS}; store the values as int8"
        )
    residual_bytes = int(residual_bytes)
    sample = None if like is not None else _sample(items)
    weighting = like.quantizer.error_weighting if sample is None else fit_error_weighting(sample)
    coder = Coder(model, weighting, pursuit=True, refit=True, device=tensors)
    settings: dict[str, Any] = {
        "refit": True,
        "nonzeros": k,
        "values": value_type,
        "residual_bytes": residual_bytes,
    }

    def quantizer(most: int, typical: int) -> RowQuantizer:
        if like is not None:
            return like.quantizer
        assert sample is not None
        return fit_quantizer(coder, sample, most, bits, residual_bytes, typical)

    with current(tensors):
        if budget is not None:
            total = parse_bytes(budget, len(items))
            return _budgeted(coder, items, quantizer, total, importance, settings, progress)
        return _packed(coder, items, quantizer(k, k), settings, progress)


@torch.no_grad()
def encode(
    model: CompresSAE,
    items: Any,
    value_type: ValueType = "float32",
    nonzeros: int | None = None,
    refit: bool | None = None,
    progress: Progress = None,
    device: str = "auto",
) -> SparseCodes:
    """Encode a table to plain CSR codes: ids and values of k nonzeros a row.

    Args:
        model: a trained model.
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        value_type: "float32", "float16", or "int8" with a float32 scale a row.
        nonzeros: k; the model's when None.
        refit: take least-squares values instead of the encoder's; an encoder's own values are
            scaled so that x̂ has unit length. None: yes, unless the model is of the paper's recipe.
        progress, device: see ``compress``.

    Returns:
        ``SparseCodes`` (n, h), nonzeros of a row by descending |value|.

    Raises:
        InputError: the table's width is not the model's; a row is NaN, infinite or zero; another
            value type.

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
    coder = Coder(model, fit_error_weighting(_sample(items)), pursuit, refit, tensors)
    settings = {"refit": refit, "nonzeros": k, "values": value_type}
    with current(tensors):
        return _plain(coder, items, k, value_type, settings, progress)


@torch.no_grad()
def encode_like(
    model: CompresSAE, items: Any, like: Codes, progress: Progress = None, device: str = "auto"
) -> Codes:
    """Encode more rows (m, d) to stand beside codes in one index: of their form and quantiser.

    Args:
        model: the model that made ``like``: ``CompresSAE.from_projection(index.projection)``.
        items: (m, d) embeddings.
        like: codes of the index: ``index.codes``.
        progress, device: see ``compress``.

    Raises:
        InputError: see ``compress``.
    """
    if isinstance(like, PackedCodes):
        return compress(model, items, like=like, progress=progress, device=device)
    assert isinstance(like, SparseCodes)
    items = as_embeddings(items)
    check_width(model, items)
    _check_like(model, like)
    # The error weighting is not stored with plain codes: it is fitted to their reconstructions.
    rows = np.unique(np.linspace(0, len(like) - 1, min(len(like), _SAMPLE_ROWS)).astype(int))
    decoder = model.decoder.detach().cpu().numpy()
    weighting = fit_error_weighting(like.take(rows).reconstruct(decoder))
    refit, pursuit = like.settings["refit"], model.settings.get("recipe") == "pursuit"
    tensors = _tensors(model, device)
    coder = Coder(model, weighting, refit and pursuit, refit, tensors)
    value_type: ValueType = like.value_type  # type: ignore[assignment]
    with current(tensors):
        return _plain(coder, items, like.settings["nonzeros"], value_type, like.settings, progress)


def check_width(model: CompresSAE, items: Embeddings) -> None:
    """Refuse a table of another width than the model's.

    Raises:
        InputError: see above.
    """
    if items.shape[1] != model.dim:
        raise InputError(
            f"{items.name}: rows of {items.shape[1]} columns, but the model was trained on "
            f"{model.dim}; give embeddings like those it was trained on"
        )


def _check_like(model: CompresSAE, like: Codes) -> None:
    if like.model_id != model.model_id:
        raise InputError(
            f"codes of model {like.model_id}, but this is model {model.model_id}; give codes "
            "of the same model"
        )


def _check_nonzeros(model: CompresSAE, nonzeros: int | None) -> int:
    k = model.nonzeros if nonzeros is None else int(nonzeros)
    if not 1 <= k <= model.latents:
        raise InputError(f"{k} nonzeros: expected 1 to {model.latents}, the model's latents")
    return k


def _equal_budget(like: PackedCodes, rows: int) -> int:
    """Bytes of so many more rows, as many a row as codes that kept to a budget have."""
    each = (len(like.data) - SPARE) / len(like)
    return int(np.ceil(each * rows)) + ragged_bytes(rows)


def _sample(items: Embeddings) -> np.ndarray:
    """Unit rows spread evenly over the table, at most ``_SAMPLE_ROWS``."""
    n = len(items)
    return unit_rows(items.take(np.unique(np.linspace(0, n - 1, min(n, _SAMPLE_ROWS)).astype(int))))


def _tensors(model: CompresSAE, device: str) -> torch.device | None:
    """The GPU that codes rows, None for the CPU."""
    own = model.encoder.device
    return tensors_on(own if device == "auto" and own.type == "cuda" else pick_device(device))


def _batch(coder: Coder) -> int:
    numbers = _ACTIVATIONS if coder.device is None else _ON_GPU
    return max(1, numbers // max(coder.model.latents, coder.model.dim))


def _plain(
    coder: Coder,
    items: Embeddings,
    k: int,
    value_type: ValueType,
    settings: dict[str, Any],
    progress: Progress,
) -> SparseCodes:
    """CSR codes of k nonzeros a row."""
    n, latents = len(items), coder.model.latents
    ids_kept = np.empty((n, k), id_dtype(latents))
    values_kept = np.empty((n, k), value_type)
    scales = np.empty(n, np.float32) if value_type == "int8" else None
    for start, rows in items.batches(_batch(coder)):
        x = coder.put(unit_rows(rows))
        ids, v = coder.code(x, k)
        v = v * coder.scales(x, ids, v)[:, None]
        part = SparseCodes.from_rows(fetch(ids), fetch(v), latents, value_type)
        stop = start + len(x)
        ids_kept[start:stop] = part.indices.reshape(-1, k)
        values_kept[start:stop] = part.values.reshape(-1, k)
        if scales is not None and part.scales is not None:  # The gain after quantisation.
            v = coder.put(part.row_values().reshape(-1, k))
            scales[start:stop] = part.scales * fetch(coder.scales(x, ids, v))
        if progress is not None:
            progress(stop, n)
    indptr = np.arange(n + 1, dtype=np.int64) * k
    ids_flat, values_flat = ids_kept.reshape(-1), values_kept.reshape(-1)
    model_id = coder.model.model_id
    return SparseCodes(indptr, ids_flat, values_flat, scales, latents, model_id, settings)


def _packed(
    coder: Coder,
    items: Embeddings,
    quantizer: RowQuantizer,
    settings: dict[str, Any],
    progress: Progress,
) -> PackedCodes:
    """Packed codes of K nonzeros a row."""
    n, length = len(items), int(quantizer.layout.lengths[-1])
    data = np.zeros(n * length + SPARE, np.uint8)
    out = data[: n * length].reshape(n, length)
    for start, rows in items.batches(_batch(coder)):
        x = coder.put(unit_rows(rows))
        ids, values = coder.code(x, quantizer.nonzeros)
        out[start : start + len(x)] = pack_rows(coder, quantizer, x, ids, values)
        if progress is not None:
            progress(start + len(x), n)
    return PackedCodes(data, None, quantizer, coder.model.model_id, settings)


def _budgeted(
    coder: Coder,
    items: Embeddings,
    quantizer_of: Callable[[int, int], RowQuantizer],
    budget: int,
    importance: Any,
    settings: dict[str, Any],
    progress: Progress,
) -> PackedCodes:
    """Packed codes whose rows differ in k, within ``budget`` bytes.

    Two passes: the first measures the error reduction of each further nonzero of a row, the second
    codes each row with as many as it was allotted.
    """
    n, model = len(items), coder.model
    base = ragged_bytes(n)
    typical = mean_nonzeros(
        (budget - base) / n,
        model.latents,
        value_bits(settings["values"]),
        settings["residual_bytes"],
    )
    most = int(min(MOST_NONZEROS, model.latents, max(2 * typical, 2)))
    quantizer = quantizer_of(most, min(most, max(1, round(typical))))
    most = quantizer.nonzeros
    lengths = quantizer.layout.lengths
    scale = check_importance(importance, n)
    check_budget(budget, n, lengths, base)
    reductions = np.empty((n, most), np.float16)
    chosen = np.empty((n, most), id_dtype(model.latents))
    for start, rows in items.batches(_batch(coder)):
        x = coder.put(unit_rows(rows))
        stop = start + len(x)
        ids = coder.support(x, most)
        chosen[start:stop] = fetch(ids)
        reductions[start:stop] = fetch(coder.error_reduction(x, ids))
        if progress is not None:
            progress(stop, 2 * n)
    counts = allot(reductions, lengths, budget - base, scale)
    ends = np.cumsum(lengths[counts])
    data = np.zeros(int(ends[-1]) + SPARE, np.uint8)
    for start, rows in items.batches(_batch(coder)):
        x = coder.put(unit_rows(rows))
        batch_counts = counts[start : start + len(x)]
        for k in np.unique(batch_counts):
            here = np.flatnonzero(batch_counts == k)
            some = x[coder.put(here)]
            ids, values = coder.values(some, coder.put(chosen[start + here, :k].astype(np.int32)))
            length = int(lengths[k])
            places = (ends[start + here] - length)[:, None] + np.arange(length)
            data[places] = pack_rows(coder, quantizer, some, ids, values)
        if progress is not None:
            progress(n + start + len(x), 2 * n)
    settings = {**settings, "nonzeros": most, "budget": budget}
    return PackedCodes(data, counts, quantizer, model.model_id, settings)
