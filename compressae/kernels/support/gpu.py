"""Choice of supports by orthogonal least squares on a GPU: products by torch, choices in Triton.

The method of ``support.cpu``, greedy, but for what is kept: of the basis of a row its products with
the latents alone, in float16. Correlations and lengths follow from these in every step, so that a
step reads them once. A program takes a row at a time, few enough rows that what it keeps of them
stays in the caches.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressae.kernels.backend import interprets
from compressae.kernels.support.cpu import LEAST
from compressae.kernels.topk.gpu import largest, processors

#: Most entries of a batch's (rows, h) products, and bytes of the programs' bases.
_PRODUCTS, _BASES = 1 << 26, 1 << 28
#: Latents of a tile of the first steps, a program's warps, and programs per multiprocessor.
_TILE, _WARPS, _PROGRAMS = 2048, 8, 2
#: Of the later steps, whose only tile is a shortlist, warps and programs.
_LATER_WARPS, _LATER_PROGRAMS = 4, 16


@triton.jit(do_not_specialize=["n", "k", "tiles", "filled", "last", "count", "least"])
def _choose(
    products_ptr,
    gram_ptr,
    shortlist_ptr,
    support_ptr,
    z_ptr,
    basis_ptr,
    scores_ptr,
    n,
    k,
    tiles,
    filled,
    last,
    count,
    least,
    listed: tl.constexpr,
    scored: tl.constexpr,
    tile: tl.constexpr,
    lanes: tl.constexpr,
    ranks: tl.constexpr,
):
    """Choose latents ``filled`` … ``last`` − 1 of each row: among all, ``count`` = h, or among the
    first ``count`` of its shortlist (n, lanes), which holds those chosen before.

    support and z (n, k) are latents and the row's products with the basis; basis (programs, last,
    lanes of all tiles) float16 has the latents'. products (n, tiles·tile) become NaN at chosen
    latents. If ``scored``, scores of that shape are written after the last step, infinity for
    chosen latents. Squared lengths of parts orthogonal to the basis count as ``least`` at least. A
    row has as many tiles of ``lanes`` = ``tile`` latents, or one shortlist.
    """
    lane, rank = tl.arange(0, lanes), tl.arange(0, ranks)
    k, stride = k.to(tl.int64), tiles.to(tl.int64) * tile
    room = lanes if listed else stride
    basis_ptr += tl.program_id(0).to(tl.int64) * last * room
    for row in range(tl.program_id(0), n, tl.num_programs(0)):
        own_ptr, own_scores_ptr = products_ptr + row * stride, scores_ptr + row * stride
        own_support_ptr, own_z_ptr = support_ptr + row * k, z_ptr + row * k
        best = tl.full([lanes], -1.0, tl.float32)
        at = tl.zeros([lanes], tl.int32)
        if listed:
            # In ascending order, so that neighbours in the list are so in memory too.
            ids = tl.load(shortlist_ptr + row * lanes + lane)
            ids = tl.sort(tl.where(lane < count, ids, 0x7FFFFFFF))
            ids = tl.where(lane < count, ids, 0)
            own = tl.load(own_ptr + ids).to(tl.float32)
        else:
            # Before any step the scores are squared products.
            for start in range(0, count, lanes):
                t = start + lane
                c = tl.load(own_ptr + t).to(tl.float32)
                score = tl.where((c == c) & (t < count), c * c, -1.0)
                at = tl.where(score > best, t, at)
                best = tl.maximum(best, score)

        for s in range(0, last):
            # The latent of this step, and its place in the tiles.
            if s < filled:
                j = tl.load(own_support_ptr + s)
                place = j
                if listed:
                    place = tl.min(tl.where(ids == j, lane, lanes - 1), 0)  # Latent 0 stands first.
            else:
                place = tl.min(tl.where(best == tl.max(best, 0), at, 0x7FFFFFFF), 0)
                j = place
                if listed:
                    j = tl.max(tl.where(lane == place, ids, 0), 0)

            # Its products with the basis, and those of the row with the new basis vector.
            is_before = rank < s
            of_j = tl.load(basis_ptr + rank * room + place, mask=is_before, other=0.0)
            of_j = of_j.to(tl.float32)
            inverse = 1 / tl.sqrt(tl.maximum(1 - tl.sum(of_j * of_j, 0), least))
            if s < filled:
                z = tl.load(own_z_ptr + s)
            else:
                before = tl.load(own_z_ptr + rank, mask=is_before, other=0.0)
                z = tl.load(own_ptr + j).to(tl.float32) - tl.sum(of_j * before, 0)
                z = z * inverse
                tl.debug_barrier()
                tl.store(own_support_ptr + s, j)
                tl.store(own_z_ptr + s, z)
                tl.store(own_ptr + j, float("nan"))

            # Products of all latents with it, and their scores.
            best = tl.full([lanes], -1.0, tl.float32)
            for start in range(0, count, lanes):
                t = start + lane
                if listed:
                    c = own
                else:
                    ids = t
                    c = tl.load(own_ptr + t).to(tl.float32)
                p = tl.load(gram_ptr + j * stride + ids).to(tl.float32)
                length = tl.full([lanes], 1.0, tl.float32)
                for b in range(0, s):
                    q = tl.load(basis_ptr + b * room + t).to(tl.float32)
                    p -= tl.load(basis_ptr + b * room + place).to(tl.float32) * q
                    c -= tl.load(own_z_ptr + b) * q
                    length -= q * q
                p = p * inverse
                tl.store(basis_ptr + s * room + t, p.to(tl.float16))
                c -= z * p
                length -= p * p
                # NaN at ``place`` is another thread's to write, perhaps after this one has read.
                is_open = (c == c) & (t != place) & (t < count)
                score = tl.where(is_open, c * c / tl.maximum(length, least), -1.0)
                if scored:
                    out = tl.where(is_open, score, tl.where(t < count, float("inf"), -1.0))
                    tl.store(own_scores_ptr + t, out, mask=s == last - 1)
                at = tl.where(score > best, t, at)
                best = tl.maximum(best, score)
            if listed:
                own = tl.where(lane == place, float("nan"), own)
            tl.debug_barrier()


def _lanes(h: int) -> int:
    """Latents of a tile."""
    return min(_TILE, max(32 * _WARPS, triton.next_power_of_2(h)))


def prepare(weights: Tensor) -> tuple[Tensor, Tensor]:
    """What ``select_latents`` reads of latents (h, d) float32, brought to unit length and padded by
    latents of zeros to h' of them: columns (d, h') in the dtype of the products, and the Gram
    matrix (h', h') float16."""
    unit = _unit(weights)
    unit = torch.nn.functional.pad(unit, (0, 0, 0, -len(unit) % _lanes(len(unit))))
    dtype = torch.float32 if interprets() else torch.bfloat16
    return unit.to(dtype).T, (unit @ unit.T).half()


def _unit(x: Tensor) -> Tensor:
    """Rows of unit length; rows of zeros stay."""
    peaks = x.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.nn.functional.normalize(x / peaks)  # So that no square leaves float32.


def select_latents(
    x: Tensor, h: int, projection: Tensor, gram: Tensor, k: int, steps: int, width: int
) -> Tensor:
    """Latents (n, k) int32 of rows x (n, d) float32, in the order of their choice.

    Lower bounds, per row: d·h multiply-adds on the tensor cores; in step s, 2·h bytes of the Gram
    matrix and 2·s·h of the basis, from the caches, and of the later steps 2·s·width.

    Args:
        x: rows on the device.
        h: latents.
        projection, gram: of ``prepare``.
        k: latents of a row.
        steps: how many steps look at all latents.
        width: how many latents the others look at.
    """
    n = len(x)
    support = torch.empty(n, k, dtype=torch.int32, device=x.device)
    size = max(1, _PRODUCTS // projection.shape[1])
    for start in range(0, n, size):
        part = slice(start, start + size)
        products = _unit(x[part]).to(projection.dtype) @ projection
        _select_batch(products, h, gram, support[part], steps, width)
    return support


def _select_batch(
    products: Tensor, h: int, gram: Tensor, support: Tensor, steps: int, width: int
) -> None:
    """Fill support (m, k) of one batch; products (m, h') are overwritten."""
    (m, k), device, tile = support.shape, products.device, _lanes(h)
    z = torch.empty(m, k, device=device)
    scores = torch.empty(products.shape, device=device) if steps < k else None

    def launch(
        shortlist: Tensor | None, filled: int, last: int, lanes: int, warps: int, programs: int
    ) -> None:
        room = products.shape[1] if shortlist is None else lanes
        programs = min(m, processors(products) * programs, max(1, _BASES // (2 * last * room)))
        is_scored = shortlist is None and scores is not None
        _choose[(programs,)](
            products_ptr=products,
            gram_ptr=gram,
            shortlist_ptr=support if shortlist is None else shortlist,
            support_ptr=support,
            z_ptr=z,
            basis_ptr=torch.empty(programs, last, room, dtype=torch.float16, device=device),
            scores_ptr=scores if is_scored else z,
            n=m,
            k=k,
            tiles=products.shape[1] // tile,
            filled=filled,
            last=last,
            count=h if shortlist is None else width,
            least=float(LEAST),
            listed=shortlist is not None,
            scored=is_scored,
            tile=tile,
            lanes=lanes,
            ranks=max(16, triton.next_power_of_2(k)),
            num_warps=warps,
            maxnreg=128,  # Left alone, the compiler spills a few registers to need fewer.
        )

    launch(None, 0, steps, tile, _WARPS, _PROGRAMS)
    if scores is not None:
        lanes = triton.next_power_of_2(width)
        shortlist = largest(scores, width)[0].int()
        shortlist = torch.nn.functional.pad(shortlist, (0, lanes - width))
        launch(shortlist, steps, k, lanes, _LATER_WARPS, _LATER_PROGRAMS)
