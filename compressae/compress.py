"""Whole tables to codes, in batches and without gradients."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from compressae.budget import allot, check_budget, check_weights, parse_budget
from compressae.coding import Coder, fit_quantizer, pack_rows
from compressae.devices import current, fetch, pick_device, tensors_on
from compressae.kernels.packed import BLOCK, SPARE
from compressae.model import CompresSAE
from compressae.retrieval.codes import VALUE_TYPES, SparseCodes, ValueType, id_dtype
from compressae.retrieval.embeddings import Embeddings, as_embeddings, unit_rows
from compressae.retrieval.errors import InputError
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.quantizer import RowQuantizer, id_bits, metric_of

PackedType = Literal["int4", "int3", "int2"]
PACKED_TYPES: tuple[PackedType, ...] = ("int4", "int3", "int2")

#: Numbers of one batch's (rows, h) activations: 64 MiB of float32; more on a GPU, where they are
#: never held together and each launch of a kernel is to have enough to do.
_ACTIVATIONS, _ON_GPU = 1 << 24, 1 << 27
#: Rows that the metric, the levels and the residual's centroids are learned from.
_SAMPLE_ROWS = 1 << 16


@torch.no_grad()
def compress(
    model: CompresSAE,
    items: Any,
    values: ValueType | PackedType | None = None,
    nonzeros: int | None = None,
    refit: bool | None = None,
    residual_bytes: int = 0,
    budget: str | int | None = None,
    weights: Any = None,
    like: PackedCodes | None = None,
    progress: Callable[[int, int], None] | None = None,
    device: str = "auto",
) -> SparseCodes | PackedCodes:
    """Codes of every row of a table.

    Within a row nonzeros descend by |value| (packed: before quantisation). Rows are scaled to their
    least-squares length in the table's metric (see ``metric_of``), so that (W q)·s estimates a unit
    query's cosine with the row; an encoder's own values are scaled so that x̂ has unit length, which
    makes it the cosine with x̂. Resident memory is the codes and one batch,
    whatever the size of the table; with a budget also 6 to 8 bytes a nonzero considered, of which a
    row has twice as many as it gets on average.

    Args:
        model: a trained model.
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        values: how values are stored. "int4", "int3" and "int2" (when None) give ``PackedCodes``:
            4, 3 or 2 bits a value on average, ids in ⌈log2 h⌉ bits and a gain of one byte.
            "float32", "float16" and "int8" with a float32 scale a row give ``SparseCodes``.
        nonzeros: k; the model's when None.
        refit: take least-squares values instead of the encoder's. None: yes, unless the model is of
            the paper's recipe and values are not packed (packed ones are always fitted).
        residual_bytes: bytes a row for what the nonzeros leave (packed values only).
        budget: bytes of the whole codes: a number, "4 GB" (10^9 bytes each; also KB, MB, GiB …) or
            "48 B/row". Rows then differ in k: nonzeros go where they lessen the error most. The
            codes never take a byte more, and less than 1 % stays unused (of some hundred rows).
        weights: (n,) importance of rows for the budget, ≥ 0: popularity, say. Even when None.
        like: packed codes whose quantiser these rows shall share, as rows of one table coded at
            another time; it sets values, nonzeros and residual bytes. Codes that kept to a budget
            want one here too.
        progress: called after each batch with (rows done, rows to do).
        device: where rows are coded: "cpu", "cuda", "cuda:NUMBER", or "auto", the model's GPU or
            else one where there is one. Codes of one device are read on any; those of a GPU differ
            from the CPU's where rounding decides.

    Raises:
        InputError: the table's width is not the model's; a row is NaN, infinite or zero; settings
            that do not go together; a budget too small for one nonzero a row, or larger than any
            codes of this table.
    """
    tensors = _tensors(model, device)
    items = as_embeddings(items)
    check_width(model, items)
    if like is not None:
        if not isinstance(like, PackedCodes):
            raise InputError(f"like: {type(like).__name__}; expected PackedCodes")
        if like.counts is not None and budget is None:
            raise InputError("like codes that kept to a budget, without one; give a budget")
        if values is not None or nonzeros is not None or residual_bytes:
            raise InputError(
                "values, nonzeros or residual bytes beside a quantiser to share, which has its "
                "own; leave them out"
            )
        if like.model_id != model.model_id:
            raise InputError(
                f"codes of model {like.model_id}, but this is model {model.model_id}; give codes "
                "of the same model"
            )
        values, nonzeros = like.settings["values"], like.quantizer.nonzeros
        residual_bytes = like.quantizer.residual_bytes
    values = values or "int2"
    packs = values in PACKED_TYPES
    check_form(values, residual_bytes, budget, model.dim)
    if packs and refit is False:
        raise InputError(
            f"values {values!r} without refit: packed values are always fitted; expected float32, "
            "float16 or int8"
        )
    if weights is not None and budget is None:
        raise InputError("weights without a budget: they share out a budget; give one")
    if nonzeros is not None and budget is not None and like is None:
        raise InputError("nonzeros and a budget, which decides them row by row; give one of them")
    k = model.nonzeros if nonzeros is None else int(nonzeros)
    residual_bytes = int(residual_bytes)
    if not 1 <= k <= model.latents:
        raise InputError(f"{k} nonzeros: expected 1 to {model.latents}, the model's latents")
    if packs and k > 255 and budget is None:
        raise InputError(f"{k} nonzeros: packed rows hold at most 255; store the values as int8")
    recipe = model.settings.get("recipe")
    if refit is None:
        refit = packs or recipe != "paper"
    if like is None:
        sample = _sample(items)
        metric = metric_of(sample)
    else:
        metric = like.quantizer.metric
    pursuit = packs or (refit and recipe == "pursuit")
    coder = Coder(model, metric, pursuit, refit, tensors)
    settings: dict[str, Any] = {"refit": refit, "nonzeros": k, "values": values}
    if not packs:
        with current(tensors):
            return _plain(coder, items, k, values, settings, progress)  # type: ignore[arg-type]
    settings["residual_bytes"] = residual_bytes

    def quantizer(most: int, typical: int) -> RowQuantizer:
        if like is not None:
            return like.quantizer
        return fit_quantizer(coder, sample, most, int(values[3:]), residual_bytes, typical)

    with current(tensors):
        if budget is not None:
            total = parse_budget(budget, len(items))
            return _budgeted(coder, items, quantizer, total, weights, settings, progress)
        return _packed(coder, items, quantizer(k, k), settings, progress)


def compress_like(model: CompresSAE, items: Any, like: SparseCodes | PackedCodes) -> Any:
    """Codes of more rows (m, d) to stand beside ``like``: of its form, and as many bytes a row;
    made where the model is.

    Raises:
        InputError: as of ``compress``.
    """
    items = as_embeddings(items)
    if isinstance(like, PackedCodes):
        budget = None
        if like.counts is not None:
            m, rows = len(items), (len(like.data) - SPARE) / len(like)
            budget = int(np.ceil(rows * m)) + SPARE + m + 8 * (-(-m // BLOCK))
        return compress(model, items, budget=budget, like=like, device=str(model.encoder.device))
    check_width(model, items)
    decoder = model.decoder.detach().cpu().numpy()
    some = np.unique(np.linspace(0, len(like) - 1, min(len(like), _SAMPLE_ROWS)).astype(int))
    known = np.asarray(like.take(some).to_scipy() @ decoder, np.float32)
    refit, pursuit = like.settings["refit"], model.settings.get("recipe") == "pursuit"
    tensors = _tensors(model, str(model.encoder.device))
    coder = Coder(model, metric_of(known), refit and pursuit, refit, tensors)
    values: ValueType = like.value_type  # type: ignore[assignment]
    with current(tensors):
        return _plain(coder, items, like.settings["nonzeros"], values, like.settings, None)


def check_form(values: str, residual_bytes: int, budget: Any, dim: int) -> None:
    """Refuse values, residual bytes and a budget that do not go together."""
    if values not in (*VALUE_TYPES, *PACKED_TYPES):
        known = ", ".join((*VALUE_TYPES, *PACKED_TYPES))
        raise InputError(f"values {values!r}: expected one of {known}")
    if values in VALUE_TYPES and (residual_bytes or budget is not None):
        raise InputError(
            f"values {values!r} with residual bytes or a budget: these are for packed values; "
            "expected int4, int3 or int2"
        )
    if not 0 <= residual_bytes <= dim:
        raise InputError(f"{residual_bytes} residual bytes: expected 0 to {dim}, the dimensions")


def check_width(model: CompresSAE, items: Embeddings) -> None:
    """Refuse a table of another width than the model's."""
    if items.shape[1] != model.dim:
        raise InputError(
            f"{items.name}: rows of {items.shape[1]} columns, but the model was trained on "
            f"{model.dim}; give embeddings like those it was trained on"
        )


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
    values: ValueType,
    settings: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> SparseCodes:
    """CSR codes of k nonzeros a row."""
    n, latents = len(items), coder.model.latents
    ids_kept = np.empty((n, k), id_dtype(latents))
    values_kept = np.empty((n, k), values)
    scales = np.empty(n, np.float32) if values == "int8" else None
    for start, rows in items.batches(_batch(coder)):
        x = coder.put(unit_rows(rows))
        ids, v = coder.code(x, k)
        v = v * coder.scales(x, ids, v)[:, None]
        part = SparseCodes.from_rows(fetch(ids), fetch(v), latents, values)
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
    progress: Callable[[int, int], None] | None,
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
    weights: Any,
    settings: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> PackedCodes:
    """Packed codes whose rows differ in k, within ``budget`` bytes.

    Two passes: the first notes how much each further nonzero of a row lessens its error, the second
    codes each row with as many as it was allotted.
    """
    n, model = len(items), coder.model
    base = SPARE + n + 8 * (-(-n // BLOCK))
    fixed, bits = settings["residual_bytes"] + 1, int(settings["values"][3:])
    bits_left = 8 * ((budget - base) / n - fixed)
    typical = bits_left / (id_bits(model.latents) + bits)
    most = int(min(255, model.latents, max(2 * typical, 2)))
    quantizer = quantizer_of(most, min(most, max(1, round(typical))))
    most = quantizer.nonzeros
    lengths = quantizer.layout.lengths
    scale = check_weights(weights, n)
    check_budget(budget, n, lengths, base)
    gains = np.empty((n, most), np.float16)
    chosen = np.empty((n, most), id_dtype(model.latents))
    for start, rows in items.batches(_batch(coder)):
        x = coder.put(unit_rows(rows))
        stop = start + len(x)
        ids = coder.support(x, most)
        chosen[start:stop] = fetch(ids)
        gains[start:stop] = fetch(coder.marginal_gains(x, ids))
        if progress is not None:
            progress(stop, 2 * n)
    counts = allot(gains, lengths, budget - base, scale)
    ends = np.cumsum(lengths[counts])
    data = np.zeros(int(ends[-1]) + SPARE, np.uint8)
    for start, rows in items.batches(_batch(coder)):
        x = coder.put(unit_rows(rows))
        mine = counts[start : start + len(x)]
        for k in np.unique(mine):
            here = np.flatnonzero(mine == k)
            some = x[coder.put(here)]
            ids, values = coder.values(some, coder.put(chosen[start + here, :k].astype(np.int32)))
            length = int(lengths[k])
            places = (ends[start + here] - length)[:, None] + np.arange(length)
            data[places] = pack_rows(coder, quantizer, some, ids, values)
        if progress is not None:
            progress(n + start + len(x), 2 * n)
    settings = {**settings, "nonzeros": most, "budget": budget}
    return PackedCodes(data, counts, quantizer, model.model_id, settings)
