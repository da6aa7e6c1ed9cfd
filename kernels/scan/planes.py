"""Codes as a scan on a GPU reads them: rank by rank, so that neighbouring threads read neighbouring
bytes.

Rows stand in blocks of ``BLOCK``; within a block all first nonzeros come first, then all second
ones, and so on. Packed rows keep the number of a nonzero's level, beside its latent in 16 bits
where both fit, else in a byte of its own.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from compressae.kernels.packed import Rows, heads, unpack

#: Rows of a block.
BLOCK = 256
#: Rows that are laid out at a time.
_PART = 1 << 16
#: Tensors that are the same for all rows.
_SHARED = ("levels", "gain_table")


@dataclass(frozen=True, eq=False)
class Planes:
    """n rows over h latents, in B = ⌈n / BLOCK⌉ blocks; what fills the last block is 0.

    A row's score with a query q is (Σ_r value_r·q[latent_r] + Σ_b table[b, residual_b]) · factor.

    Attributes:
        n: rows.
        latents: h.
        slots: (B, K, BLOCK) int16 or int32, read as unsigned: latents, or with ``levels`` and no
            ``values`` latent | level number << id_bits.
        values: (B, K, BLOCK) float32, float16 or int8, or with ``levels`` uint8 numbers of levels;
            or None.
        levels: (K, L) float32 or None.
        counts: (B, BLOCK) int32 nonzeros of each row, or None where all have K.
        residual: (B, m, BLOCK) uint8 residual codes, or None.
        gains: (B, BLOCK) uint8 numbers of factors in ``gain_table`` (256,) float32; or None.
        factors: (B, BLOCK) float32; or None. Without gains and factors all factors are 1.
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
    factors: Tensor | None = None

    def __len__(self) -> int:
        return self.n

    @property
    def blocks(self) -> int:
        return len(self.slots)

    @property
    def id_bits(self) -> int:
        """⌈log2 h⌉: a latent's bits in a slot."""
        return max(1, (self.latents - 1).bit_length())

    @property
    def nbytes(self) -> int:
        """Bytes that grow with n, what fills the last block included."""
        return sum(t.nbytes for name, t in self._held().items() if name not in _SHARED)

    def _held(self) -> dict[str, Tensor]:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: t for name, t in held.items() if isinstance(t, Tensor)}

    def to(self, device: torch.device | str) -> "Planes":
        """The same on a device."""
        return replace(self, **{name: t.to(device) for name, t in self._held().items()})  # type: ignore[arg-type]

    def pinned(self) -> "Planes":
        """The same in memory of the host that a GPU copies from while it computes."""
        return replace(self, **{name: t.pin_memory() for name, t in self._held().items()})  # type: ignore[arg-type]

    def room(self, blocks: int, device: torch.device | str) -> "Planes":
        """Memory on a device for ``blocks`` blocks of this kind, not yet filled."""
        made = {}
        for name, t in self._held().items():
            shape = t.shape if name in _SHARED else (blocks, *t.shape[1:])
            made[name] = torch.empty(shape, dtype=t.dtype, device=device)
        return replace(self, n=blocks * BLOCK, **made)  # type: ignore[arg-type]

    def into(self, room: "Planes", first: int = 0) -> "Planes":
        """A copy in the blocks of ``room`` from ``first`` on; from pinned memory the copy may
        still be under way on the current stream."""
        made = {}
        for name, t in self._held().items():
            place = getattr(room, name)
            if name not in _SHARED:
                place = place[first : first + self.blocks]
            made[name] = place.copy_(t, non_blocking=True)
        return replace(self, **made)  # type: ignore[arg-type]

    def scaled(self, factors: Tensor) -> "Planes":
        """The same nonzeros with factors (n,) float32 of rows in place of those here, and without
        residual codes."""
        filled = torch.zeros(self.blocks * BLOCK, dtype=torch.float32, device=factors.device)
        filled[: self.n] = factors
        return replace(
            self, residual=None, gains=None, gain_table=None, factors=filled.view(-1, BLOCK)
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
    """Planes of CSR rows start..stop (of all when they are not given), on the CPU.

    Args:
        indptr: (n + 1,) int64; ids (nnz,) below ``latents``; values (nnz,) float32, float16 or
            int8.
        factors: (n,) float32 by which rows are multiplied, or None.
        latents: h.
        start, stop: see there.
        ranks: the most nonzeros of any row; found where not given, by reading all of ``indptr``.
    """
    stop = len(indptr) - 1 if stop is None else stop
    if ranks is None:
        ranks = int(np.diff(indptr).max(initial=0))
    n, K = stop - start, max(1, ranks)
    slots, numbers = _room(n, K, _slot_dtype(latents)), _room(n, K, values.dtype)
    for a in range(0, n, _PART):
        bounds = indptr[start + a : start + min(a + _PART, n) + 1]
        here = slice(bounds[0], bounds[-1])
        _lay(bounds - bounds[0], a, (ids[here], slots), (values[here], numbers))
    return Planes(
        n, latents, torch.from_numpy(slots), torch.from_numpy(numbers),
        factors=None if factors is None else _by_block(factors[start:stop].astype(np.float32)),
    )  # fmt: skip


def packed_planes(
    rows: Rows,
    levels: np.ndarray,
    gains: np.ndarray,
    latents: int,
    start: int = 0,
    stop: int | None = None,
) -> Planes:
    """Planes of packed rows start..stop (of all when they are not given), on the CPU.

    Args:
        rows: the codes.
        levels: (K, L) float32; gains (256,) float32 factors: see ``compressae.kernels.packed``.
        latents: h.
    """
    stop = len(rows) if stop is None else stop
    n, K, m = stop - start, len(levels), rows.layout.fixed - 1
    together = rows.layout.id_bits + int(rows.layout.value_bits.max()) <= 16
    slots = _room(n, K, _slot_dtype(latents))
    numbers = None if together else _room(n, K, np.uint8)
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
    finite = np.where(np.isfinite(levels), levels, 0).astype(np.float32)  # Levels not in use.
    return Planes(
        n, latents, torch.from_numpy(slots),
        None if numbers is None else torch.from_numpy(numbers),
        torch.from_numpy(finite),
        None if counts is None else _by_block(counts),
        torch.from_numpy(np.ascontiguousarray(head[:, :m])) if m else None,
        torch.from_numpy(np.ascontiguousarray(head[:, m])),
        torch.from_numpy(np.array(gains, np.float32)),
    )  # fmt: skip


def _slot_dtype(latents: int) -> type:
    return np.int16 if latents <= 1 << 16 else np.int32


def _room(n: int, ranks: int, dtype: np.dtype | type) -> np.ndarray:
    return np.zeros((-(-n // BLOCK), ranks, BLOCK), dtype)


def _lay(indptr: np.ndarray, start: int, *parts: tuple[np.ndarray, np.ndarray]) -> None:
    """Flat entries of rows start…, a whole block or more of them unless they are the last, into
    planes."""
    counts = np.diff(indptr)
    first, (whole, rest) = start // BLOCK, divmod(len(counts), BLOCK)
    k, even = int(counts[0]), counts.min() == counts.max()
    if not even:
        rows = np.repeat(np.arange(len(counts)), counts)
        places = rows // BLOCK, np.arange(len(rows)) - np.repeat(indptr[:-1], counts), rows % BLOCK
    for flat, planes in parts:
        # Unsigned ids keep their bits in signed slots, which torch knows more of.
        kind = f"u{planes.itemsize}" if flat.dtype.kind == "u" else flat.dtype
        part = planes.view(kind)[first : first + whole + (rest > 0)]
        if even:
            cut = whole * BLOCK * k
            part[:whole, :k] = flat[:cut].reshape(whole, BLOCK, k).transpose(0, 2, 1)
            if rest:
                part[whole, :k, :rest] = flat[cut:].reshape(rest, k).T
        else:
            part[places] = flat


def _by_block(numbers: np.ndarray) -> Tensor:
    """(n,) as (B, BLOCK)."""
    filled = np.zeros(-(-len(numbers) // BLOCK) * BLOCK, numbers.dtype)
    filled[: len(numbers)] = numbers
    return torch.from_numpy(filled.reshape(-1, BLOCK))
