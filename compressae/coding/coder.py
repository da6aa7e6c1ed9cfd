"""Encode rows to nonzeros, and quantise nonzeros to the bytes of packed rows."""

import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch

from compressae.kernels import packed
from compressae.kernels.backend import fetch, namespace, put
from compressae.kernels.decode import decode
from compressae.kernels.matmul import Panels, matmul
from compressae.kernels.pursuit import pursue, pursuit_schedule
from compressae.kernels.quantize import quantize_on_support
from compressae.kernels.refit import error_reduction, refit
from compressae.kernels.support import Dictionary, select_latents
from compressae.model import CompresSAE
from compressae.retrieval.codes.quantizer import (
    RowQuantizer,
    directions,
    fit_gains,
    fit_length_gains,
    fit_levels,
    fit_scaled_gains,
    length_codes,
    level_values,
)
from compressae.retrieval.codes.residual import fit_residual, rounded_columns
from compressae.retrieval.codes.size import check_latents
from compressae.retrieval.errors import InputError

#: How much more gains weigh the error along the row itself, for cosine: that row is among the
#: results of queries that lie in its direction more than others do (the parallel error of Guo et
#: al., "Accelerating large-scale inference with anisotropic vector quantization", ICML 2020).
#: Chosen on five tables (docs/log.md). For dot products it would cost recall.
PARALLEL_WEIGHT = 0.3
#: Rounds of ``fit_row_quantizer`` that move each level to the mean of the values assigned to it.
_LEVEL_ROUNDS = 2
#: How far a gain of dot products may be beyond the largest, as of rows at the limit.
_BEYOND = 1.1
#: Share of the squares of two vectors' lengths above which they are not along one line.
_ALONG = 1e-4
#: Ridge of the least-squares values.
_RIDGE = 1e-4


def encode_rows(model: CompresSAE, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Encode unit rows x (m, d) with the model's encoder.

    Args:
        model: a trained model; its device encodes.
        x: (m, d) float32.
        k: nonzeros of a row.

    Returns:
        Latents (m, k) int32 and values (m, k) float32, by descending |value|.
    """
    with torch.no_grad():
        ids, values = model.encode(torch.from_numpy(x).to(model.encoder.device), k)
    return fetch(ids), fetch(values)


@dataclass(frozen=True, eq=False)
class Coder:
    """Encoder of the rows of one table.

    Rows and decoder are multiplied by an error weighting (see ``fit_error_weighting``), so that
    plain least squares minimises the weighted error. Methods take and return numpy arrays, or
    tensors if the coder has a device.

    Attributes:
        model: a trained model; its encoder is used only without pursuit.
        error_weighting: (d, d) float32.
        pursuit: choose latents by their error reduction instead of the encoder: by orthogonal least
            squares, or with too many latents for their Gram matrix by orthogonal matching pursuit.
        refit: take least-squares values instead of the encoder's; implied by pursuit.
        device: device of the tensors; None for arrays on the CPU.
        beam: supports that the choice keeps; see ``select_latents``. 1 on a GPU.
        parallel_weight: how much more gains weigh the error along the row itself; see
            ``PARALLEL_WEIGHT``.

    >>> model = CompresSAE(dim=4, latents=16, nonzeros=2)
    >>> coder = Coder(model, np.eye(4, dtype=np.float32), pursuit=True)
    >>> ids, values = coder.code(np.eye(4, dtype=np.float32), k=2)
    >>> ids.shape, values.shape
    ((4, 2), (4, 2))
    """

    model: CompresSAE
    error_weighting: np.ndarray
    pursuit: bool
    refit: bool = True
    device: torch.device | None = None
    beam: int = 1
    parallel_weight: float = 0.0

    def put(self, array: np.ndarray) -> Any:
        """Move an array to the coder's device."""
        return put(array, self.device)

    @cached_property
    def decoder(self) -> Any:
        """Decoder (h, d) float32, rows of unit length."""
        decoder = self.model.decoder.detach()
        return decoder.cpu().numpy() if self.device is None else decoder.to(self.device)

    @cached_property
    def weighted_decoder(self) -> Any:
        """Decoder (h, d) float32 times the error weighting."""
        return self.weigh(self.decoder)

    @cached_property
    def _placed_weighting(self) -> Any:
        """Error weighting (d, d) on the coder's device; panels of it on the CPU."""
        is_array = self.device is None
        return Panels.of(self.error_weighting) if is_array else self.put(self.error_weighting)

    def weigh(self, x: Any) -> Any:
        """Multiply rows x (m, d) by the error weighting."""
        if self.device is None:
            return matmul(x, self._placed_weighting)
        return x @ self._placed_weighting

    @cached_property
    def _dictionary(self) -> Dictionary | None:
        """Latents to choose supports from; None where orthogonal matching pursuit does."""
        return Dictionary(self.decoder) if Dictionary.fits(self.model.latents) else None

    @cached_property
    def _encoder(self) -> CompresSAE:
        """The model, or a copy of it, on the coder's device."""
        if self.device == self.model.encoder.device:
            return self.model
        return copy.deepcopy(self.model).to(self.device)

    def encode(self, x: Any, k: int) -> tuple[Any, Any]:
        """Encode unit rows x (m, d) with the model's encoder; see ``encode_rows``."""
        if self.device is None:
            return encode_rows(self.model, x, k)
        with torch.no_grad():
            return self._encoder.encode(x, k)

    def support(self, x: Any, k: int) -> Any:
        """Choose latents (m, k) int32 of unit rows x (m, d), in the order of their choice."""
        if not self.pursuit:
            return self.encode(x, k)[0]
        if self._dictionary is not None:
            return select_latents(x, self._dictionary, k, self.beam)  # A GPU's beam is 1.
        return pursue(x, self.decoder, pursuit_schedule(k))[0]

    def code(self, x: Any, k: int) -> tuple[Any, Any]:
        """Encode unit rows x (m, d): latents and values (m, k) by descending |value|."""
        if self.pursuit or self.refit:
            return self.values(self.weigh(x), self.support(x, k))
        return self.encode(x, k)

    def values(self, weighted: Any, ids: Any) -> tuple[Any, Any]:
        """Fit least-squares values to latents ids (m, k) of weighted rows (m, d).

        Returns both by descending |value|.
        """
        values = refit(weighted, ids, self.weighted_decoder, _RIDGE)
        if self.device is not None:
            order = values.abs().argsort(dim=1, descending=True, stable=True)
            return ids.gather(1, order), values.gather(1, order)
        order = np.argsort(-np.abs(values), axis=1, kind="stable")
        return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)

    def error_reduction(self, x: Any, ids: Any) -> Any:
        """Reduction of the weighted squared error by each successive latent (m, k) float32."""
        return error_reduction(self.weigh(x), ids, self.weighted_decoder, _RIDGE)

    def scales(self, x: Any, ids: Any, values: Any) -> Any:
        """Factors (m,) float32 of plain codes: their gains, or 1/‖x̂‖ of the encoder's values."""
        if self.pursuit or self.refit:
            return self.gains(self.weigh(x), decode(ids, values, self.weighted_decoder))
        length = namespace(x).linalg.norm(decode(ids, values, self.decoder), axis=1)
        return _ratio(namespace(x).ones_like(length), length)

    @cached_property
    def _unweighting(self) -> Any:
        """Inverse square (d, d) of the error weighting: panels on the CPU, else on the device."""
        squared = self.error_weighting.astype(np.float64) @ self.error_weighting
        inverse = np.linalg.pinv(squared, hermitian=True).astype(np.float32)
        return Panels.of(inverse) if self.device is None else self.put(inverse)

    def products(self, x: Any, *parts: Any) -> list[Any]:
        """Products (m,) that say the squared error of parts of weighted rows x.

        Errors along the row itself count ``parallel_weight`` more: the products are those under
        A² + w·x̄x̄ᵀ, where A is the error weighting and x̄ the unit row.

        Args:
            x: (m, d) weighted rows.
            parts: one or two arrays (m, d), weighted.

        Returns:
            Of one part c: c·c and x·c. Of c and r: c·c, c·r, r·r, x·c and x·r.
        """
        dots = partial(namespace(x).einsum, "nd,nd->n")
        pairs = combinations_with_replacement
        products = [dots(*pair) for pair in pairs(parts, 2)] + [dots(x, part) for part in parts]
        if not self.parallel_weight:
            return products
        own = matmul(x, self._unweighting) if self.device is None else x @ self._unweighting
        along = [dots(own, part) for part in parts]  # Of rows and parts that are not weighted.
        others = [a * b for a, b in pairs(along, 2)] + along
        return [a + self.parallel_weight * b for a, b in zip(products, others, strict=True)]

    def gains(self, x: Any, reconstruction: Any) -> Any:
        """Gains (m,) float32: the factor of least error of each weighted reconstruction.

        Args:
            x: (m, d) weighted rows.
            reconstruction: (m, d) weighted.
        """
        own, along = self.products(x, reconstruction)
        return _ratio(along, own)

    def scaled_gains(self, x: Any, reconstruction: Any, residual: Any) -> tuple[Any, Any, Any]:
        """Gains and scales of least error: x ≈ gain·(reconstruction + scale·residual).

        Args:
            x, reconstruction, residual: (m, d) weighted.

        Returns:
            Gains (r,), scales (r,) and gain²·‖residual‖² (r,), float32, as ``products`` measure, of
            the rows that have them: those whose residual is neither 0 nor along the reconstruction.
        """
        a, b, c, along, beside = self.products(x, reconstruction, residual)
        size, first = a * c - b * b, along * c - beside * b
        has_both = (size > _ALONG * a * c) & (first > 0)
        a, b, c, along, beside, size, first = (
            products[has_both] for products in (a, b, c, along, beside, size, first)
        )
        gains = first / size
        return gains, (beside * a - along * b) / first, gains * gains * c


def _ratio(a: Any, b: Any) -> Any:
    """Divide a by b where b is above 0; 1 elsewhere."""
    where = namespace(a).where
    return where(b > 0, a / where(b > 0, b, 1), 1)


def fit_row_quantizer(
    coder: Coder,
    x: np.ndarray,
    nonzeros: int,
    value_bits: float,
    residual_bytes: int,
    typical: int | None = None,
    lengths: np.ndarray | None = None,
    longest: float = 1.0,
) -> RowQuantizer:
    """Fit a row quantiser to a sample of unit rows.

    Args:
        coder: the coder of the table.
        x: (m, d) float32, the sample.
        nonzeros: K, the largest number of nonzeros of a row.
        value_bits: bits of a value, on average over a row of ``typical`` nonzeros.
        residual_bytes: bytes of a row's residual code.
        typical: nonzeros of most rows; K when None.
        lengths: (m,) by which rows are multiplied, for dot products; None for cosine.
        longest: largest length of the table.

    Raises:
        InputError: fewer than 256 rows for residual codes; or more latents than packed ids can
            name.

    >>> model = CompresSAE(dim=4, latents=16, nonzeros=2)
    >>> coder = Coder(model, np.eye(4, dtype=np.float32), pursuit=True)
    >>> x = np.random.default_rng(0).standard_normal((300, 4), dtype=np.float32)
    >>> x /= np.linalg.norm(x, axis=1, keepdims=True)
    >>> quantizer = fit_row_quantizer(coder, x, nonzeros=2, value_bits=2, residual_bytes=1)
    >>> quantizer.layout.lengths  # Bytes of a row of 0, 1 and 2 nonzeros.
    array([2, 3, 4])
    """
    m, d = x.shape
    if residual_bytes and m < 256:
        raise InputError(f"{m} rows: residual codes are trained on at least 256; use none")
    latents = coder.model.latents
    check_latents(latents)

    # Fit the levels of each rank to the least-squares values, then quantise those jointly.
    x = coder.put(x)
    weighted, decoder = coder.weigh(x), coder.weighted_decoder
    support = coder.support(x, nonzeros)
    ids, values = coder.values(weighted, support)
    value_array = fetch(values)
    levels, bits = fit_levels(value_array, value_bits, typical or nonzeros)
    codes = quantize_on_support(weighted, ids, values, decoder, levels, 1 << bits)

    # Joint quantisation assigns other values to a level: move each level to their mean, repeat.
    for _ in range(_LEVEL_ROUNDS):
        numbers = fetch(codes)
        for rank, size in enumerate(1 << bits):
            counts = np.bincount(numbers[:, rank], minlength=size)
            sums = np.bincount(numbers[:, rank], value_array[:, rank], minlength=size)
            is_used = counts > 0
            levels[rank, :size][is_used] = (sums / np.maximum(counts, 1))[is_used]
        codes = quantize_on_support(weighted, ids, values, decoder, levels, 1 << bits)

    # Fit the residual's rotation and centroids to what the quantised nonzeros leave. For cosine
    # residuals are directions: the gain byte says their scale.
    is_scaled = residual_bytes > 0 and lengths is None
    if is_scaled and typical not in (None, nonzeros):
        reconstruction = _of_any_length(coder, weighted, support, levels, 1 << bits)
    else:
        reconstruction = decode(ids, level_values(levels, codes), decoder)
    rotation = np.empty((d, 0), np.float32)
    codebooks = np.empty((0, 256, 0), np.float32)
    residual = weighted - reconstruction
    if is_scaled:
        residual = directions(residual)
    if residual_bytes:
        rotation, codebooks = fit_residual(fetch(residual), residual_bytes)
    inverse_weighting = np.linalg.inv(coder.error_weighting.astype(np.float64)).astype(np.float32)
    quantizer = RowQuantizer(
        latents=latents,
        error_weighting=coder.error_weighting,
        levels=levels,
        value_bits=bits,
        gains=np.ones(256, np.float32),
        project=rotation,
        restore=rounded_columns(inverse_weighting @ rotation),
        codebooks=codebooks,
        scales=np.ones(256, np.float32),
    )

    # Fit the gains that the gain bytes stand for.
    decoded = _decoded(quantizer, quantizer.encode_residual(residual))
    if is_scaled:
        gains, scales, energies = map(fetch, coder.scaled_gains(weighted, reconstruction, decoded))
        if len(gains) == 0:  # Nonzeros leave nothing but a gain.
            gains, scales = fetch(coder.gains(weighted, reconstruction)), np.zeros(1)
        energy = float(np.median(energies)) if len(energies) else 0.0
        gains, scales = fit_scaled_gains(gains, scales, energy)
        return replace(quantizer, gains=gains, scales=scales)
    gains = fetch(coder.gains(weighted, reconstruction + decoded))
    if lengths is None:
        fitted = fit_gains(gains)
    else:
        fitted = fit_length_gains(gains * lengths, longest * float(gains.max()))
    return replace(quantizer, gains=fitted)


def pack_rows(
    coder: Coder, quantizer: RowQuantizer, weighted: Any, lengths: Any, ids: Any, values: Any
) -> np.ndarray:
    """Pack rows to bytes (m, quantizer.layout.lengths[k]) uint8.

    Args:
        coder: the coder of the table.
        quantizer: the quantiser of the table.
        weighted: (m, d) unit rows, times the error weighting.
        lengths: (m,) by which they are multiplied; 1 for cosine.
        ids: (m, k) latents by descending |value|; k ≤ K.
        values: (m, k).
    """
    decoder, sizes = coder.weighted_decoder, 1 << quantizer.value_bits
    codes = quantize_on_support(weighted, ids, values, decoder, quantizer.levels, sizes)
    reconstruction = decode(ids, quantizer.values_of(codes), decoder)
    aim = weighted
    if quantizer.says_lengths and quantizer.residual_bytes:
        aim = _over_gains(weighted, lengths, quantizer.gains)
    residual = aim - reconstruction
    if quantizer.is_scaled:
        residual = directions(residual)
    residual_codes = quantizer.encode_residual(residual)
    decoded = _decoded(quantizer, residual_codes)
    if quantizer.is_scaled:
        products = coder.products(weighted, reconstruction, decoded)
        gain_bytes = quantizer.encode_scaled_gain(namespace(weighted).stack(products, 1))
    else:
        gains = coder.gains(weighted, reconstruction + decoded) * lengths
        _check_gains(gains, quantizer)
        gain_bytes = quantizer.encode_gain(gains)
    head = namespace(weighted).concatenate([residual_codes, gain_bytes[:, None]], axis=1)
    return fetch(packed.pack(head, ids, codes, quantizer.layout))


def _check_gains(gains: Any, quantizer: RowQuantizer) -> None:
    """Refuse gains of dot products that are beyond the largest.

    Raises:
        InputError: see above.
    """
    if quantizer.says_lengths and len(gains) and float(gains.max()) > _BEYOND * quantizer.gains[-1]:
        raise InputError(
            f"a row that takes a gain of {float(gains.max()):.4g}; these codes hold gains up to "
            f"{quantizer.gains[-1]:.4g}; compress the whole table again"
        )


def _over_gains(weighted: Any, lengths: Any, gains: np.ndarray) -> Any:
    """Rows (m, d) times their lengths over the nearest of gains (256,), so that residual codes make
    up for the rounding; lengths beyond the gains are left to those."""
    nearest = level_values(gains[None], length_codes(gains, lengths)[:, None])[:, 0]
    return weighted * _ratio(lengths, nearest).clip(1 / _BEYOND, _BEYOND)[:, None]


def _of_any_length(
    coder: Coder, weighted: Any, support: Any, levels: np.ndarray, sizes: np.ndarray
) -> Any:
    """Reconstructions (m, d), weighted, from the first 1, 2, … K and again 1, 2, … latents of rows:
    those of a budget, which differ in k."""
    reconstruction = namespace(weighted).zeros_like(weighted)
    decoder, (n, most) = coder.weighted_decoder, support.shape
    for k in range(1, min(n, most) + 1):
        rows = coder.put(np.arange(k - 1, n, most))
        own = weighted[rows]
        ids, values = coder.values(own, support[rows, :k])
        codes = quantize_on_support(own, ids, values, decoder, levels, sizes)
        reconstruction[rows] = decode(ids, level_values(levels, codes), decoder)
    return reconstruction


def _decoded(quantizer: RowQuantizer, codes: Any) -> Any:
    """Weighted residuals (m, d) of their codes; 0 without residual codes."""
    return quantizer.decode_residual(codes, weighted=True) if quantizer.residual_bytes else 0
