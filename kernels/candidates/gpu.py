"""Integer sums over posting lists on a GPU, in Triton.

Lists of a window are added into 65,536 sums a query, so many (query, window) pairs at a time as
the L2 cache holds sums of; sums of 32 bits are added atomically and are the same in any order. No
sum overflows: weights are rounded so that ‖w‖·‖row‖ ≤ 2^30, and by Cauchy–Schwarz no sum of some of
a row's products is larger.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.postings import WINDOW, Postings

#: Bytes of sums that stay in the L2 cache.
_SUMS = 32 << 20
_LIMIT = 1 << 30
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Resident:
    """``Postings`` of int8 values on a device: 16-bit row numbers as int16, bounds as int32.

    Raises:
        ValueError: of ``of``, where the values are floats.
    """

    docs: Tensor
    values: Tensor
    bounds: Tensor
    places: Tensor
    rows: int
    norm: float

    @classmethod
    def of(cls, postings: Postings, device: torch.device | str) -> "Resident":
        """The lists on a device."""
        p = postings
        if p.values.dtype != np.int8:
            raise ValueError(f"lists of {p.values.dtype} values: expected int8")
        arrays = (p.docs.view(np.int16), p.values, p.bounds.view(np.int32), p.places)
        return cls(*(torch.tensor(a, device=device) for a in arrays), p.rows, p.norm)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.docs, self.values, self.bounds, self.places))


@triton.jit
def _add_lists(
    docs_ptr, values_ptr, bounds_ptr, places_ptr, latents_ptr, weights_ptr, sums_ptr,
    terms, row, first, windows, width, chunk: tl.constexpr,
):  # fmt: skip
    """One list of one window times one weight, into sums (queries, windows, width) int32."""
    term = tl.program_id(0) % terms
    window = (tl.program_id(0) // terms) % windows
    query = (tl.program_id(0) // terms) // windows
    latent = tl.load(latents_ptr + query * terms + term)
    weight = tl.load(weights_ptr + query * terms + term)
    bounds_ptr += (first + window).to(tl.int64) * row + latent
    begin = tl.load(bounds_ptr)
    length = tl.load(bounds_ptr + 1) - begin
    place = tl.load(places_ptr + first + window) + begin
    sums_ptr += (query * windows + window).to(tl.int64) * width
    lane = tl.arange(0, chunk)
    start = 0
    while start < length:
        inside = start + lane < length
        doc = tl.load(docs_ptr + place + start + lane, mask=inside, other=0).to(tl.int32) & 0xFFFF
        value = tl.load(values_ptr + place + start + lane, mask=inside, other=0).to(tl.int32)
        tl.atomic_add(sums_ptr + doc, weight * value, mask=inside, sem="relaxed")
        start += chunk


def weigh(values: Tensor, norm: float) -> Tensor:
    """Whole weights (q, m) int32 in proportion to values (q, m) float32: ‖w‖·norm ≤ 2^30.

    ‖rint(s·v)‖ ≤ s·‖v‖ + √m / 2, hence s.

    Raises:
        ValueError: rows are too long for any weight.
    """
    m = values.shape[1]
    room = _LIMIT / max(norm, 1.0) - m**0.5 / 2
    if room <= 0:
        raise ValueError(f"{m} weights and rows of length {norm}: sums would pass 32 bits")
    exact = values.double()
    length = exact.norm(dim=1, keepdim=True)
    return (exact * (room / length.clamp(min=1e-300))).round().int()


def top_candidates(
    lists: Resident, latents: Tensor, values: Tensor, count: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See ``compressae.kernels.candidates.top_candidates``.

    Floors on the GPU: 3 bytes a posting from memory, once for the queries that a window's lists
    serve from the L2 cache; one addition in the L2 cache a posting and query, and for each query
    and row 4 bytes zeroed and read there, 8 written and read by the selection.
    """
    q, terms = latents.shape
    device, n, windows = latents.device, lists.rows, len(lists.places)
    latents, weights = latents.int().contiguous(), weigh(values, lists.norm)
    width = min(WINDOW, -(-n // 256) * 256)
    pairs = max(1, _SUMS // (4 * width))
    group = min(windows, max(1, pairs // max(1, q)))
    tile = max(1, pairs // group)
    found = []
    for a in range(0, q, tile):
        m = min(tile, q - a)
        best = torch.zeros(m, 0, dtype=torch.int64, device=device)
        for first in range(0, windows, group):
            here = min(group, windows - first)
            sums = torch.zeros(m, here * width, dtype=torch.int32, device=device)
            _add_lists[(m * here * terms,)](
                lists.docs, lists.values, lists.bounds, lists.places, latents[a:], weights[a:],
                sums, terms, lists.bounds.shape[1], first, here, width, chunk=_CHUNK, num_warps=4,
            )  # fmt: skip
            rows = torch.arange(here * width, device=device) + first * WINDOW
            if mask is not None:
                sums *= mask[rows.clamp(max=n - 1)]
            # Sums and rows in one number, so that no two are equal and ties go to the smaller row;
            # candidates are too many for ``kernels.topk``, which would sort all.
            keys = (sums.long() << 32) | (0xFFFFFFFF - rows)
            keys = keys.topk(min(count, keys.shape[1]), dim=1).values
            best = torch.cat([best, keys], 1)
            best = best.topk(min(count, best.shape[1]), dim=1).values
        found.append(best)
    best = torch.cat(found) if found else torch.zeros(0, count, dtype=torch.int64, device=device)
    sums, rows = best >> 32, 0xFFFFFFFF - (best & 0xFFFFFFFF)
    short = count - best.shape[1]
    rows = torch.nn.functional.pad(torch.where(sums > 0, rows, -1), (0, short), value=-1)
    return rows, torch.nn.functional.pad(sums.clamp(min=0).int(), (0, short))
