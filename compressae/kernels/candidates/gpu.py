"""Integer scores from posting lists on a GPU, in Triton.

Each window has 65,536 int32 sums per query, for as many (query, window) pairs at a time as the L2
cache holds. Lists are added atomically; integer sums do not depend on the order. No sum overflows:
weights are rounded so that ‖w‖·‖row‖ ≤ 2^30, and Cauchy–Schwarz bounds every partial sum.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.postings import WINDOW, Postings

#: Bytes of sums that fit the L2 cache.
_SUMS = 32 << 20
#: Upper bound of |sum|.
_LIMIT = 1 << 30
#: Postings per step of a program.
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Resident:
    """``Postings`` of int8 values on a device; row numbers viewed as int16, bounds as int32."""

    docs: Tensor
    values: Tensor
    bounds: Tensor
    places: Tensor
    rows: int
    norm: float

    @classmethod
    def of(cls, postings: Postings, device: torch.device | str) -> "Resident":
        """Copy posting lists to a device.

        Raises:
            ValueError: the values are not int8.
        """
        p = postings
        if p.values.dtype != np.int8:
            raise ValueError(f"lists of {p.values.dtype} values: expected int8")
        arrays = (p.docs.view(np.int16), p.values, p.bounds.view(np.int32), p.places)
        return cls(*(torch.tensor(a, device=device) for a in arrays), p.rows, p.norm)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(t.nbytes for t in (self.docs, self.values, self.bounds, self.places))


@triton.jit
def _add_lists(
    docs_ptr,
    values_ptr,
    bounds_ptr,
    places_ptr,
    latents_ptr,
    weights_ptr,
    sums_ptr,
    terms,
    bounds_stride,
    first,
    windows,
    width,
    chunk: tl.constexpr,
):
    """Add one list of one window times one weight to sums (queries, windows, width) int32."""
    # The list of this (query, window, term).
    term = tl.program_id(0) % terms
    window = (tl.program_id(0) // terms) % windows
    query = (tl.program_id(0) // terms) // windows
    latent = tl.load(latents_ptr + query * terms + term)
    weight = tl.load(weights_ptr + query * terms + term)
    bounds_ptr += (first + window).to(tl.int64) * bounds_stride + latent
    begin = tl.load(bounds_ptr)
    length = tl.load(bounds_ptr + 1) - begin
    base = tl.load(places_ptr + first + window) + begin
    sums_ptr += (query * windows + window).to(tl.int64) * width

    # Add its postings.
    lane = tl.arange(0, chunk)
    start = 0
    while start < length:
        inside = start + lane < length
        doc = tl.load(docs_ptr + base + start + lane, mask=inside, other=0).to(tl.int32) & 0xFFFF
        value = tl.load(values_ptr + base + start + lane, mask=inside, other=0).to(tl.int32)
        tl.atomic_add(sums_ptr + doc, weight * value, mask=inside, sem="relaxed")
        start += chunk


def weigh(values: Tensor, norm: float) -> Tensor:
    """Round values (q, m) float32 to proportional int32 weights (q, m) with ‖w‖·norm ≤ 2^30.

    The scale s follows from ‖rint(s·v)‖ ≤ s·‖v‖ + √m / 2.

    Raises:
        ValueError: rows are too long for any weight.
    """
    m = values.shape[1]
    max_length = _LIMIT / max(norm, 1.0) - m**0.5 / 2
    if max_length <= 0:
        raise ValueError(f"{m} weights and rows of length {norm}: sums would pass 32 bits")
    exact = values.double()
    length = exact.norm(dim=1, keepdim=True)
    return (exact * (max_length / length.clamp(min=1e-300))).round().int()


def top_candidates(
    lists: Resident, latents: Tensor, values: Tensor, count: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See ``compressae.kernels.candidates.top_candidates``.

    Lower bounds: 3 bytes per posting from memory, once per tile of queries; per posting and query
    one addition in the L2 cache; per row and query 4 bytes zeroed and read there, and 8 written and
    read by the selection.
    """
    q, terms = latents.shape
    device, n, windows = latents.device, lists.rows, len(lists.places)
    latents, weights = latents.int().contiguous(), weigh(values, lists.norm)
    width = min(WINDOW, -(-n // 256) * 256)

    # As many windows, then queries, at a time as their sums fit the L2 cache.
    pairs = max(1, _SUMS // (4 * width))
    window_group = min(windows, max(1, pairs // max(1, q)))
    tile = max(1, pairs // window_group)
    tiles = []
    for a in range(0, q, tile):
        m = min(tile, q - a)
        best = torch.zeros(m, 0, dtype=torch.int64, device=device)
        for first in range(0, windows, window_group):
            # Scores of a group of windows.
            group_size = min(window_group, windows - first)
            sums = torch.zeros(m, group_size * width, dtype=torch.int32, device=device)
            _add_lists[(m * group_size * terms,)](
                docs_ptr=lists.docs,
                values_ptr=lists.values,
                bounds_ptr=lists.bounds,
                places_ptr=lists.places,
                latents_ptr=latents[a:],
                weights_ptr=weights[a:],
                sums_ptr=sums,
                terms=terms,
                bounds_stride=lists.bounds.shape[1],
                first=first,
                windows=group_size,
                width=width,
                chunk=_CHUNK,
                num_warps=4,
            )
            rows = torch.arange(group_size * width, device=device) + first * WINDOW
            if mask is not None:
                sums *= mask[rows.clamp(max=n - 1)]

            # Merge with the best so far. Keys pack sum and row, so all are distinct and ties go to
            # the smaller row. torch.topk: for so many candidates ``kernels.topk`` would sort all.
            keys = (sums.long() << 32) | (0xFFFFFFFF - rows)
            keys = keys.topk(min(count, keys.shape[1]), dim=1).values
            best = torch.cat([best, keys], 1)
            best = best.topk(min(count, best.shape[1]), dim=1).values
        tiles.append(best)

    # Unpack the keys and pad to ``count`` columns.
    best = torch.cat(tiles) if tiles else torch.zeros(0, count, dtype=torch.int64, device=device)
    sums, rows = best >> 32, 0xFFFFFFFF - (best & 0xFFFFFFFF)
    short = count - best.shape[1]
    rows = torch.nn.functional.pad(torch.where(sums > 0, rows, -1), (0, short), value=-1)
    return rows, torch.nn.functional.pad(sums.clamp(min=0).int(), (0, short))
