"""Tables kept as sparse codes, whose decoder can go on being trained."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.compress import PackedType, compress
from compressae.config import TrainConfig
from compressae.kernels.packed import BLOCK, SPARE
from compressae.retrieval.errors import InputError
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.quantizer import id_bits
from compressae.tables.base import Table, dense_rows
from compressae.training import train

#: Bytes of the gains.
_GAINS = 4 * 256
#: Nonzeros that a dictionary is learned with at most: more take longer and change little.
_TRAINED_NONZEROS = 32
#: Rows that the levels are made for.
_SAMPLE_ROWS = 8192


class CodedTable(Table):
    """Row i = gains[g_i] · Σ_r levels[r, c_ir] · decoder[l_ir]: packed sparse codes, read in place.

    The latents l, level numbers c and gain numbers g are integers, packed as ``PackedCodes`` are,
    and stay. What all rows share is trained: ``decoder`` (h, d), ``levels`` (K, L) and ``gains``
    (256,). So a loss can be lowered *through* codes that are made already.

    Args:
        codes: of n rows, without residual codes.
        decoder: (h, d) floats.
        padding_idx: see ``Table``.
        device, dtype: of the parameters.

    Raises:
        InputError: codes with residual codes, or another number of latents than the decoder's.
    """

    data: Tensor
    counts: Tensor | None
    blocks: Tensor
    value_bits: Tensor

    def __init__(
        self,
        codes: PackedCodes,
        decoder: Any,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        rows = dense_rows(decoder)
        super().__init__(len(codes), rows.shape[1], padding_idx)
        quantizer = codes.quantizer
        if quantizer.residual_bytes or codes.latents != len(rows):
            raise InputError(
                f"codes of {codes.latents} latents and {quantizer.residual_bytes} residual bytes "
                f"with a decoder of {len(rows)} rows: expected as many latents as rows, and no "
                "residual bytes; encode the table for it"
            )
        self.decoder, self.levels, self.gains = (
            nn.Parameter(torch.as_tensor(part).to(device, dtype, copy=True))
            # Levels that no row uses are infinite there.
            for part in (
                rows,
                np.where(np.isinf(quantizer.levels), 0, quantizer.levels),
                quantizer.gains,
            )
        )
        self._id_bits = quantizer.layout.id_bits
        counts = None if codes.counts is None else torch.from_numpy(codes.counts.copy()).to(device)
        self.register_buffer("data", torch.from_numpy(codes.data.copy()).to(device))
        self.register_buffer("counts", counts)
        self.register_buffer("blocks", torch.from_numpy(codes.rows.blocks.copy()).to(device))
        bits = torch.from_numpy(quantizer.value_bits.astype(np.uint8)).to(device)
        self.register_buffer("value_bits", bits)

    @classmethod
    def from_dense(
        cls,
        source: Any,
        nbytes: int,
        latents: int | None = None,
        values: PackedType | None = None,
        weights: Any = None,
        padding_idx: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> "CodedTable":
        """The sparse codes of trained rows that fit in ``nbytes``, all that is stored counted.

        A dictionary is learned from the rows (``train``, recipe "pursuit"), nonzeros are given to
        the rows where they lessen the error most (``compress`` with a budget), and a row's length
        goes into its gain. The bytes are those of ``export()``: the decoder counts two a number.

        Args:
            source: as in ``dense_rows``; rows of zeros stay zeros.
            nbytes: the budget; of more than d/2 nonzeros a row it is not used up.
            latents: h, whose decoder takes 2·h·d bytes of the budget; None: the power of two from
                16 to 2048 with which it takes a sixth at most.
            values: bits of a nonzero's value on average: "int4", "int3" or "int2"; None: two, or
                four where rows would have more than d/3 nonzeros, of which more say little.
            weights: (n,) importance of rows, ≥ 0, such as how often they are seen; even when None.
            padding_idx: see ``Table``.
            seed: of the dictionary.
            progress: called after each batch that is coded with (rows done, rows to do).

        Raises:
            InputError: too few bytes for the decoder and one nonzero a row, or more than any codes
                take; weights that do not fit.
        """
        rows = dense_rows(source).float().cpu().numpy()
        lengths = np.linalg.norm(rows, axis=1)
        if not lengths.any():
            raise InputError("rows are all zeros: expected a trained table")
        # A row of zeros has no direction: it is coded as some other, with gain 0.
        units = np.where(lengths[:, None] > 0, rows, rows[lengths.argmax()])
        n, d = rows.shape
        if latents is None:
            latents = 1 << int(np.clip(np.log2(max(1, nbytes / (12 * d))), 4, 11))
        left = nbytes - 2 * latents * d - _GAINS
        if left < n:
            raise InputError(
                f"{nbytes} bytes for {n} rows: a decoder of {latents} latents and the gains take "
                f"{nbytes - left} and each row one or more; give more, or fewer latents"
            )
        if values is None:
            values = "int2" if 8 * left / n / (id_bits(latents) + 2) <= d / 3 else "int4"
        # Above d/2 nonzeros more add error: what is left of so many bytes stays unused.
        each = id_bits(latents) + int(values[3:])
        typical = min(8 * left / n / each, d / 2)
        of_rows = min(left, int(n * (2 + typical * each / 8)))
        nonzeros = int(np.clip(typical, 1, min(latents, _TRAINED_NONZEROS)))
        model = train(units, TrainConfig(latents, nonzeros, seed=seed))
        # Some rows first: their quantiser is that of all, and so its bytes are known.
        some = units[np.unique(np.linspace(0, n - 1, min(n, _SAMPLE_ROWS)).astype(int))]
        like = compress(model, some, values, budget=of_rows * len(some) // n)
        assert isinstance(like, PackedCodes)
        shared = cls(like, model.decoder).export().nbytes - like.nbytes
        budget = nbytes - left + of_rows - shared
        codes = compress(model, units, like=like, budget=budget, weights=weights, progress=progress)
        assert isinstance(codes, PackedCodes)
        return cls(_with_lengths(codes, lengths), model.decoder, padding_idx)

    def export(self) -> "CodedTable":
        """The same with the decoder in float16 and nothing to train: what is to be stored."""
        table = copy.deepcopy(self).requires_grad_(False)
        table.decoder.data = table.decoder.data.half()
        return table

    @property
    def nonzeros(self) -> Tensor:
        """(n,) int64 nonzeros of each row."""
        if self.counts is None:
            return self.value_bits.new_full((self.num_embeddings,), len(self.value_bits)).long()
        return self.counts.long()

    def _lookup(self, ids: Tensor) -> Tensor:
        if self.counts is None:
            stride = int(self._lengths()[-1])
            return self._read(ids * stride, torch.full_like(ids, len(self.value_bits)))
        # A row begins where its block does, and after the rows before it in the block.
        first = ids // BLOCK * BLOCK
        others = first[:, None] + torch.arange(BLOCK, device=ids.device)
        sizes = self._lengths()[self.counts[others.clamp(max=self.num_embeddings - 1)].long()]
        starts = self.blocks[ids // BLOCK] + sizes.masked_fill(others >= ids[:, None], 0).sum(1)
        return self._read(starts, self.counts[ids].long())

    def _all_rows(self) -> Tensor:
        counts = self.nonzeros
        sizes = self._lengths()[counts]
        return self._read(sizes.cumsum(0) - sizes, counts)

    def _shifts(self) -> Tensor:
        """(K + 1,) int64: the bit at which a row's r-th nonzero starts; the last is the end."""
        return functional.pad((self.value_bits.long() + self._id_bits).cumsum(0), (1, 0))

    def _lengths(self) -> Tensor:
        """(K + 1,) int64: bytes of a row of k nonzeros."""
        return 1 + (self._shifts() + 7) // 8

    def _read(self, starts: Tensor, counts: Tensor) -> Tensor:
        """Rows (m, d) of ``counts`` (m,) nonzeros that begin at bytes ``starts`` (m,)."""
        offsets = counts.cumsum(0) - counts
        owner = torch.repeat_interleave(counts)
        ranks = torch.arange(len(owner), device=owner.device) - offsets[owner]
        bits = 8 * (starts[owner] + 1) + self._shifts()[ranks]
        place, shift = bits >> 3, bits & 7
        word = sum(self.data[place + b].long() << 8 * b for b in range(SPARE)) >> shift
        latents = word & ((1 << self._id_bits) - 1)
        codes = (word >> self._id_bits) & ((1 << self.value_bits.long()[ranks]) - 1)
        scale = self.gains[self.data[starts].long()]
        values = self.levels[ranks, codes] * scale[owner]
        decoder = self.decoder.to(values.dtype)
        return functional.embedding_bag(
            latents, decoder, offsets, per_sample_weights=values, mode="sum"
        )


def _with_lengths(codes: PackedCodes, lengths: np.ndarray) -> PackedCodes:
    """Codes of unit rows as those of rows of lengths (n,), which go into the gains.

    The 255 gains above 0 are in geometric progression: each length is off by the same part at most.
    """
    gains = codes.gains() * lengths
    low, high = np.quantile(gains[gains > 0], [0, 1])
    grid = np.concatenate([[0], np.geomspace(low, high, 255)]).astype(np.float32)
    middles = np.sqrt(grid[1:-1] * grid[2:])
    numbers = np.where(gains > 0, 1 + np.searchsorted(middles, gains), 0)
    sizes = codes.rows.layout.lengths[codes.nonzeros]
    data = codes.data.copy()
    data[np.cumsum(sizes) - sizes] = numbers
    return replace(codes, data=data, quantizer=replace(codes.quantizer, gains=grid))
