"""Layout of codes for a GPU scan: rank-major blocks, so that loads coalesce.

Rows are grouped in blocks of ``SCAN_BLOCK``. Within a block all first nonzeros come first, then all
second ones, and so on: neighbouring threads read neighbouring bytes. Packed rows store a level
number per nonzero, in the same 16 bits as the latent if both fit, else in a byte of its own.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from compressae.kernels.packed import Rows, heads, unpack

#: Rows per block.
SCAN_BLOCK = 256
#: Rows laid out at a time.
_PART = 1 << 16
#: Fields shared by all rows.
_SHARED = ("levels", "gain_table", "scale_table")


@dataclass(frozen=True, eq=False)
class Planes:
    """n rows over h latents, in B = ⌈n / SCAN_BLOCK⌉ blocks; the last block is padded with 0.

    A row's score with a query q is
    (Σ_r value_r·q[latent_r] + scale · Σ_b table[b, residual_b]) · factor.

    Attributes:
        n: number of rows.
        latents: h.
        slots: (B, K, SCAN_BLOCK) int16 or int32, read as unsigned: the latent. With ``levels`` and
            without ``values``: latent | level number << id_bits.
        values: (B, K, SCAN_BLOCK) float32, float16 or int8; with ``levels`` uint8 level numbers;
            or None.
        levels: (K, L) float32 levels by rank, or None.
        counts: (B, SCAN_BLOCK) int32 nonzeros per row, or None if all rows have K.
        residual: (B, m, SCAN_BLOCK) uint8 residual codes, or None.
        gains: (B, SCAN_BLOCK) uint8 indices into ``gain_table``, or None.
        gain_table: (256,) float32 factors, or None.
        scale_table: (256,) float32 scales of residual codes by ``gains``, or None: all are 1.
        factors: (B, SCAN_BLOCK) float32, or None. Without gains and factors all factors are 1.
    """

    n: int
    latents: int
    slots: Tensor
    values: Tensor | None = None
    levels: Tensor | None = None
    counts: Tensor | None = None
    residual: Tensor | None = None
    gains: Tensor | None = None
    gain_table: Tensor | None = None
    scale_table: Tensor | None = None
    factors: Tensor | None = None

    def __len__(self) -> int:
        return self.n

    @property
    def blocks(self) -> int:
        """B, the number of blocks."""
        return len(self.slots)

    @property
    def id_bits(self) -> int:
        """⌈log2 h⌉, at least 1: the bits of a latent in a slot."""
        return max(1, (self.latents - 1).bit_length())

    @property
    def nbytes(self) -> int:
        """Bytes of the per-row tensors, padding included."""
        return sum(t.nbytes for name, t in self._tensors().items() if name not in _SHARED)

    def _tensors(self) -> dict[str, Tensor]:
        attributes = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: t for name, t in attributes.items() if isinstance(t, Tensor)}

    def nonzeros(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Rows of blocks first…last, padding included: latents (m, K) int32 and values (m, K)
        float32, which are 0 beyond a row's nonzeros. Factors are left out."""
        slots = self.slots[first:last].int()
        if self.slots.dtype == torch.int16:
            slots = slots & 0xFFFF
        numbers = slots >> self.id_bits if self.values is None else self.values[first:last]
        ids, values = slots & ((1 << self.id_bits) - 1), numbers.float()
        ranks = torch.arange(slots.shape[1], device=slots.device)[:, None]
        if self.levels is not None:
            values = self.levels[ranks, numbers.long()]
        if self.counts is not None:
            values = values.where(ranks < self.counts[first:last, None], 0.0)
        by_row = (-1, slots.shape[1])
        return ids.transpose(1, 2).reshape(by_row), values.transpose(1, 2).reshape(by_row)

    def bounds(self) -> tuple[Tensor, Tensor, Tensor]:
        """What no row's Σ|value|, |scale| and |factor| are above: () float32 each."""
        if self.levels is not None:
            values = self.levels.abs().amax(1).sum()
        else:
            assert self.values is not None
            parts = self.values.split(1 << 10)
            values = torch.stack([part.float().abs().sum(1).amax() for part in parts]).amax()
        one = values.new_ones(())
        table = self.gain_table if self.factors is None else self.factors
        scale = one if self.scale_table is None else self.scale_table.abs().amax()
        return values, scale, one if table is None else table.abs().amax()

    def row_factors(self, first: int, last: int) -> Tensor | None:
        """Factors (m,) of the rows of blocks first…last; None where all are 1."""
        if self.factors is not None:
            return self.factors[first:last].flatten()
        if self.gains is None or self.gain_table is None:
            return None
        return self.gain_table[self.gains[first:last].long()].flatten()

    def residual_scales(self, first: int, last: int) -> Tensor | None:
        """Scales (m,) of the residual codes of blocks first…last; None where all are 1."""
        if self.gains is None or self.scale_table is None:
            return None
        return self.scale_table[self.gains[first:last].long()].flatten()

    def to(self, device: torch.device | str) -> "Planes":
        """Copy to a device."""
        return replace(self, **{name: t.to(device) for name, t in self._tensors().items()})  # type: ignore[arg-type]

    def pinned(self) -> "Planes":
        """Copy to pinned host memory, for asynchronous copies to a GPU."""
        return replace(self, **{name: t.pin_memory() for name, t in self._tensors().items()})  # type: ignore[arg-type]

    def room(self, blocks: int, device: torch.device | str) -> "Planes":
        """Allocate ``blocks`` uninitialised blocks of these dtypes and shapes on a device."""
        tensors = {}
        for name, t in self._tensors().items():
            shape = t.shape if name in _SHARED else (blocks, *t.shape[1:])
            tensors[name] = torch.empty(shape, dtype=t.dtype, device=device)
        return replace(self, n=blocks * SCAN_BLOCK, **tensors)  # type: ignore[arg-type]

    def into(self, room: "Planes", first: int = 0) -> "Planes":
        """Copy into the blocks of ``room`` from block ``first`` on; return them as planes.

        From pinned memory the copy is asynchronous, on the current stream.
        """
        tensors = {}
        for name, t in self._tensors().items():
            target = getattr(room, name)
            if name not in _SHARED:
                target = target[first : first + self.blocks]
            tensors[name] = target.copy_(t, non_blocking=True)
        return replace(self, **tensors)  # type: ignore[arg-type]

    def scaled(self, factors: Tensor) -> "Planes":
        """Replace the factors of rows by (n,) float32 and drop the residual codes."""
        padded = torch.zeros(self.blocks * SCAN_BLOCK, dtype=torch.float32, device=factors.device)
        padded[: self.n] = factors
        return replace(
            self,
            residual=None,
            gains=None,
            gain_table=None,
            scale_table=None,
            factors=padded.view(-1, SCAN_BLOCK),
        )


def plain_planes(
    indptr: np.ndarray,
    ids: np.ndarray,
    values: np.ndarray,
    factors: np.ndarray | None,
    latents: int,
    start: int = 0,
    stop: int | None = None,
    ranks: int | None = None,
) -> Planes:
    """Build planes of CSR rows start..stop, all rows by default, on the CPU.

    Args:
        indptr: (n + 1,) int64.
        ids: (nnz,) latents, below ``latents``.
        values: (nnz,) float32, float16 or int8.
        factors: (n,) float32 factor per row, or None.
        latents: h.
        start: first row.
        stop: end of the rows; n when None.
        ranks: most nonzeros of any row; computed from all of ``indptr`` when None.

    >>> indptr, ids = np.array([0, 2, 3]), np.array([0, 2, 1], np.uint32)
    >>> planes = plain_planes(indptr, ids, np.array([1, 2, 3], np.float32), None, latents=3)
    >>> planes.slots.shape, planes.values[0, :, :2].tolist()
    (torch.Size([1, 2, 256]), [[1.0, 3.0], [2.0, 0.0]])
    """
    stop = len(indptr) - 1 if stop is None else stop
    if ranks is None:
        ranks = int(np.diff(indptr).max(initial=0))
    n, K = stop - start, max(1, ranks)
    slots, numbers = _room(n, K, _slot_dtype(latents)), _room(n, K, values.dtype)
    for a in range(0, n, _PART):
        bounds = indptr[start + a : start + min(a + _PART, n) + 1]
        part = slice(bounds[0], bounds[-1])
        _lay(bounds - bounds[0], a, (ids[part], slots), (values[part], numbers))
    return Planes(
        n,
        latents,
        slots=torch.from_numpy(slots),
        values=torch.from_numpy(numbers),
        factors=None if factors is None else _by_block(factors[start:stop].astype(np.float32)),
    )


def packed_planes(
    rows: Rows,
    levels: np.ndarray,
    gains: np.ndarray,
    scales: np.ndarray | None,
    latents: int,
    start: int = 0,
    stop: int | None = None,
) -> Planes:
    """Build planes of packed rows start..stop, all rows by default, on the CPU.

    Args:
        rows: packed rows, see ``compressae.kernels.packed``.
        levels: (K, L) float32 levels by rank.
        gains: (256,) float32 factors.
        scales: (256,) float32 scales of residual codes; None where all are 1.
        latents: h.
        start: first row.
        stop: end of the rows; n when None.
    """
    stop = len(rows) if stop is None else stop
    n, K, m = stop - start, len(levels), rows.layout.fixed - 1
    one_slot = rows.layout.id_bits + int(rows.layout.value_bits.max()) <= 16
    slots = _room(n, K, _slot_dtype(latents))
    numbers = None if one_slot else _room(n, K, np.uint8)
    head = _room(n, m + 1, np.uint8)
    for a in range(0, n, _PART):
        b = min(a + _PART, n)
        indptr, ids, codes = unpack(rows, start + a, start + b)
        if numbers is None:
            _lay(indptr, a, (ids | codes.astype(np.uint32) << rows.layout.id_bits, slots))
        else:
            _lay(indptr, a, (ids, slots), (codes, numbers))
        first = heads(rows, start + a, start + b)
        _lay(np.arange(b - a + 1) * (m + 1), a, (first.reshape(-1), head))
    counts = None if rows.counts is None else rows.counts[start:stop].astype(np.int32)
    finite = np.where(np.isfinite(levels), levels, 0).astype(np.float32)  # Unused levels are inf.
    return Planes(
        n,
        latents,
        slots=torch.from_numpy(slots),
        values=None if numbers is None else torch.from_numpy(numbers),
        levels=torch.from_numpy(finite),
        counts=None if counts is None else _by_block(counts),
        residual=torch.from_numpy(np.ascontiguousarray(head[:, :m])) if m else None,
        gains=torch.from_numpy(np.ascontiguousarray(head[:, m])),
        gain_table=torch.from_numpy(np.array(gains, np.float32)),
        scale_table=None if scales is None else torch.from_numpy(np.array(scales, np.float32)),
    )


def _slot_dtype(latents: int) -> type:
    return np.int16 if latents <= 1 << 16 else np.int32


def _room(n: int, ranks: int, dtype: np.dtype | type) -> np.ndarray:
    return np.zeros((-(-n // SCAN_BLOCK), ranks, SCAN_BLOCK), dtype)


def _lay(indptr: np.ndarray, start: int, *parts: tuple[np.ndarray, np.ndarray]) -> None:
    """Scatter flat entries (nnz,) of rows start… into planes (B, K, SCAN_BLOCK).

    ``start`` is a multiple of ``SCAN_BLOCK``; only the last rows may end within a block.
    """
    counts = np.diff(indptr)
    first, (whole, rest) = start // SCAN_BLOCK, divmod(len(counts), SCAN_BLOCK)
    k, even = int(counts[0]), counts.min() == counts.max()
    if not even:
        rows = np.repeat(np.arange(len(counts)), counts)
        ranks = np.arange(len(rows)) - np.repeat(indptr[:-1], counts)
        target = rows // SCAN_BLOCK, ranks, rows % SCAN_BLOCK
    for flat, planes in parts:
        # Slots are signed, since torch supports few unsigned dtypes; their bits are unsigned.
        dtype = f"u{planes.itemsize}" if flat.dtype.kind == "u" else flat.dtype
        part = planes.view(dtype)[first : first + whole + (rest > 0)]
        if even:  # Every row has k nonzeros: transpose each block.
            split = whole * SCAN_BLOCK * k
            part[:whole, :k] = flat[:split].reshape(whole, SCAN_BLOCK, k).transpose(0, 2, 1)
            if rest:
                part[whole, :k, :rest] = flat[split:].reshape(rest, k).T
        else:
            part[target] = flat


def _by_block(numbers: np.ndarray) -> Tensor:
    """Pad (n,) with zeros and reshape to (B, SCAN_BLOCK)."""
    padded = np.zeros(-(-len(numbers) // SCAN_BLOCK) * SCAN_BLOCK, numbers.dtype)
    padded[: len(numbers)] = numbers
    return torch.from_numpy(padded.reshape(-1, SCAN_BLOCK))
