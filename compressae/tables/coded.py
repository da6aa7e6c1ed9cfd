"""Tables kept as sparse codes, whose decoder can go on being trained."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.budget import check_weights
from compressae.compress import PACKED_TYPES, PackedType, compress
from compressae.config import TrainConfig
from compressae.kernels.packed import BLOCK, SPARE
from compressae.retrieval.errors import InputError
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.quantizer import id_bits
from compressae.tables.base import Table, dense_rows, padding_of
from compressae.tables.ragged import row_starts
from compressae.training import train

#: Bytes of the gains.
_GAINS = 4 * 256
#: Nonzeros that a dictionary is learned with at most: more take longer and change little.
_TRAINED_NONZEROS = 32
#: Rows that the levels are made for.
_SAMPLE_ROWS = 8192
#: The fewest and the most latents where they are not given.
_FEWEST, _MOST = 16, 2048
#: Rows shorter than this part of the longest get the least gain.
_SHORTEST = 1e-4


class CodedTable(Table):
    """Row i = gains[g_i] · Σ_r levels[r, c_ir] · decoder[l_ir]: packed sparse codes, read in place.

    The latents l, level numbers c and gain numbers g are integers, packed as ``PackedCodes`` are,
    and stay. What all rows share is trained: ``decoder`` (h, d), ``levels`` (K, L) and ``gains``
    (256,). So a loss can be lowered *through* codes that are made already; gradients are dense, for
    a batch of rows has nearly all latents. Gains of zero stay zero.

    Args:
        codes: of n rows, without residual codes.
        decoder: (h, d) floats.
        padding_idx: see ``Table``.
        device: where the table is; the decoder's when None.
        dtype: of the parameters.

    Raises:
        InputError: codes with residual codes, or another number of latents than the decoder's.
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
                "residual bytes; encode the table for it"
            )
        super().__init__(len(codes), rows.shape[1], padding_idx)
        held = {
            "data": codes.data,
            "counts": codes.counts,
            "blocks": codes.rows.blocks,
            "value_bits": quantizer.value_bits.astype(np.uint8),
        }
        shared = {
            "decoder": rows,
            # Levels that no row uses are infinite there.
            "levels": np.where(np.isinf(quantizer.levels), 0, quantizer.levels),
            "gains": quantizer.gains,
        }
        device = rows.device if device is None else device
        for name, array in held.items():
            kept = None if array is None else torch.as_tensor(array).to(device, copy=True)
            self.register_buffer(name, kept)
        for name, part in shared.items():
            kept = torch.as_tensor(part).to(device, dtype, copy=True)
            self.register_parameter(name, nn.Parameter(kept))

    @classmethod
    def from_state_dict(
        cls, state: dict[str, Tensor], padding_idx: int | None = None
    ) -> "CodedTable":
        """A table of its own of what ``state_dict()`` gave of another.

        What ``export`` had, a decoder in float16, has nothing to train again.

        Raises:
            InputError: something is missing.
        """
        needed = {"data", "blocks", "value_bits", "decoder", "levels", "gains"}
        if missing := needed - set(state):
            raise InputError(
                f"a state without {', '.join(sorted(missing))}: expected a coded table's; give "
                "what its state_dict() gave"
            )
        state = {name: tensor.detach().clone() for name, tensor in state.items()}
        trained = state["decoder"].dtype != torch.float16
        table = cls.__new__(cls)
        counts, data = state.get("counts"), state["data"]
        stride = int(_lengths(state["value_bits"], len(state["decoder"]))[-1])
        n = (len(data) - SPARE) // stride if counts is None else len(counts)
        Table.__init__(table, n, state["decoder"].shape[1], padding_idx)
        for name in ("data", "counts", "blocks", "value_bits"):
            table.register_buffer(name, state.get(name))
        for name in ("decoder", "levels", "gains"):
            table.register_parameter(name, nn.Parameter(state[name], requires_grad=trained))
        return table

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
            nbytes: the budget, ``least_bytes`` at least; what is above d/2 nonzeros a row, or h/2,
                is not used.
            latents: h, whose decoder takes 2·h·d bytes of the budget; None: the power of two from
                16 to 2048 with which it takes a sixth at most.
            values: bits of a nonzero's value on average: "int4", "int3" or "int2"; None: two, or
                four where rows would have more than d/3 nonzeros, of which more say little.
            weights: (n,) importance of rows, ≥ 0, such as how often they are seen; even when None.
            padding_idx: see ``Table``.
            seed: of the dictionary.
            progress: called after each batch that is coded with (rows done, rows to do).

        Raises:
            InputError: too few bytes; rows of zeros alone; other values; latents below 1, weights
                that do not fit, or a negative seed.
        """
        given = dense_rows(source)
        rows = given.float().cpu().numpy()
        n, d = rows.shape
        if values is not None and values not in PACKED_TYPES:
            raise InputError(f"values {values!r}: expected one of {', '.join(PACKED_TYPES)}")
        if (latents is not None and latents < 1) or seed < 0:
            raise InputError(f"{latents} latents, seed {seed}: expected 1 or more, and 0 or more")
        lengths = np.linalg.norm(rows, axis=1)
        alive = lengths > 0
        importance = check_weights(weights, n) * alive
        if not alive.any():
            raise InputError("rows are all zeros: expected a trained table")
        if latents is None:
            latents = 1 << int(np.log2(np.clip(nbytes / (12 * d), _FEWEST, _MOST)))
            while latents > _FEWEST and cls.least_bytes(n, d, latents) > nbytes:
                latents //= 2
        if nbytes < (least := cls.least_bytes(n, d, latents)):
            raise InputError(
                f"{nbytes} bytes for {n} rows of {d} in {latents} latents: expected {least} or "
                "more; give more, or fewer latents"
            )
        # A row of zeros has no direction: it is coded as another, in one nonzero, with gain 0.
        units = np.where(alive[:, None], rows, rows[lengths.argmax()])
        left = nbytes - 2 * latents * d - _GAINS
        if values is None:
            values = "int2" if 8 * left / n / (id_bits(latents) + 2) <= d / 3 else "int4"
        # Above d/2 nonzeros more add error: what is left of so many bytes stays unused.
        each = id_bits(latents) + int(values[3:])
        typical = max(1.0, min(8 * left / n / each, d / 2, latents / 2, 127))
        of_rows = min(left, int(n * (2 + typical * each / 8)))
        nonzeros = int(min(typical, _TRAINED_NONZEROS))
        model = train(rows[alive], TrainConfig(latents, nonzeros, seed=seed))
        # Some rows first: their quantiser is that of all, and so its bytes are known.
        some = units[np.unique(np.linspace(0, n - 1, min(n, _SAMPLE_ROWS)).astype(int))]
        try:
            like = compress(model, some, values, budget=of_rows * len(some) // n)
            assert isinstance(like, PackedCodes)
            levels = cls(like, model.decoder).export().nbytes - like.nbytes - (nbytes - left)
            if left <= levels:
                raise InputError(
                    f"{levels} bytes of levels leave nothing for codes; give more bytes, fewer "
                    "latents or values of fewer bits"
                )
            codes = compress(
                model,
                units,
                like=like,
                budget=min(left - levels, of_rows),
                weights=importance,
                progress=progress,
            )
        except InputError as error:
            raise InputError(
                f"{nbytes} bytes for {n} rows of {d} in {latents} latents, {values}: {error}"
            ) from error
        assert isinstance(codes, PackedCodes)
        codes = _with_lengths(codes, lengths)
        return cls(codes, model.decoder, padding_of(source, padding_idx), given.device)

    @staticmethod
    def least_bytes(n: int, d: int, latents: int = _FEWEST) -> int:
        """Bytes below which no codes of a table (n, d) fit; some want a few bytes a row more."""
        row = 2 + -(-(id_bits(latents) + 1) // 8)  # A count, a gain and a nonzero.
        return 2 * latents * d + _GAINS + n * row + 8 * -(-n // BLOCK) + SPARE

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
        lengths = _lengths(self.value_bits, len(self.decoder))
        if self.counts is None:
            return self._read(ids * lengths[-1], torch.full_like(ids, len(self.value_bits)))
        starts = row_starts(ids, self.blocks, self.counts, lengths)
        return self._read(starts, self.counts[ids].long())

    def _all_rows(self) -> Tensor:
        counts = self.nonzeros
        sizes = _lengths(self.value_bits, len(self.decoder))[counts]
        return self._read(sizes.cumsum(0) - sizes, counts)

    def _read(self, starts: Tensor, counts: Tensor) -> Tensor:
        """Rows (m, d) of ``counts`` (m,) nonzeros that begin at bytes ``starts`` (m,)."""
        offsets = counts.cumsum(0) - counts
        owner = torch.repeat_interleave(counts)
        ranks = torch.arange(len(owner), device=owner.device) - offsets[owner]
        named = id_bits(len(self.decoder))
        bits = 8 * (starts[owner] + 1) + _shifts(self.value_bits, len(self.decoder))[ranks]
        place, shift = bits >> 3, bits & 7
        word = sum(self.data[place + b].long() << 8 * b for b in range(SPARE)) >> shift
        latents = word & ((1 << named) - 1)
        codes = (word >> named) & ((1 << self.value_bits.long()[ranks]) - 1)
        # A gain of zero takes no gradient: rows of zeros stay zeros.
        scale = (self.gains * (self.gains != 0))[self.data[starts].long()]
        values = self.levels[ranks, codes] * scale[owner]
        decoder = self.decoder.to(values.dtype)
        return functional.embedding_bag(
            latents, decoder, offsets, per_sample_weights=values, mode="sum"
        )


def _shifts(value_bits: Tensor, latents: int) -> Tensor:
    """(K + 1,) int64: the bit at which a row's r-th nonzero starts; the last is the end."""
    return functional.pad((value_bits.long() + id_bits(latents)).cumsum(0), (1, 0))


def _lengths(value_bits: Tensor, latents: int) -> Tensor:
    """(K + 1,) int64: bytes of a row of k nonzeros, its gain's byte among them."""
    return 1 + (_shifts(value_bits, latents) + 7) // 8


def _with_lengths(codes: PackedCodes, lengths: np.ndarray) -> PackedCodes:
    """Codes of unit rows as those of rows of lengths (n,), which go into the gains.

    The 255 gains above 0 are in geometric progression from 1/10,000 of the largest at the lowest:
    above that no length is off by more than 2 %.
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
