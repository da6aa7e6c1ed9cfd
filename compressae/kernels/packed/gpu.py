"""Pack and unpack rows of tensors, in torch.

Packing is by output byte: each gathers the nonzeros that overlap it.
"""

import numpy as np
import torch
from torch import Tensor

from compressae.kernels.packed.layout import SPARE, Layout


def pack(head: Tensor, indices: Tensor, codes: Tensor, shifts: np.ndarray, id_bits: int) -> Tensor:
    """Pack rows of k nonzeros: (n, bytes) uint8; nonzero r takes bits ``shifts[r]:shifts[r + 1]``.

    Lower bounds: 5·n·k bytes read, the rows written; a few operations per overlap of a byte and a
    nonzero.
    """
    n, k = indices.shape
    length = int(shifts[-1] + 7) // 8

    # First nonzero that overlaps each byte, and the most that overlap any.
    bits = 8 * np.arange(length)
    first = np.searchsorted(shifts[1:], bits, side="right")
    most = int((np.searchsorted(shifts[:-1], bits + 8) - first).max(initial=0))

    # Add the nonzeros to their bytes, all bytes at once, by order of overlap.
    words = indices | (codes.int() << id_bits)
    out = torch.zeros(n, length, dtype=torch.int32, device=indices.device)
    for step in range(most):
        rank = np.minimum(first + step, k - 1)
        up = shifts[rank] - bits
        overlaps = (first + step < k) & (up < 8)
        tables = (rank, np.where(overlaps, up, 0).clip(0), (-up).clip(0), 255 * overlaps)
        rank, up, down, mask = (
            torch.as_tensor(table.astype(np.int32), device=out.device) for table in tables
        )
        out |= ((words[:, rank] << up) >> down) & mask
    return torch.cat([head, out.to(torch.uint8)], 1)


def unpack_at(
    data: Tensor, starts: Tensor, counts: Tensor, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Unpack rows of ``counts`` (m,) nonzeros at bytes starts (m,): latents, level numbers (T,).

    Reads ``SPARE`` bytes of ``data`` a nonzero and takes about 60 bytes of memory for each.
    """
    shifts, masks = (
        torch.as_tensor(table.astype(np.int64), device=data.device)
        for table in (layout.shifts, layout.masks)
    )
    owner = torch.repeat_interleave(counts)
    ranks = torch.arange(len(owner), device=data.device) - (counts.cumsum(0) - counts)[owner]
    bits = 8 * (starts[owner] + layout.fixed) + shifts[ranks]
    words = sum(data[(bits >> 3) + b].long() << 8 * b for b in range(SPARE)) >> (bits & 7)
    latents = words & ((1 << layout.id_bits) - 1)
    return latents.int(), (words >> layout.id_bits & masks[ranks]).to(torch.uint8)
