"""Tables that are trained for few bits, and the integers they become."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table, dense_rows, padding_of

_SCALES = (torch.float32, torch.float16, torch.bfloat16)


class QuantizedTable(Table):
    """Quantisation-aware training: rows are rounded on the way out, gradients go straight through.

    Row w becomes c·s with s = max|w| / L, c = round(w / s), L = 127 (int8) or 7 (int4): symmetric,
    one scale a row. The gradient with respect to w is taken to be that with respect to c·s
    (straight-through estimator: Bengio et al., arXiv 1308.3432). While training, ``weight`` (n, d)
    is in full precision; ``nbytes`` counts what is stored afterwards, which ``export`` gives.
    Scales saturate at the largest number of their type, entries below half the smallest are zeros.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        bits: 8 or 4.
        padding_idx: see ``Table``.
        scale_dtype: of the stored scales: float32, float16 or bfloat16.
        sparse: gradients as sparse tensors, of the looked-up rows alone.
        std: of the normal start.
        device, dtype: of ``weight``.

    Raises:
        InputError: other bits or another type of scales.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        bits: int = 8,
        padding_idx: int | None = None,
        scale_dtype: torch.dtype = torch.float32,
        sparse: bool = False,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        if scale_dtype not in _SCALES:
            raise InputError(f"scale_dtype {scale_dtype}: expected one of {_SCALES}")
        self.bits, self.scale_dtype, self.sparse = _check_bits(bits), scale_dtype, sparse
        self.std = std
        self.weight = nn.Parameter(
            torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype)
        )
        self.reset_parameters()

    @classmethod
    def from_dense(
        cls,
        source: Any,
        bits: int = 8,
        padding_idx: int | None = None,
        scale_dtype: torch.dtype = torch.float32,
    ) -> "QuantizedTable":
        """A table that starts from trained rows; ``source`` as in ``dense_rows``."""
        rows = dense_rows(source)
        n, d = rows.shape
        padding_idx = padding_of(source, padding_idx)
        table = cls(n, d, bits, padding_idx, scale_dtype, device="meta")
        table.weight = nn.Parameter(rows)
        return table

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the normal start."""
        self.weight.normal_(0, self.std)

    @torch.no_grad()
    def export(self) -> "IntegerTable":
        """The integers and scales alone, whose rows are this table's, bit by bit.

        Raises:
            InputError: rows with NaN or infinity, or too large for the type of the scales.
        """
        codes, scales = _quantize(self.weight, self.bits, self.scale_dtype)
        largest, reach = float(self.weight.abs().max()), _largest(self.bits, self.scale_dtype)
        if not largest <= reach:
            raise InputError(
                f"entries up to {largest:g}: expected {reach:g} at most in int{self.bits} with "
                f"scales of {self.scale_dtype}; train with a decay, or give a wider scale_dtype"
            )
        table = IntegerTable(
            self.num_embeddings,
            self.embedding_dim,
            self.bits,
            self.padding_idx,
            self.scale_dtype,
            self.weight.dtype,
        )
        table.codes = _pack(codes) if self.bits == 4 else codes
        table.scales = scales
        return table

    @property
    def nbytes(self) -> int:
        """Bytes of the integers and scales that ``export`` gives."""
        scale = self.scale_dtype.itemsize
        return self.num_embeddings * ((self.embedding_dim * self.bits + 7) // 8 + scale)

    def _lookup(self, ids: Tensor) -> Tensor:
        rows = functional.embedding(ids, self.weight, sparse=self.sparse)
        return _StraightThrough.apply(rows, self.bits, self.scale_dtype)

    def _all_rows(self) -> Tensor:
        return _StraightThrough.apply(self.weight, self.bits, self.scale_dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


class IntegerTable(Table):
    """Integers and a scale a row; nothing to train. ``QuantizedTable.export`` makes them.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        bits: 8, ``codes`` (n, d) int8; or 4, ``codes`` (n, ⌈d/2⌉) uint8 of two entries plus 8 each,
            the first in the low bits.
        padding_idx: see ``Table``.
        scale_dtype: of ``scales`` (n,).
        dtype: of rows; float32 when None.

    Raises:
        InputError: other bits.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        bits: int = 8,
        padding_idx: int | None = None,
        scale_dtype: torch.dtype = torch.float32,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.bits, self.dtype = _check_bits(bits), dtype or torch.float32
        zeros = torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8)
        self.register_buffer("codes", _pack(zeros) if bits == 4 else zeros)
        self.register_buffer("scales", torch.ones(num_embeddings, dtype=scale_dtype))

    def _lookup(self, ids: Tensor) -> Tensor:
        codes = self.codes[ids]
        if self.bits == 4:
            codes = _unpack(codes, self.embedding_dim)
        return (codes.float() * self.scales[ids].float()[:, None]).to(self.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


class _StraightThrough(torch.autograd.Function):
    """Rows (m, d) as they are after rounding; the gradient as if they were not rounded."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bits: int, scale_dtype: torch.dtype) -> Tensor:
        codes, scales = _quantize(rows, bits, scale_dtype)
        return (codes.float() * scales.float()[:, None]).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


def _check_bits(bits: int) -> int:
    if bits not in (4, 8):
        raise InputError(f"bits {bits}: expected 8 or 4")
    return bits


def _largest(bits: int, scale_dtype: torch.dtype) -> float:
    """The largest entry that codes of such scales reach."""
    return (2 ** (bits - 1) - 1) * float(torch.finfo(scale_dtype).max)


def _quantize(rows: Tensor, bits: int, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes (m, d) int8 and scales (m,) of rows (m, d)."""
    most = 2 ** (bits - 1) - 1
    rows = rows.float()
    reach = torch.finfo(scale_dtype).max
    scales = (rows.abs().amax(1) / most).clamp(max=reach).to(scale_dtype)
    scales = scales.masked_fill(scales == 0, 1)  # Of rows of zeros, or too small for the type.
    # The codes are those of the scale that is stored, so that its rounding costs nothing.
    codes = (rows / scales.float()[:, None]).round().clamp(-most, most)
    return codes.to(torch.int8), scales


def _pack(codes: Tensor) -> Tensor:
    """Two of codes (m, d), −8 to 7, in a byte: (m, ⌈d/2⌉) uint8."""
    raised = functional.pad(codes + 8, (0, codes.shape[1] % 2)).to(torch.uint8)
    return raised[:, ::2] | raised[:, 1::2] << 4


def _unpack(packed: Tensor, dim: int) -> Tensor:
    """Codes (m, dim) int8 of ``_pack``'s bytes."""
    both = torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)
    return both[:, :dim].to(torch.int8) - 8
