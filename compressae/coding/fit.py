"""Fit what the codes of a table share: the error weighting and the quantiser, on a sample."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from compressae.coding.budget import allot, check_budget, lowest_benefit
from compressae.coding.coder import PARALLEL_WEIGHT, Coder, fit_row_quantizer
from compressae.kernels.backend import current, fetch, tensors_on
from compressae.kernels.support import MOST_LATENTS, Dictionary
from compressae.kernels.threads import limited
from compressae.model import CompresSAE
from compressae.retrieval.codes.base import check_parallel_weight
from compressae.retrieval.codes.fitted import FittedQuantizer
from compressae.retrieval.codes.quantizer import fit_error_weighting
from compressae.retrieval.codes.size import (
    MOST_NONZEROS,
    PackedType,
    mean_nonzeros,
    parse_bytes,
    ragged_bytes,
    value_bits,
)
from compressae.retrieval.codes.sparse import id_dtype
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
SAMPLE_ROWS = 1 << 16

Progress = Callable[[int, int], None] | None


@torch.no_grad()
def fit_quantizer(
    model: CompresSAE,
    items: Any,
    value_type: PackedType | None = None,
    nonzeros: int | None = None,
    residual_bytes: int = 0,
    budget: str | int | None = None,
    device: str = "auto",
    similarity: Similarity | None = None,
    queries: Any = None,
    beam: int = 1,
    threads: int | None = None,
    parallel_weight: float | None = None,
) -> FittedQuantizer:
    """Fit what all packed codes of a table share, before any row is coded.

    ``compress(model, part, like=quantizer)`` then gives a row the same bytes whatever part of the
    table it comes in, on a CPU: parts may be coded by several processes or machines.

    Args:
        model: a trained model.
        items: (n, d) embeddings, all of them or a sample of all parts. At most 65,536 rows are
            read, evenly spaced; with similarity "dot" all are, for their lengths.
        value_type, nonzeros, residual_bytes, device, similarity, queries, beam, threads: see
            ``compress``.
        budget: bytes of the codes, "48 B/row" or those of all of ``items``. A nonzero is then kept
            if it reduces the error of its row by at least as much as the last one that the sample
            could afford; other parts take more or fewer bytes than the budget as they are harder
            or easier.
        parallel_weight: how much more the error along a row itself counts when its gain is chosen,
            0 to 100 (the parallel error of Guo et al., ICML 2020): 0.3 for cosine and 0 for dot
            products when None. More helps the first results of queries that lie near rows, and
            costs later ones; see docs/log.md.

    Raises:
        InputError: see ``compress``; a weight outside its range.

    >>> from compressae.coding.compress import compress
    >>> items = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
    >>> model = CompresSAE(dim=8, latents=32, nonzeros=4)
    >>> quantizer = fit_quantizer(model, items, residual_bytes=2)
    >>> parts = [compress(model, part, like=quantizer) for part in (items[:99], items[99:])]
    >>> whole = compress(model, items, like=quantizer)
    >>> bool((parts[0].join(parts[1:]).data == whole.data).all())
    True
    """
    items = as_embeddings(items)
    check_width(model, items)
    table = Table(items, similarity or model.similarity)
    tensors = device_of(model, device)
    nbytes = None if budget is None else parse_bytes(budget, len(items))
    with current(tensors), limited(threads):
        fitted = fit(
            model,
            table,
            value_type,
            nonzeros,
            residual_bytes,
            nbytes,
            queries,
            tensors,
            beam,
            parallel_weight,
        )
        if nbytes is None:
            return fitted
        sample = Table(items.subset(sample_rows(len(items))), table.similarity)
        coder = Coder(model, fitted.quantizer.error_weighting, True, True, tensors)
        importance = np.ones(len(sample), np.float32)
        _, reductions = measure(coder, sample, fitted, importance)
        lengths = fitted.quantizer.layout.lengths
        base = ragged_bytes(len(items))
        check_budget(nbytes, len(items), lengths, base)
        share = (nbytes - base) * len(sample) // len(items)
        counts = allot(reductions, lengths, share, importance)
        return replace(fitted, least_benefit=lowest_benefit(reductions, counts, importance))


def fit(
    model: CompresSAE,
    table: "Table",
    value_type: PackedType | None,
    nonzeros: int | None,
    residual_bytes: int,
    budget: int | None,
    queries: Any,
    tensors: torch.device | None,
    beam: int,
    parallel_weight: float | None = None,
) -> FittedQuantizer:
    """Check the options of packed codes and fit their quantiser; see ``fit_quantizer``.

    Args:
        budget: bytes of the table's codes; None where rows have equal nonzeros.
        tensors: the GPU that encodes; None for the CPU.
        beam: see ``compress``.
        parallel_weight: see ``fit_quantizer``.
    """
    check_beam(model, beam, budget is not None, tensors)
    value_type = value_type or "int2"
    bits = value_bits(value_type)
    if not 0 <= residual_bytes <= model.dim:
        raise InputError(
            f"{residual_bytes} residual bytes: expected 0 to {model.dim}, the dimensions"
        )
    if nonzeros is not None and budget is not None:
        raise InputError("nonzeros and a budget, which decides them row by row; give one of them")
    most = check_nonzeros(model, nonzeros)
    if most > MOST_NONZEROS and budget is None:
        raise InputError(
            f"{most} nonzeros: packed rows hold at most {MOST_NONZEROS}; store the values as int8"
        )
    typical = most
    if budget is not None:
        # Consider up to twice the mean number of nonzeros that the budget allows.
        mean_bytes = (budget - ragged_bytes(len(table))) / len(table)
        mean = mean_nonzeros(mean_bytes, model.latents, bits, residual_bytes)
        most = int(min(MOST_NONZEROS, model.latents, max(2 * mean, 2)))
        typical = min(most, max(1, round(mean)))
    settings: dict[str, Any] = {
        "refit": True,
        "nonzeros": most,
        "values": value_type,
        "residual_bytes": int(residual_bytes),
        "similarity": table.similarity,
    }
    if budget is not None:
        settings["budget"] = budget
    if parallel_weight is None:
        parallel_weight = PARALLEL_WEIGHT if table.similarity == "cosine" else 0.0
    weight = check_parallel_weight(parallel_weight, "fit_quantizer", "give one of them, or None")
    settings["parallel_weight"] = weight
    sample = table.sample()
    others = None if queries is None else query_sample(queries, model.dim)
    weighting = fit_error_weighting(sample.x if others is None else others, sample.x)
    coder = Coder(model, weighting, True, True, tensors, beam, weight)
    quantizer = fit_row_quantizer(
        coder, sample.x, most, bits, int(residual_bytes), typical, sample.lengths, table.longest
    )
    return FittedQuantizer(quantizer, model.model_id, settings, longest=table.longest)


def measure(
    coder: Coder,
    table: "Table",
    fitted: FittedQuantizer,
    importance: np.ndarray,
    show: Progress = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose K latents of each row and measure the error reduction of each.

    Args:
        coder: of the table.
        table: n rows.
        fitted: the quantiser, which says K.
        importance: (n,) of the rows, multiplied by their squared lengths in place.
        show: called after each batch with (rows done, all rows).

    Returns:
        Latents (n, K) in the order of their choice, and error reductions (n, K) float16.
    """
    n, most = len(table), fitted.quantizer.nonzeros
    reductions = np.empty((n, most), np.float16)
    supports = np.empty((n, most), id_dtype(coder.model.latents))
    for start, unit, scales in table.batches(batch_rows(coder)):
        x = coder.put(unit)
        stop = start + len(x)
        ids = coder.support(x, most)
        supports[start:stop] = fetch(ids)
        reductions[start:stop] = fetch(coder.error_reduction(x, ids))
        importance[start:stop] *= np.square(scales / fitted.longest)
        if show is not None:
            show(stop, n)
    return supports, reductions


@dataclass(frozen=True)
class Sample:
    """Unit rows x (m, d), and their lengths (m,) for dot products, None for cosine."""

    x: np.ndarray
    lengths: np.ndarray | None


class Table:
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

    def sample(self) -> Sample:
        """At most ``SAMPLE_ROWS`` rows, evenly spaced over the table; rows of zeros are left out.

        Raises:
            InputError: only rows of zeros.
        """
        x, lengths = self._split(self.items.take(sample_rows(len(self))))
        if self.similarity == "cosine":
            return Sample(x, None)
        if not lengths.any():
            raise InputError(f"{self.items.name}: only rows of zeros; expected trained embeddings")
        return Sample(x[lengths > 0], lengths[lengths > 0])

    @cached_property
    def longest(self) -> float:
        """The largest length: 1 for cosine, else of a pass over the table."""
        if self.similarity == "cosine":
            return 1.0
        return max(float(split_lengths(rows)[1].max()) for _, rows in self.items.batches())


def query_sample(queries: Any, dim: int) -> np.ndarray:
    """Sample unit rows (m, d) of the queries that are not zero.

    Raises:
        InputError: another width, or only rows of zeros.
    """
    table = as_embeddings(queries, "queries")
    if table.shape[1] != dim:
        raise InputError(
            f"{table.name}: rows of {table.shape[1]} columns; expected {dim}, the items' width"
        )
    return Table(table, "dot").sample().x


def sample_rows(n: int) -> np.ndarray:
    """Numbers of at most ``SAMPLE_ROWS`` of n rows, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE_ROWS)).astype(int))


def device_of(model: CompresSAE, device: str) -> torch.device | None:
    """The GPU that encodes; None for the CPU."""
    model_device = model.encoder.device
    if device == "auto" and model_device.type == "cuda":
        return tensors_on(model_device)
    return tensors_on(pick_device(device))


def batch_rows(coder: Coder) -> int:
    """Rows of a batch."""
    numbers = _ACTIVATIONS if coder.device is None else _ON_GPU
    return max(1, numbers // max(coder.model.latents, coder.model.dim))


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


def check_nonzeros(model: CompresSAE, nonzeros: int | None) -> int:
    """k, the model's when None; refuse one outside 1…h."""
    k = model.nonzeros if nonzeros is None else int(nonzeros)
    if not 1 <= k <= model.latents:
        raise InputError(f"{k} nonzeros: expected 1 to {model.latents}, the model's latents")
    return k


def check_beam(model: CompresSAE, beam: int, is_ragged: bool, tensors: torch.device | None) -> None:
    """Refuse a beam outside its range, or where latents are not chosen by one."""
    if beam < 1:
        raise InputError(f"a beam of {beam}: expected 1 or more")
    if beam == 1:
        return
    if is_ragged:
        raise InputError(
            f"a beam of {beam} and a budget, under which rows keep the first of their latents, "
            "while a beam chooses them as a whole; leave one out"
        )
    if tensors is not None or not Dictionary.fits(model.latents):
        raise InputError(
            f"a beam of {beam}: latents are chosen by one on the CPU, from at most "
            f"{MOST_LATENTS:,}; leave it out"
        )
