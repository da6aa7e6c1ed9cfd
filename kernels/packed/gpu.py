"""Bit-packed rows of tensors, in torch: every byte gathers the nonzeros that lie in it."""

import numpy as np
import torch
from torch import Tensor


def pack(head: Tensor, indices: Tensor, codes: Tensor, shifts: np.ndarray, id_bits: int) -> Tensor:
    """Rows (n, bytes) uint8 of k nonzeros; the r-th starts at bit ``shifts[r]`` of k + 1.

    Floors: 5·n·k bytes read, the rows written; a few operations a byte and nonzero that meet.
    """
    n, k = indices.shape
    length = int(shifts[-1] + 7) // 8
    bits = 8 * np.arange(length)
    first = np.searchsorted(shifts[1:], bits, side="right")  # The first that ends after the bit.
    most = int((np.searchsorted(shifts[:-1], bits + 8) - first).max(initial=0))
    words = indices | (codes.int() << id_bits)
    out = torch.zeros(n, length, dtype=torch.int32, device=indices.device)
    for step in range(most):
        rank = np.minimum(first + step, k - 1)
        up = shifts[rank] - bits
        meets = (first + step < k) & (up < 8)
        tables = (rank, np.where(meets, up, 0).clip(0), (-up).clip(0), 255 * meets)
        rank, up, down, mask = (
            torch.as_tensor(table.astype(np.int32), device=out.device) for table in tables
        )
        out |= ((words[:, rank] << up) >> down) & mask
    return torch.cat([head, out.to(torch.uint8)], 1)
