"""From rows to nonzeros, and from nonzeros to bytes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from compressae.kernels import packed
from compressae.kernels.decode import decode
from compressae.kernels.pursuit import pursue
from compressae.kernels.quantize import quantize_on_support
from compressae.kernels.refit import explained, refit
from compressae.model import CompresSAE
from compressae.retrieval.errors import InputError
from compressae.retrieval.quantizer import RowQuantizer, fit_levels, fit_residual, id_bits

#: Most steps of a pursuit; a larger k takes several latents a step.
_STEPS = 64
#: Rounds in which levels become the means of the values that took them.
_LEVEL_ROUNDS = 2
_RIDGE = 1e-4


def pursuit_counts(k: int, steps: int = _STEPS) -> list[int]:
    """Latents added in each step: as even as can be, the smaller steps first."""
    steps = min(steps, k)
    return [k // steps + (step >= steps - k % steps) for step in range(steps)]


def encode_rows(model: CompresSAE, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's code of unit rows x (m, d): ids (m, k) int32 and values (m, k) float32."""
    device = model.encoder.device
    with torch.no_grad():
        ids, values = model.encode(torch.from_numpy(x).to(device), k)
    return ids.cpu().numpy(), values.cpu().numpy()


@dataclass(frozen=True, eq=False)
class Coder:
    """Codes rows of one table.

    Errors of a reconstruction are weighed by ``metric`` (see ``metric_of``): rows and decoder are
    multiplied by it once, after which plain least squares is meant.

    Attributes:
        model: its decoder (and, without pursuit, its encoder) is used.
        metric: (d, d) float32.
        pursuit: choose latents by orthogonal matching pursuit; else by the encoder at once.
        refit: take least-squares values; else, without pursuit, the encoder's.
    """

    model: CompresSAE
    metric: np.ndarray
    pursuit: bool
    refit: bool = True

    @cached_property
    def decoder(self) -> np.ndarray:
        """(h, d) float32 unit rows."""
        return self.model.decoder.detach().cpu().numpy()

    @cached_property
    def weighted_decoder(self) -> np.ndarray:
        """(h, d) float32, times the metric."""
        return self.decoder @ self.metric

    def support(self, x: np.ndarray, k: int) -> np.ndarray:
        """Latents (m, k) int32 of unit rows x (m, d), those chosen first first."""
        if self.pursuit:
            return pursue(x, self.decoder, pursuit_counts(k))[0]
        return encode_rows(self.model, x, k)[0]

    def code(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Latents (m, k) int32 and values (m, k) float32 by descending |value|."""
        if self.pursuit or self.refit:
            return self.values(x, self.support(x, k))
        return encode_rows(self.model, x, k)

    def values(self, x: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same latents with least-squares values, by descending |value|."""
        values = refit(x @ self.metric, ids, self.weighted_decoder, _RIDGE)
        order = np.argsort(-np.abs(values), axis=1, kind="stable")
        return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)

    def marginal_gains(self, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """(m, k) float32: by how much each latent in turn lessens the weighted squared error."""
        return explained(x @ self.metric, ids, self.weighted_decoder, _RIDGE)

    def scales(self, x: np.ndarray, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Factors (m,) float32 of codes that are not packed: their gains, or, of the encoder's own
        values, what makes x̂ a unit vector."""
        if self.pursuit or self.refit:
            return self.gains(x @ self.metric, decode(ids, values, self.weighted_decoder))
        length = np.linalg.norm(decode(ids, values, self.decoder), axis=1)
        return np.divide(1, length, out=np.ones_like(length), where=length > 0)

    def gains(self, x: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
        """Least-squares factors (m,) float32 of weighted reconstructions of weighted rows."""
        fit = np.einsum("nd,nd->n", x, reconstruction)
        size = np.einsum("nd,nd->n", reconstruction, reconstruction)
        return np.divide(fit, size, out=np.ones_like(fit), where=size > 0)


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
    if id_bits(latents) + 8 > packed.MAX_BITS:
        raise InputError(
            f"{latents} latents: packed codes name at most {1 << (packed.MAX_BITS - 8)}; "
            "store the values as int8"
        )
    weighted, decoder = x @ coder.metric, coder.weighted_decoder
    ids, values = coder.code(x, nonzeros)
    levels, bits = fit_levels(values, value_bits, typical or nonzeros)
    codes = quantize_on_support(weighted, ids, values, decoder, levels, 1 << bits)
    for _ in range(_LEVEL_ROUNDS):
        for rank, size in enumerate(1 << bits):
            number = np.bincount(codes[:, rank], minlength=size)
            total = np.bincount(codes[:, rank], values[:, rank], minlength=size)
            used = number > 0
            levels[rank, :size][used] = (total / np.maximum(number, 1))[used]
        codes = quantize_on_support(weighted, ids, values, decoder, levels, 1 << bits)
    reconstruction = decode(ids, levels[np.arange(nonzeros), codes], decoder)
    rotation = np.empty((d, 0), np.float32)
    codebooks = np.empty((0, 256, 0), np.float32)
    if residual_bytes:
        rotation, codebooks = fit_residual(weighted - reconstruction, residual_bytes)
    back = np.linalg.inv(coder.metric.astype(np.float64)).astype(np.float32)
    quantizer = RowQuantizer(
        latents=latents,
        metric=coder.metric,
        levels=levels,
        value_bits=bits,
        gains=np.ones(256, np.float32),
        project=rotation,
        restore=back @ rotation,
        codebooks=codebooks,
    )
    gains = _close(coder, quantizer, weighted, reconstruction)[1]
    low, high = np.quantile(gains, [0.001, 0.999])
    quantizer.gains[:] = np.linspace(low, max(high, low + 1e-6), 256)
    return quantizer


def pack_rows(
    coder: Coder, quantizer: RowQuantizer, x: np.ndarray, ids: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Unit rows x (m, d) with their nonzeros (m, k), by descending |value|, as bytes (m, …)."""
    weighted, decoder = x @ coder.metric, coder.weighted_decoder
    sizes = 1 << quantizer.value_bits
    codes = quantize_on_support(weighted, ids, values, decoder, quantizer.levels, sizes)
    reconstruction = decode(ids, quantizer.values_of(codes), decoder)
    parts, gains = _close(coder, quantizer, weighted, reconstruction)
    head = np.concatenate([parts, quantizer.encode_gain(gains)[:, None]], axis=1)
    return packed.pack(head, ids, codes, quantizer.layout)


def _close(
    coder: Coder, quantizer: RowQuantizer, weighted: np.ndarray, reconstruction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Residual codes (m, residual_bytes) of what a reconstruction leaves, and the gains (m,) of
    both together."""
    parts = quantizer.encode_residual(weighted - reconstruction)
    if quantizer.residual_bytes:
        reconstruction = reconstruction + quantizer.decode_residual(parts) @ coder.metric
    return parts, coder.gains(weighted, reconstruction)
