"""From rows to nonzeros, and from nonzeros to bytes."""

import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from compressae.kernels import packed
from compressae.kernels.backend import fetch, namespace, put
from compressae.kernels.decode import decode
from compressae.kernels.pursuit import pursue, pursuit_schedule
from compressae.kernels.quantize import quantize_on_support
from compressae.kernels.refit import error_reduction, refit
from compressae.model import CompresSAE
from compressae.retrieval.codes.quantizer import (
    RowQuantizer,
    fit_levels,
    fit_residual,
    level_values,
)
from compressae.retrieval.codes.size import check_latents
from compressae.retrieval.errors import InputError

#: Rounds in which levels become the means of the values that took them.
_LEVEL_ROUNDS = 2
_RIDGE = 1e-4


def encode_rows(model: CompresSAE, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's code of unit rows x (m, d): ids (m, k) int32 and values (m, k) float32."""
    with torch.no_grad():
        ids, values = model.encode(torch.from_numpy(x).to(model.encoder.device), k)
    return fetch(ids), fetch(values)


@dataclass(frozen=True, eq=False)
class Coder:
    """Encoder of the rows of one table.

    Reconstruction errors are weighted by a matrix (see ``fit_error_weighting``): rows and decoder
    are multiplied by it once, which leaves plain least squares. Methods take and return arrays, or
    tensors where the coder has a device: see ``put``.

    Attributes:
        model: its decoder (and, without pursuit, its encoder) is used.
        error_weighting: (d, d) float32.
        pursuit: choose latents by orthogonal matching pursuit; else by the encoder, in one shot.
        refit: take least-squares values; else, without pursuit, the encoder's.
        device: device of the tensors; None for arrays on the CPU.
    """

    model: CompresSAE
    error_weighting: np.ndarray
    pursuit: bool
    refit: bool = True
    device: torch.device | None = None

    def put(self, array: np.ndarray) -> Any:
        """An array as this coder takes it."""
        return put(array, self.device)

    @cached_property
    def decoder(self) -> Any:
        """(h, d) float32 unit rows."""
        decoder = self.model.decoder.detach()
        return decoder.cpu().numpy() if self.device is None else decoder.to(self.device)

    @cached_property
    def weighted_decoder(self) -> Any:
        """(h, d) float32, times the error weighting."""
        return self.weigh(self.decoder)

    @cached_property
    def _placed_weighting(self) -> Any:
        return self.put(self.error_weighting)

    def weigh(self, x: Any) -> Any:
        """Rows x (m, d) times the error weighting."""
        return x @ self._placed_weighting

    @cached_property
    def _encoder(self) -> CompresSAE:
        """The model on the coder's device; the user's own stays where it is."""
        if self.device == self.model.encoder.device:
            return self.model
        return copy.deepcopy(self.model).to(self.device)

    def encode(self, x: Any, k: int) -> tuple[Any, Any]:
        """The encoder's latents (m, k) int32 and values (m, k) float32 by descending |value|."""
        if self.device is None:
            return encode_rows(self.model, x, k)
        with torch.no_grad():
            return self._encoder.encode(x, k)

    def support(self, x: Any, k: int) -> Any:
        """Latents (m, k) int32 of unit rows x (m, d), those chosen first first."""
        if self.pursuit:
            return pursue(x, self.decoder, pursuit_schedule(k))[0]
        return self.encode(x, k)[0]

    def code(self, x: Any, k: int) -> tuple[Any, Any]:
        """Latents (m, k) int32 and values (m, k) float32 by descending |value|."""
        if self.pursuit or self.refit:
            return self.values(x, self.support(x, k))
        return self.encode(x, k)

    def values(self, x: Any, ids: Any) -> tuple[Any, Any]:
        """The same latents with least-squares values, by descending |value|."""
        values = refit(self.weigh(x), ids, self.weighted_decoder, _RIDGE)
        if self.device is not None:
            order = values.abs().argsort(dim=1, descending=True, stable=True)
            return ids.gather(1, order), values.gather(1, order)
        order = np.argsort(-np.abs(values), axis=1, kind="stable")
        return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)

    def error_reduction(self, x: Any, ids: Any) -> Any:
        """(m, k) float32: by how much each latent in turn lessens the weighted squared error."""
        return error_reduction(self.weigh(x), ids, self.weighted_decoder, _RIDGE)

    def scales(self, x: Any, ids: Any, values: Any) -> Any:
        """Factors (m,) float32 of codes that are not packed: their gains, or, of the encoder's own
        values, what makes x̂ a unit vector."""
        if self.pursuit or self.refit:
            return self.gains(self.weigh(x), decode(ids, values, self.weighted_decoder))
        length = namespace(x).linalg.norm(decode(ids, values, self.decoder), axis=1)
        return _ratio(namespace(x).ones_like(length), length)

    def gains(self, x: Any, reconstruction: Any) -> Any:
        """Least-squares factors (m,) float32 of weighted reconstructions of weighted rows."""
        dots = partial(namespace(x).einsum, "nd,nd->n")
        return _ratio(dots(x, reconstruction), dots(reconstruction, reconstruction))


def _ratio(a: Any, b: Any) -> Any:
    """a / b where b is above 0, else 1."""
    where = namespace(a).where
    return where(b > 0, a / where(b > 0, b, 1), 1)


def fit_quantizer(
    coder: Coder,
    x: np.ndarray,
    nonzeros: int,
    value_bits: float,
    residual_bytes: int,
    typical: int | None = None,
) -> RowQuantizer:
    """A row quantiser from a sample x (m, d) of unit rows.

    Args:
        coder: of the table.
        x: the sample.
        nonzeros: K, the most of a row.
        value_bits: a nonzero, on average over a row of ``typical`` nonzeros (of K when None).
        residual_bytes: m.
        typical: see there.

    Raises:
        InputError: too few rows to train residual codes; more latents than packed ids can name.
    """
    m, d = x.shape
    if residual_bytes and m < 256:
        raise InputError(f"{m} rows: residual codes are trained on at least 256; use none")
    latents = coder.model.latents
    check_latents(latents)
    x = coder.put(x)
    weighted, decoder = coder.weigh(x), coder.weighted_decoder
    ids, values = coder.code(x, nonzeros)
    known = fetch(values)
    levels, bits = fit_levels(known, value_bits, typical or nonzeros)
    codes = quantize_on_support(weighted, ids, values, decoder, levels, 1 << bits)
    for _ in range(_LEVEL_ROUNDS):
        numbers = fetch(codes)
        for rank, size in enumerate(1 << bits):
            number = np.bincount(numbers[:, rank], minlength=size)
            total = np.bincount(numbers[:, rank], known[:, rank], minlength=size)
            used = number > 0
            levels[rank, :size][used] = (total / np.maximum(number, 1))[used]
        codes = quantize_on_support(weighted, ids, values, decoder, levels, 1 << bits)
    reconstruction = decode(ids, level_values(levels, codes), decoder)
    rotation = np.empty((d, 0), np.float32)
    codebooks = np.empty((0, 256, 0), np.float32)
    if residual_bytes:
        rotation, codebooks = fit_residual(fetch(weighted - reconstruction), residual_bytes)
    back = np.linalg.inv(coder.error_weighting.astype(np.float64)).astype(np.float32)
    quantizer = RowQuantizer(
        latents=latents,
        error_weighting=coder.error_weighting,
        levels=levels,
        value_bits=bits,
        gains=np.ones(256, np.float32),
        project=rotation,
        restore=back @ rotation,
        codebooks=codebooks,
    )
    gains = fetch(_close(coder, quantizer, weighted, reconstruction)[1])
    low, high = np.quantile(gains, [0.001, 0.999])
    quantizer.gains[:] = np.linspace(low, max(high, low + 1e-6), 256)
    return quantizer


def pack_rows(coder: Coder, quantizer: RowQuantizer, x: Any, ids: Any, values: Any) -> np.ndarray:
    """Unit rows x (m, d) with their nonzeros (m, k), by descending |value|, as bytes (m, …)."""
    weighted, decoder = coder.weigh(x), coder.weighted_decoder
    sizes = 1 << quantizer.value_bits
    codes = quantize_on_support(weighted, ids, values, decoder, quantizer.levels, sizes)
    reconstruction = decode(ids, quantizer.values_of(codes), decoder)
    parts, gains = _close(coder, quantizer, weighted, reconstruction)
    head = namespace(x).concatenate([parts, quantizer.encode_gain(gains)[:, None]], axis=1)
    return fetch(packed.pack(head, ids, codes, quantizer.layout))


def _close(
    coder: Coder, quantizer: RowQuantizer, weighted: Any, reconstruction: Any
) -> tuple[Any, Any]:
    """Residual codes (m, residual_bytes) of what a reconstruction leaves, and the gains (m,) of
    both together."""
    parts = quantizer.encode_residual(weighted - reconstruction)
    if quantizer.residual_bytes:
        reconstruction = reconstruction + coder.weigh(quantizer.decode_residual(parts))
    return parts, coder.gains(weighted, reconstruction)
