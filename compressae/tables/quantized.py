"""Tables trained for few bits, and the integers that they export."""

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from compressae.retrieval.errors import InputError
from compressae.tables.base import Table, TableSettings
from compressae.tables.full import FullTable

_SCALES = (torch.float32, torch.float16, torch.bfloat16)


class QuantizedTable(FullTable):
    """Quantisation-aware training: a full table whose rows are rounded at look-up.

    Row w becomes c·s with s = max|w| / L, c = round(w / s), L = 127 (int8) or 7 (int4): symmetric,
    one scale a row. The gradient with respect to c·s is passed to w unchanged (straight-through
    estimator: Bengio et al., arXiv 1308.3432). ``weight`` (n, d) stays in full precision during
    training; ``nbytes`` counts what ``export`` returns. Scales saturate at the largest number of
    their type; entries below half the smallest become zeros.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        bits: 8 or 4.
        scale_dtype: of the exported scales: float32, float16 or bfloat16.
        **settings: padding_idx, sparse, std, device and dtype: see ``Table``.

    Raises:
        InputError: other bits or another type of scales.

    >>> table = QuantizedTable.from_dense(torch.tensor([[7.0, -3.3, 0.4]]), bits=4)
    >>> table.rows().tolist(), table.nbytes
    ([[7.0, -3.0, 0.0]], 6)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        bits: int = 8,
        scale_dtype: torch.dtype = torch.float32,
        **settings: Unpack[TableSettings],
    ) -> None:
        if scale_dtype not in _SCALES:
            raise InputError(f"scale_dtype {scale_dtype}: expected one of {_SCALES}")
        super().__init__(num_embeddings, embedding_dim, **settings)
        self.bits, self.scale_dtype = _check_bits(bits), scale_dtype

    @torch.no_grad()
    def export(self) -> "IntegerTable":
        """Round to integers and scales, whose rows equal this table's bit by bit.

        Raises:
            InputError: rows with NaN or infinity, or too large for the type of the scales.
        """
        codes, scales = _quantize(self.weight, self.bits, self.scale_dtype)
        largest = float(self.weight.abs().max())
        reach = (2 ** (self.bits - 1) - 1) * float(torch.finfo(self.scale_dtype).max)
        if not largest <= reach:
            raise InputError(
                f"entries up to {largest:g}: expected {reach:g} at most in int{self.bits} with "
                f"scales of {self.scale_dtype}; train with a decay, or use a wider scale_dtype"
            )
        n, d, dtype = self.num_embeddings, self.embedding_dim, self.weight.dtype
        table = IntegerTable(n, d, self.bits, self.padding_idx, self.scale_dtype, dtype)
        table.codes = pack_int4(codes) if self.bits == 4 else codes
        table.scales = scales
        return table

    @property
    def nbytes(self) -> int:
        """Count the bytes of the integers and scales that ``export`` returns."""
        return self.num_embeddings * self.row_bytes(
            self.embedding_dim, self.bits, self.scale_dtype.itemsize
        )

    @staticmethod
    def row_bytes(embedding_dim: int, bits: int, scale_bytes: int = 4) -> int:
        """Count the bytes of a row's integers and scale."""
        return (embedding_dim * bits + 7) // 8 + scale_bytes

    def _lookup(self, ids: Tensor) -> Tensor:
        return _StraightThrough.apply(super()._lookup(ids), self.bits, self.scale_dtype)

    def _all_rows(self) -> Tensor:
        return _StraightThrough.apply(self.weight, self.bits, self.scale_dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


class IntegerTable(Table):
    """Integers with one scale a row and no parameters, made by ``QuantizedTable.export``.

    Args:
        num_embeddings: n.
        embedding_dim: d.
        bits: 8, ``codes`` (n, d) int8; or 4, ``codes`` (n, ⌈d/2⌉) uint8, two entries plus 8 each a
            byte, the first in the low bits.
        padding_idx: see ``Table``.
        scale_dtype: of ``scales`` (n,).
        dtype: of rows; float32 when None.

    Raises:
        InputError: other bits.

    >>> stored = QuantizedTable.from_dense(torch.tensor([[7.0, -3.3, 0.4]]), bits=4).export()
    >>> stored.codes.tolist(), stored.scales.tolist(), stored(torch.tensor(0)).tolist()
    ([[95, 8]], [1.0], [7.0, -3.0, 0.0])
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
        self.register_buffer("codes", pack_int4(zeros) if bits == 4 else zeros)
        self.register_buffer("scales", torch.ones(num_embeddings, dtype=scale_dtype))

    def _lookup(self, ids: Tensor) -> Tensor:
        codes = self.codes[ids]
        if self.bits == 4:
            codes = unpack_int4(codes, self.embedding_dim)
        return (codes.float() * self.scales[ids].float()[:, None]).to(self.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


class _StraightThrough(torch.autograd.Function):
    """Round rows (m, d); the gradient passes unchanged."""

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


def _quantize(rows: Tensor, bits: int, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantise rows (m, d) to codes (m, d) int8 and scales (m,)."""
    most = 2 ** (bits - 1) - 1
    rows = rows.float()
    reach = torch.finfo(scale_dtype).max
    scales = (rows.abs().amax(1) / most).clamp(max=reach).to(scale_dtype)
    scales = scales.masked_fill(scales == 0, 1)  # Rows of zeros, or too small for the type.
    # Codes for the scale as it is stored, so that its rounding costs nothing.
    codes = (rows / scales.float()[:, None]).round().clamp(-most, most)
    return codes.to(torch.int8), scales


def pack_int4(codes: Tensor) -> Tensor:
    """Pack codes (m, d), −8 to 7, two a byte: (m, ⌈d/2⌉) uint8."""
    raised = functional.pad(codes + 8, (0, codes.shape[1] % 2)).to(torch.uint8)
    return raised[:, ::2] | raised[:, 1::2] << 4


def unpack_int4(packed: Tensor, dim: int) -> Tensor:
    """Unpack the bytes of ``pack_int4`` to codes (m, dim) int8."""
    both = torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)
    return both[:, :dim].to(torch.int8) - 8
