"""Whole tables to sparse codes, in batches and without gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from compressae.kernels.decode import decode
from compressae.kernels.refit import refit as refit_values
from compressae.model import CompresSAE
from compressae.retrieval.codes import SparseCodes, ValueType, id_dtype
from compressae.retrieval.embeddings import Embeddings, as_embeddings, unit_rows
from compressae.retrieval.errors import InputError

#: Numbers of one batch's (rows, h) activations (64 MiB of float32).
_ACTIVATIONS = 1 << 24


@torch.no_grad()
def compress(
    model: CompresSAE,
    items: Any,
    values: ValueType = "float32",
    nonzeros: int | None = None,
    refit: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SparseCodes:
    """Sparse codes of every row of a table.

    Rows are scaled so that the reconstruction Wᵀs of each has unit length: cos(x, x̂) of a query x
    is then the plain dot product (W x/‖x‖)·s. (Values kept as float16 round that length, by at
    most 5e-4.) Within a row nonzeros descend by |value|. Resident memory is the codes and one
    batch, whatever the size of the table.

    Args:
        model: its encoder picks the latents.
        items: (n, d) embeddings: an array, a path or ``Embeddings``.
        values: how values are stored: "float32", "float16" or "int8" with a float32 scale a row.
        nonzeros: another k than the model's.
        refit: take the least-squares values on the chosen latents instead of the encoder's (ridge
            1e-3). None: yes, unless the model is of the paper's recipe.
        progress: called after each batch with (rows done, n).

    Raises:
        InputError: the table's width is not the model's; a row is NaN, infinite or zero.
    """
    items = as_embeddings(items)
    n, d = items.shape
    check_width(model, items)
    k = nonzeros or model.nonzeros
    if not 1 <= k <= model.latents:
        raise InputError(f"{k} nonzeros: expected 1 to {model.latents}, the model's latents")
    if refit is None:
        refit = model.settings.get("recipe") != "paper"
    decoder = model.decoder.detach().cpu().numpy()
    ids_kept = np.empty((n, k), id_dtype(model.latents))
    values_kept = np.empty((n, k), values)
    scales = np.empty(n, np.float32) if values == "int8" else None
    for start, rows in items.batches(max(1, _ACTIVATIONS // max(model.latents, d))):
        x = unit_rows(rows)
        ids, v = encode_rows(model, x, k)
        if refit:
            v = refit_values(x, ids, decoder)
            order = np.argsort(-np.abs(v), axis=1, kind="stable")
            ids, v = np.take_along_axis(ids, order, 1), np.take_along_axis(v, order, 1)
        v /= _lengths(ids, v, decoder)[:, None]
        part = SparseCodes.from_rows(ids, v, model.latents, values)
        stop = start + len(x)
        ids_kept[start:stop] = part.indices.reshape(-1, k)
        values_kept[start:stop] = part.values.reshape(-1, k)
        if scales is not None and part.scales is not None:  # The length after quantisation.
            v = part.row_values().reshape(-1, k)
            scales[start:stop] = part.scales / _lengths(ids, v, decoder)
        if progress is not None:
            progress(stop, n)
    return SparseCodes(
        indptr=np.arange(n + 1, dtype=np.int64) * k,
        indices=ids_kept.reshape(-1),
        values=values_kept.reshape(-1),
        scales=scales,
        latents=model.latents,
        model_id=model.model_id,
        settings={"refit": refit, "nonzeros": k, "values": values},
    )


def check_width(model: CompresSAE, items: Embeddings) -> None:
    """Refuse a table of another width than the model's."""
    if items.shape[1] != model.dim:
        raise InputError(
            f"{items.name}: rows of {items.shape[1]} columns, but the model was trained on "
            f"{model.dim}; give embeddings like those it was trained on"
        )


def _lengths(indices: np.ndarray, values: np.ndarray, decoder: np.ndarray) -> np.ndarray:
    """‖Wᵀs‖ of each row (m,); 1 where the reconstruction is zero."""
    lengths = np.linalg.norm(decode(indices, values, decoder), axis=1)
    return np.where(lengths > 0, lengths, 1).astype(np.float32)


def encode_rows(model: CompresSAE, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's code of unit rows x (m, d): ids (m, k) int32 and values (m, k) float32."""
    device = model.encoder.device
    with torch.no_grad():
        ids, values = model.encode(torch.from_numpy(x).to(device), k)
    return ids.cpu().numpy(), values.cpu().numpy()
