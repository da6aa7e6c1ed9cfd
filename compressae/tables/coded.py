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
from compressae.coding.fit import fit_quantizer
from compressae.kernels.packed import SPARE, Layout, unpack_at
from compressae.kernels.product import recover_entries, round_directions
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
from compressae.tables.quantized import pack_int4, unpack_int4
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

    decoder: Tensor
    decoder_scales: Tensor | None
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
        latents, d = len(state["decoder"]), _width(state["decoder"])
        layout, counts = _layout(state["value_bits"], latents), state.get("counts")
        stride = int(layout.lengths[-1])
        n = (len(state["data"]) - SPARE) // stride if counts is None else len(counts)
        super().__init__(n, d, padding_idx)
        for name in ("data", "counts", "blocks", "value_bits"):
            self.register_buffer(name, state.get(name))
        for name in ("levels", "gains"):
            self.register_parameter(name, nn.Parameter(state[name], requires_grad=trainable))
        self._set_decoder(state["decoder"], state.get("decoder_scales"), trainable)
        self._layout = layout

    def _set_decoder(self, decoder: Tensor, scales: Tensor | None, trainable: bool = False) -> None:
        """Register a decoder of floats (h, d), or of packed numbers (h, ⌈d/2⌉) with scales (h,)."""
        self.register_buffer("decoder_scales", scales)
        if scales is None:
            self.register_parameter("decoder", nn.Parameter(decoder, requires_grad=trainable))
        else:
            self.register_buffer("decoder", decoder)

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], padding_idx: int | None = None) -> Self:
        """Make a table from the ``state_dict()`` of another, copying its tensors.

        A stored decoder, in 4 bits or as before in float16, gives no trainable parameters.

        Raises:
            InputError: a tensor is missing.
        """
        needed = {"data", "blocks", "value_bits", "decoder", "levels", "gains"}
        if "decoder" in state and state["decoder"].dtype == torch.uint8:
            needed |= {"decoder_scales"}
        if missing := needed - set(state):
            raise InputError(
                f"a state without {', '.join(sorted(missing))}: expected a coded table's; give "
                "what its state_dict() returned"
            )
        table = cls.__new__(cls)
        state = {name: tensor.detach().clone() for name, tensor in state.items()}
        stored = state["decoder"].dtype in (torch.uint8, torch.float16)
        table._set_state(state, padding_idx, not stored)
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
        gain by its length. The decoder counts half a byte a number, and four a latent.

        Args:
            source: as in ``dense_rows``; rows of zeros stay zeros.
            nbytes: the budget, ``least_bytes`` at least; bytes beyond d/2 nonzeros a row, or h/2,
                stay unused.
            latents: h, whose decoder takes h·(d/2 + 4) bytes of the budget; None: the power of two
                from 16 to 2048 with which it takes a quarter at most, or a smaller one.
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

        # The largest decoder of a quarter of the bytes, or a smaller one if the rest is too little.
        choices = [latents] if latents is not None else cls._choices(n, d, nbytes)
        for h in choices:
            try:
                codes, decoder = cls._coded(rows, lengths, nbytes, h, value_type, importance, seed)
                break
            except InputError:
                if h == choices[-1]:
                    raise
        return cls(codes, decoder, padding_of(source, padding_idx), dense.device)

    @classmethod
    def _choices(cls, n: int, d: int, nbytes: int) -> list[int]:
        """Numbers of latents to try, from the most on."""
        most = int(np.log2(np.clip(nbytes / 4 / _decoder_bytes(1, d), _FEWEST, _MOST)))
        powers = [1 << power for power in range(most, int(np.log2(_FEWEST)) - 1, -1)]
        return [h for h in powers if cls.least_bytes(n, d, h) <= nbytes] or powers[-1:]

    @classmethod
    def _coded(
        cls,
        rows: np.ndarray,
        lengths: np.ndarray,
        nbytes: int,
        latents: int,
        value_type: PackedType | None,
        importance: np.ndarray,
        seed: int,
    ) -> tuple[PackedCodes, Tensor]:
        """Train a dictionary of h latents and code rows (n, d); see ``from_dense``.

        Returns:
            The codes, and the decoder (h, d).

        Raises:
            InputError: too few bytes.
        """
        n, d = rows.shape
        nonzero = lengths > 0
        if nbytes < (least := cls.least_bytes(n, d, latents)):
            raise InputError(
                f"{nbytes} bytes for {n} rows of {d} in {latents} latents: expected {least} or "
                "more; give more, or fewer latents"
            )
        left = nbytes - _decoder_bytes(latents, d) - _GAINS

        # A dictionary for the mean nonzeros of a row; gains and counts are neglected.
        row_bytes = left / n + 1
        if value_type is None:
            value_type = "int2" if mean_nonzeros(row_bytes, latents, 2) <= d / 3 else "int4"
        bits = value_bits(value_type)
        most = max(1, min(d // 2, latents // 2, MOST_NONZEROS // 2))  # More add error.
        typical = min(mean_nonzeros(row_bytes, latents, bits), most, _TRAINED_NONZEROS)
        # Not whitened: nonzeros are all there is, and every direction counts alike.
        config = TrainConfig(latents, int(max(1, typical)), seed=seed, whitening=0.0)
        model = train(rows[nonzero], config)

        # Bytes of ``most`` nonzeros and a count in each row, one nonzero at least.
        sizes = row_lengths(latents, bits, 0, most).tolist()
        budget = min(left, max(n * (1 + sizes[-1]), ragged_bytes(n) + n * sizes[1]))

        # A sample first: its quantiser serves all rows, so the bytes of its levels are known.
        # A row of zeros has no direction: it is coded like the longest, in one nonzero, gain 0.
        units = np.where(nonzero[:, None], rows, rows[lengths.argmax()])
        sample = units[np.unique(np.linspace(0, n - 1, min(n, _SAMPLE_ROWS)).astype(int))]
        try:
            # Errors count alike along a row and across it: rows are decoded, not searched.
            share = budget * len(sample) // n
            fitted = fit_quantizer(model, sample, value_type, budget=share, parallel_weight=0)
            like = compress(model, sample, like=fitted, budget=share)
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
        return _with_lengths(codes, lengths), model.decoder

    @staticmethod
    def least_bytes(n: int, d: int, latents: int = _FEWEST) -> int:
        """Bytes below which no codes of a table (n, d) fit; some need a few bytes a row more."""
        row = int(row_lengths(latents, 1, 0, 1)[-1])
        return _decoder_bytes(latents, d) + _GAINS + ragged_bytes(n) + n * row

    def export(self) -> Self:
        """Copy the table for storage: decoder in 4 bits a number, no trainable parameters.

        That of ``from_dense`` is so already and loses nothing; one that was trained on is rounded.

        Raises:
            InputError: the decoder holds NaN or infinity.
        """
        table = copy.deepcopy(self).requires_grad_(False)
        if table.decoder_scales is None:
            entries, scales = map(torch.from_numpy, _round(table.decoder.float().cpu().numpy()))
            del table.decoder, table.decoder_scales
            device = self.decoder.device
            table._set_decoder(pack_int4(entries).to(device), scales.to(device))
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
        decoder = self._float_decoder(values.dtype)
        return functional.embedding_bag(
            latents.long(), decoder, offsets, per_sample_weights=values, mode="sum"
        )

    def _float_decoder(self, dtype: torch.dtype) -> Tensor:
        """Decoder (h, d) in floats."""
        if self.decoder_scales is None:
            return self.decoder.to(dtype)
        entries = unpack_int4(self.decoder, self.embedding_dim).to(dtype)
        return entries * self.decoder_scales.to(dtype)[:, None]


def _decoder_bytes(latents: int, d: int) -> int:
    """Bytes of a stored decoder: half a byte a number, and a scale a latent."""
    return latents * (-(-d // 2) + 4)


def _round(decoder: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round a decoder (h, d) to entries −7…7 (h, d) int8 and scales (h,) float32.

    >>> entries, scales = _round(np.array([[3, -4, 0], [0, 0, 0]], np.float32))
    >>> entries.tolist(), np.round(scales.astype(float), 2).tolist()
    ([[5, -7, 0], [1, 0, 0]], [0.58, 0.0])
    """
    if not np.isfinite(decoder).all():
        raise InputError("decoder: NaN or infinity; lower the learning rate and train again")
    directions = decoder.copy()
    directions[~decoder.any(1), 0] = 1
    entries = recover_entries(directions)
    if entries is None:
        entries = round_directions(directions)
    squares = np.einsum("hd,hd->h", entries, entries, dtype=np.float64)
    scales = np.einsum("hd,hd->h", entries, decoder, dtype=np.float64) / squares
    return entries, scales.astype(np.float32)


def _width(decoder: Tensor) -> int:
    """d of a decoder of floats, or of ``pack_int4``, which ends rows of an odd d with a 0."""
    if decoder.dtype != torch.uint8:
        return decoder.shape[1]
    return 2 * decoder.shape[1] - int((decoder[:, -1] < 16).all())


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
