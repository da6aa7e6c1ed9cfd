"""Tables of sparse codes with a trainable decoder."""

import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.coding.budget import check_importance
from compressae.coding.compress import compress
from compressae.kernels.packed import SPARE, Layout, unpack_at
from compressae.retrieval.codes.packed import PackedCodes
from compressae.retrieval.codes.size import (
    MOST_NONZEROS,
    PackedType,
    id_bits,
    mean_nonzeros,
    ragged_bytes,
    row_lengths,
    value_bits,
)
from compressae.retrieval.errors import InputError
from compressae.tables.base import Table, dense_rows, padding_of
from compressae.tables.ragged import row_starts
from compressae.training.config import TrainConfig
from compressae.training.loop import train

#: Bytes of the gains.
_GAINS = 4 * 256
#: Most nonzeros in training of the dictionary: more take longer and change little.
_TRAINED_NONZEROS = 32
#: Rows to which the levels are fitted.
_SAMPLE_ROWS = 8192
#: The fewest and the most latents, if unspecified.
_FEWEST, _MOST = 16, 2048
#: Rows shorter than this part of the longest get the least gain.
_SHORTEST = 1e-4


class CodedTable(Table):
    """Row i = gains[g_i] · Σ_r levels[r, c_ir] · decoder[l_ir]: packed codes, decoded on demand.

    The latents l, level numbers c and gain numbers g are integers, packed like ``PackedCodes``, and
    fixed. Shared parameters are trainable: ``decoder`` (h, d), ``levels`` (K, L) and ``gains``
    (256,). A loss can thus be minimised *through* existing codes; gradients are dense, as a batch
    of rows uses nearly all latents. Gains of zero stay zero.

    Args:
        codes: of n rows, without residual codes.
        decoder: (h, d) floats.
        padding_idx: see ``Table``.
        device: of the table; the decoder's when None.
        dtype: of the parameters.

    Raises:
        InputError: codes with residual codes, or another number of latents than the decoder's.

    >>> rows = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    >>> table = CodedTable.from_dense(rows, nbytes=8_000)
    >>> table(torch.tensor([[3, 499]])).shape
    torch.Size([1, 2, 16])
    >>> table.export().nbytes <= 8_000 < rows.nbytes
    True
    """

    decoder: nn.Parameter
    levels: nn.Parameter
    gains: nn.Parameter
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
        rows, quantizer = dense_rows(decoder), codes.quantizer
        if quantizer.residual_bytes or codes.latents != len(rows):
            raise InputError(
                f"codes of {codes.latents} latents and {quantizer.residual_bytes} residual bytes "
                f"with a decoder of {len(rows)} rows: expected as many latents as rows, and no "
                "residual bytes; compress the table without them"
            )
        buffers = {
            "data": codes.data,
            "counts": codes.counts,
            "blocks": codes.rows.blocks,
            "value_bits": quantizer.value_bits.astype(np.uint8),
        }
        parameters = {
            "decoder": rows,
            # Unused levels are infinite there.
            "levels": np.where(np.isinf(quantizer.levels), 0, quantizer.levels),
            "gains": quantizer.gains,
        }
        device = rows.device if device is None else device
        state = {
            name: torch.as_tensor(array).to(
                device, dtype if name in parameters else None, copy=True
            )
            for name, array in (buffers | parameters).items()
            if array is not None
        }
        self._set_state(state, padding_idx, trainable=True)

    def _set_state(
        self, state: dict[str, Tensor], padding_idx: int | None, trainable: bool
    ) -> None:
        """Construct the table from its tensors."""
        latents, d = state["decoder"].shape
        layout, counts = _layout(state["value_bits"], latents), state.get("counts")
        stride = int(layout.lengths[-1])
        n = (len(state["data"]) - SPARE) // stride if counts is None else len(counts)
        super().__init__(n, d, padding_idx)
        for name in ("data", "counts", "blocks", "value_bits"):
            self.register_buffer(name, state.get(name))
        for name in ("decoder", "levels", "gains"):
            self.register_parameter(name, nn.Parameter(state[name], requires_grad=trainable))
        self._layout = layout

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], padding_idx: int | None = None) -> Self:
        """Make a table from the ``state_dict()`` of another, copying its tensors.

        A decoder in float16, as of an exported table, gives no trainable parameters.

        Raises:
            InputError: a tensor is missing.
        """
        needed = {"data", "blocks", "value_bits", "decoder", "levels", "gains"}
        if missing := needed - set(state):
            raise InputError(
                f"a state without {', '.join(sorted(missing))}: expected a coded table's; give "
                "what its state_dict() returned"
            )
        table = cls.__new__(cls)
        state = {name: tensor.detach().clone() for name, tensor in state.items()}
        table._set_state(state, padding_idx, state["decoder"].dtype != torch.float16)
        return table

    @classmethod
    def from_dense(
        cls,
        source: Any,
        nbytes: int,
        latents: int | None = None,
        value_type: PackedType | None = None,
        importance: Any = None,
        padding_idx: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Compress trained rows to at most ``nbytes`` bytes, all that ``export`` returns counted.

        Trains a dictionary on the rows (``train``, recipe "pursuit"), allots nonzeros to the rows
        where they reduce the error most (``compress`` with a budget), and multiplies each row's
        gain by its length. The decoder counts two bytes a number.

        Args:
            source: as in ``dense_rows``; rows of zeros stay zeros.
            nbytes: the budget, ``least_bytes`` at least; bytes beyond d/2 nonzeros a row, or h/2,
                stay unused.
            latents: h, whose decoder takes 2·h·d bytes of the budget; None: the power of two from
                16 to 2048 with which it takes a sixth at most.
            value_type: average bits of a nonzero's value: "int4", "int3" or "int2"; None: two, or
                four if rows would have more than d/3 nonzeros, beyond which more help little.
            importance: (n,) weights of rows, ≥ 0, such as their frequencies; equal when None.
            padding_idx: see ``Table``.
            seed: of the dictionary.

        Raises:
            InputError: too few bytes; only rows of zeros; another value type; latents below 1,
                importance that does not match, or a negative seed.
        """
        dense = dense_rows(source)
        rows = dense.float().cpu().numpy()
        n, d = rows.shape
        if value_type is not None:
            value_bits(value_type)
        if (latents is not None and latents < 1) or seed < 0:
            raise InputError(f"{latents} latents, seed {seed}: expected 1 or more, and 0 or more")
        lengths = np.linalg.norm(rows, axis=1)
        nonzero = lengths > 0
        importance = check_importance(importance, n) * nonzero
        if not nonzero.any():
            raise InputError("rows are all zeros: expected a trained table")

        # The size of the decoder, and the bytes that it leaves.
        if latents is None:
            latents = 1 << int(np.log2(np.clip(nbytes / (12 * d), _FEWEST, _MOST)))
            while latents > _FEWEST and cls.least_bytes(n, d, latents) > nbytes:
                latents //= 2
        if nbytes < (least := cls.least_bytes(n, d, latents)):
            raise InputError(
                f"{nbytes} bytes for {n} rows of {d} in {latents} latents: expected {least} or "
                "more; give more, or fewer latents"
            )
        left = nbytes - 2 * latents * d - _GAINS

        # A dictionary for the mean nonzeros of a row; gains and counts are neglected.
        row_bytes = left / n + 1
        if value_type is None:
            value_type = "int2" if mean_nonzeros(row_bytes, latents, 2) <= d / 3 else "int4"
        bits = value_bits(value_type)
        most = max(1, min(d // 2, latents // 2, MOST_NONZEROS // 2))  # More add error.
        typical = min(mean_nonzeros(row_bytes, latents, bits), most, _TRAINED_NONZEROS)
        model = train(
            rows[nonzero], TrainConfig(latents, int(max(1, typical)), seed=seed, decoder_bits=32)
        )

        # Bytes of ``most`` nonzeros and a count in each row, one nonzero at least.
        sizes = row_lengths(latents, bits, 0, most).tolist()
        budget = min(left, max(n * (1 + sizes[-1]), ragged_bytes(n) + n * sizes[1]))

        # A sample first: its quantiser serves all rows, so the bytes of its levels are known.
        # A row of zeros has no direction: it is coded like the longest, in one nonzero, gain 0.
        units = np.where(nonzero[:, None], rows, rows[lengths.argmax()])
        sample = units[np.unique(np.linspace(0, n - 1, min(n, _SAMPLE_ROWS)).astype(int))]
        try:
            like = compress(model, sample, value_type, budget=budget * len(sample) // n)
            levels = cls(like, model.decoder).export().nbytes - like.nbytes - (nbytes - left)
            if left <= levels:
                raise InputError(
                    f"{levels} bytes of levels leave nothing for codes; give more bytes, fewer "
                    "latents or values of fewer bits"
                )
            budget = min(left - levels, budget)
            codes = compress(model, units, like=like, budget=budget, importance=importance)
        except InputError as error:
            raise InputError(
                f"{nbytes} bytes for {n} rows of {d} in {latents} latents, {value_type}: {error}"
            ) from error
        codes = _with_lengths(codes, lengths)
        return cls(codes, model.decoder, padding_of(source, padding_idx), dense.device)

    @staticmethod
    def least_bytes(n: int, d: int, latents: int = _FEWEST) -> int:
        """Bytes below which no codes of a table (n, d) fit; some need a few bytes a row more."""
        row = int(row_lengths(latents, 1, 0, 1)[-1])
        return 2 * latents * d + _GAINS + ragged_bytes(n) + n * row

    def export(self) -> Self:
        """Copy the table for storage: decoder in float16, no trainable parameters."""
        table = copy.deepcopy(self).requires_grad_(False)
        table.decoder.data = table.decoder.data.half()
        return table

    @property
    def nonzeros(self) -> Tensor:
        """(n,) int64 nonzeros of each row."""
        if self.counts is None:
            return self.value_bits.new_full((self.num_embeddings,), len(self.value_bits)).long()
        return self.counts.long()

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._layout = _layout(self.value_bits, len(self.decoder))

    def _lookup(self, ids: Tensor) -> Tensor:
        lengths = torch.as_tensor(self._layout.lengths, device=ids.device)
        if self.counts is None:
            return self._decode(ids * lengths[-1], torch.full_like(ids, len(lengths) - 1))
        starts = row_starts(ids, self.blocks, self.counts, lengths)
        return self._decode(starts, self.counts[ids].long())

    def _decode(self, starts: Tensor, counts: Tensor) -> Tensor:
        """Reconstruct rows (m, d) of ``counts`` (m,) nonzeros at bytes ``starts`` (m,)."""
        latents, codes = unpack_at(self.data, starts, counts, self._layout)
        offsets = counts.cumsum(0) - counts
        owner = torch.repeat_interleave(counts, output_size=len(latents))
        ranks = torch.arange(len(owner), device=owner.device) - offsets[owner]
        # A gain of zero gets no gradient: rows of zeros stay zeros.
        scale = (self.gains * (self.gains != 0))[self.data[starts].long()]
        values = self.levels[ranks, codes.long()] * scale[owner]
        decoder = self.decoder.to(values.dtype)
        return functional.embedding_bag(
            latents.long(), decoder, offsets, per_sample_weights=values, mode="sum"
        )


def _layout(value_bits: Tensor, latents: int) -> Layout:
    """Bit layout of rows without residual codes."""
    return Layout(id_bits(latents), value_bits.cpu().numpy().astype(np.int64), 1)


def _with_lengths(codes: PackedCodes, lengths: np.ndarray) -> PackedCodes:
    """Multiply the gains of codes of unit rows by lengths (n,).

    The 255 gains above 0 are in geometric progression from 1/10,000 of the largest: the error of a
    length above that is 2 % at most.
    """
    gains = codes.gains() * lengths
    largest = gains.max()
    low = max(gains[gains > 0].min(), _SHORTEST * largest)
    grid = np.concatenate([[0], np.geomspace(low, largest, 255)]).astype(np.float32)
    middles = np.sqrt(grid[1:-1] * grid[2:])
    numbers = np.where(gains > 0, 1 + np.searchsorted(middles, gains), 0)
    sizes = codes.rows.layout.lengths[codes.nonzeros]
    data = codes.data.copy()
    data[np.cumsum(sizes) - sizes] = numbers
    return replace(codes, data=data, quantizer=replace(codes.quantizer, gains=grid))
