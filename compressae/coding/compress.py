"""Compress tables to codes, in batches and without gradients."""

from typing import Any

import numpy as np
import torch

from compressae.coding.budget import allot, allot_above, check_budget, check_importance
from compressae.coding.coder import Coder, pack_rows
from compressae.coding.fit import (
    SAMPLE_ROWS,
    Progress,
    Table,
    batch_rows,
    check_beam,
    check_nonzeros,
    check_width,
    device_of,
    fit,
    measure,
)
from compressae.kernels.backend import current, fetch
from compressae.kernels.packed import SPARE
from compressae.kernels.threads import limited
from compressae.model import CompresSAE
from compressae.retrieval.codes import Codes, PackedCodes, SparseCodes
from compressae.retrieval.codes.base import parallel_weight_of
from compressae.retrieval.codes.fitted import FittedQuantizer
from compressae.retrieval.codes.quantizer import fit_error_weighting
from compressae.retrieval.codes.size import (
    MOST_NONZEROS,
    PackedType,
    parse_bytes,
    ragged_bytes,
)
from compressae.retrieval.codes.sparse import VALUE_TYPES, ValueType, id_dtype
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import Similarity, as_embeddings, split_lengths


@torch.no_grad()
def compress(
    model: CompresSAE,
    items: Any,
    value_type: PackedType | None = None,
    nonzeros: int | None = None,
    residual_bytes: int = 0,
    budget: str | int | None = None,
    importance: Any = None,
    like: PackedCodes | FittedQuantizer | None = None,
    progress: Progress = None,
    device: str = "auto",
    similarity: Similarity | None = None,
    queries: Any = None,
    beam: int = 1,
    threads: int | None = None,
) -> PackedCodes:
    """Compress a table to packed codes: a few bytes a row.

    Latents are chosen by their error reduction (see ``select_latents``). Rows are scaled to the
    length of least error under a weighting (see ``fit_error_weighting``), for cosine one in which
    errors along the row count more (``parallel_weight`` of ``fit_quantizer``), so that
    (W q)·s estimates the cosine of a unit query with the row. With similarity "dot" that scale
    includes the row's own length, in the same byte, and (W q)·s estimates the dot product. Resident
    memory is the codes, one batch and 2·h² bytes of the latents' products. A budget adds 6 to 8
    bytes a nonzero considered, and considers twice as many as a row gets on average.

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
        like: a quantiser that these rows share, of ``fit_quantizer`` or of packed codes. It sets
            the value type, nonzeros and residual bytes. If rows of such codes differ in k and
            ``budget`` is None, these rows get as many bytes a row.
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
        threads: processors to use; all that the process may use when None.

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
    items = as_embeddings(items)
    check_width(model, items)
    tensors = device_of(model, device)
    if like is not None:
        own = (value_type, nonzeros, residual_bytes or None, similarity, queries)
        if any(setting is not None for setting in own):
            raise InputError(
                "value type, nonzeros, residual bytes, similarity or queries beside a quantiser to "
                "share, which has its own; leave them out"
            )
        check_like(model, like)
        if budget is None and isinstance(like, PackedCodes) and like.counts is not None:
            budget = _equal_budget(like, len(items))
    total = None if budget is None else parse_bytes(budget, len(items))
    is_ragged = total is not None or getattr(like, "least_benefit", None) is not None
    if importance is not None and not is_ragged:
        raise InputError("importance without a budget; give a budget too")
    check_beam(model, beam, is_ragged, tensors)
    with current(tensors), limited(threads):
        # Fit the quantiser, or take that of the codes to match.
        if like is None:
            table = Table(items, similarity or model.similarity)
            fitted = fit(
                model, table, value_type, nonzeros, residual_bytes, total, queries, tensors, beam
            )
        else:
            fitted = like.fitted if isinstance(like, PackedCodes) else like
            table = Table(items, fitted.similarity)
        weighting = fitted.quantizer.error_weighting
        parallel_weight = parallel_weight_of(fitted.settings)
        coder = Coder(model, weighting, True, True, tensors, beam, parallel_weight)
        if is_ragged:
            return _ragged(coder, table, fitted, total, importance, progress)
        return _packed(coder, table, fitted, progress)


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
    threads: int | None = None,
) -> SparseCodes:
    """Encode a table to plain codes: CSR arrays of k nonzeros a row.

    Args:
        model: a trained model.
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        value_type: "float32", "float16", or "int8" with a float32 scale a row.
        nonzeros: k; the model's when None.
        refit: take least-squares values. Otherwise the encoder's values are scaled so that x̂ has
            unit length. None means True, but False for a model of the recipe "paper".
        progress, device, threads: see ``compress``.
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
    tensors = device_of(model, device)
    items = as_embeddings(items)
    check_width(model, items)
    k = check_nonzeros(model, nonzeros)
    recipe = model.settings.get("recipe")
    refit = recipe != "paper" if refit is None else refit
    pursuit = refit and recipe == "pursuit"
    table = Table(items, similarity or model.similarity)
    coder = Coder(model, fit_error_weighting(table.sample().x), pursuit, refit, tensors)
    settings = {
        "refit": refit,
        "nonzeros": k,
        "values": value_type,
        "similarity": table.similarity,
    }
    with current(tensors), limited(threads):
        return _plain(coder, table, k, value_type, settings, progress)


@torch.no_grad()
def encode_like(
    model: CompresSAE,
    items: Any,
    like: Codes,
    progress: Progress = None,
    device: str = "auto",
    threads: int | None = None,
) -> Codes:
    """Encode rows to add to an index: codes of the same kind, settings and quantiser.

    Args:
        model: the model that made ``like``: ``CompresSAE.from_projection(index.projection)``.
        items: (m, d) embeddings.
        like: codes of the index: ``index.codes``.
        progress, device, threads: see ``compress``.

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
        return compress(model, items, like=like, progress=progress, device=device, threads=threads)
    assert isinstance(like, SparseCodes)
    items = as_embeddings(items)
    check_width(model, items)
    check_like(model, like)
    # Plain codes do not store the error weighting: fit it to reconstructions of their rows.
    rows = np.unique(np.linspace(0, len(like) - 1, min(len(like), SAMPLE_ROWS)).astype(int))
    decoder = model.decoder.detach().cpu().numpy()
    table = Table(items, like.similarity)
    sample = like.take(rows).reconstruct(decoder)
    if like.similarity == "dot":
        sample = split_lengths(sample)[0]
    weighting = fit_error_weighting(sample)
    refit, is_unpacked = like.settings["refit"], "residual_bytes" in like.settings
    pursuit = is_unpacked or model.settings.get("recipe") == "pursuit"
    tensors = device_of(model, device)
    weight = parallel_weight_of(like.settings)
    coder = Coder(model, weighting, refit and pursuit, refit, tensors, parallel_weight=weight)
    value_type: ValueType = like.value_type  # type: ignore[assignment]
    with current(tensors), limited(threads):
        return _plain(coder, table, like.settings["nonzeros"], value_type, like.settings, progress)


def check_like(model: CompresSAE, like: Codes | FittedQuantizer) -> None:
    """Refuse codes or a quantiser of another model, or one that does not fit it.

    Raises:
        InputError: see above.
    """
    if like.model_id != model.model_id:
        raise InputError(
            f"codes of model {like.model_id}, but this is model {model.model_id}; give codes "
            "of the same model"
        )
    if isinstance(like, SparseCodes):
        return
    assert isinstance(like, PackedCodes | FittedQuantizer)
    quantizer = like.quantizer
    form = (quantizer.dim, quantizer.latents, quantizer.says_lengths)
    expected = (model.dim, model.latents, like.similarity == "dot")
    if form != expected or quantizer.nonzeros > min(model.latents, MOST_NONZEROS):
        raise InputError(
            f"a quantiser of {quantizer.dim} dimensions, {quantizer.latents} latents and "
            f"{quantizer.nonzeros} nonzeros for similarity {like.similarity!r} does not fit a "
            f"model of {model.dim} dimensions and {model.latents} latents; fit it again"
        )


def _equal_budget(like: PackedCodes, rows: int) -> int:
    """Budget of ``rows`` rows that take as many bytes a row as ``like``."""
    mean_bytes = (len(like.data) - SPARE) / len(like)
    return int(np.ceil(mean_bytes * rows)) + ragged_bytes(rows)


def _plain(
    coder: Coder,
    items: Table,
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
    for start, unit, lengths in items.batches(batch_rows(coder)):
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


def _packed(coder: Coder, table: Table, fitted: FittedQuantizer, progress: Progress) -> PackedCodes:
    """Encode a table to packed codes of K nonzeros a row."""
    quantizer = fitted.quantizer
    n, length = len(table), int(quantizer.layout.lengths[-1])
    data = np.zeros(n * length + SPARE, np.uint8)
    out = data[: n * length].reshape(n, length)
    for start, unit, lengths in table.batches(batch_rows(coder)):
        x, factors = coder.put(unit), coder.put(lengths)
        weighted = coder.weigh(x)
        ids, values = coder.values(weighted, coder.support(x, quantizer.nonzeros))
        out[start : start + len(x)] = pack_rows(coder, quantizer, weighted, factors, ids, values)
        if progress is not None:
            progress(start + len(x), n)
    return PackedCodes(data, None, quantizer, coder.model.model_id, fitted.settings)


def _ragged(
    coder: Coder,
    table: Table,
    fitted: FittedQuantizer,
    budget: int | None,
    importance: Any,
    progress: Progress,
) -> PackedCodes:
    """Encode a table to packed codes whose rows differ in k.

    The first pass measures the error reduction of each successive nonzero of a row. The second
    encodes each row with the nonzeros allotted to it: those that ``budget`` bytes afford, or those
    of the quantiser's least benefit.
    """
    n, quantizer = len(table), fitted.quantizer
    lengths = quantizer.layout.lengths
    importance = check_importance(importance, n)
    base = ragged_bytes(n)
    if budget is not None:
        check_budget(budget, n, lengths, base)

    # First pass, and the nonzeros of each row; from them follow its bytes and its place.
    half = None if progress is None else lambda done, _: progress(done, 2 * n)
    supports, reductions = measure(coder, table, fitted, importance, half)
    if budget is not None:
        counts = allot(reductions, lengths, budget - base, importance)
    else:
        assert fitted.least_benefit is not None
        counts = allot_above(reductions, fitted.least_benefit, importance)
    ends = np.cumsum(lengths[counts])
    data = np.zeros(int(ends[-1]) + SPARE, np.uint8)

    # Second pass: encode the rows of a batch that have equal k together.
    for start, unit, scales in table.batches(batch_rows(coder)):
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
    settings = fitted.settings if budget is None else {**fitted.settings, "budget": budget}
    return PackedCodes(data, counts, quantizer, coder.model.model_id, settings)
