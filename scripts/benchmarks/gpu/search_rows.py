"""Rows of the report: search on a GPU beside torch's own products."""

from collections.abc import Iterator

import numpy as np
import torch
from benchmarks.gpu.lab import Lab, Row, milliseconds, wall

from compressae import CompresSAE
from compressae.kernels.candidates import resident, top_candidates
from compressae.kernels.packed import SPARE, pack
from compressae.kernels.scan import SCAN_BLOCK, Planes, packed_planes, scan
from compressae.kernels.scan import gpu as forms
from compressae.kernels.threads import over_rows
from compressae.kernels.topk import abs_topk
from compressae.retrieval import CompressedIndex, GpuIndex, PackedCodes, recall_at
from compressae.retrieval.codes.quantizer import RowQuantizer

LATENTS, NONZEROS, DIM = 4096, 32, 768
#: Levels of a rank: 4 bits, so that a nonzero takes 16 and a row 65 bytes.
LEVELS = 16
SEED = 0


def search_rows(lab: Lab) -> Iterator[Row]:
    codes, index = make_index(lab, lab.pick(10_000_000, 300))
    yield from scans(lab, codes)
    yield from lists(lab, index)
    yield from end_to_end(lab, index)
    yield from streams(lab, index)
    yield from sparse_peer(lab, codes)
    yield from dense_peer(lab, len(codes))
    yield from a_hundred_million(lab)


def drawn_ids(lab: Lab, n: int, seed: int) -> torch.Tensor:
    """Draw latents (n, NONZEROS) int64, one from each of NONZEROS groups, so distinct in a row.

    Within a group they are skewed: the most frequent about 10 times the median.
    """
    generator = torch.Generator(lab.device).manual_seed(seed)
    group = LATENTS // NONZEROS
    order = torch.randperm(LATENTS, device=lab.device, generator=generator).view(NONZEROS, group)
    popularity = (torch.arange(group, device=lab.device) + 1.0) ** -0.6
    cdf = torch.cumsum(popularity / popularity.sum(), 0)
    ids = torch.empty(n, NONZEROS, dtype=torch.int64, device=lab.device)
    for start in range(0, n, 1 << 20):
        part = ids[start : start + (1 << 20)]
        place = torch.searchsorted(
            cdf, torch.rand(part.shape, device=lab.device, generator=generator)
        )
        part[:] = order[torch.arange(NONZEROS, device=lab.device), place.clamp_(max=group - 1)]
    return ids


def quantizer() -> RowQuantizer:
    """A quantiser of 16 levels a rank, smaller at later ranks; without residual codes."""
    even = np.linspace(-1, 1, LEVELS, dtype=np.float32)
    ranks = (np.arange(NONZEROS, dtype=np.float32) + 1) ** -0.5
    return RowQuantizer(
        latents=LATENTS,
        error_weighting=np.eye(DIM, dtype=np.float32),
        levels=(ranks[:, None] * even).astype(np.float32),
        value_bits=np.full(NONZEROS, LEVELS.bit_length() - 1),
        gains=np.linspace(0.5, 1.5, 256, dtype=np.float32),
        project=np.empty((DIM, 0), np.float32),
        restore=np.empty((DIM, 0), np.float32),
        codebooks=np.empty((0, 256, 0), np.float32),
    )


def make_index(lab: Lab, n: int) -> tuple[PackedCodes, CompressedIndex]:
    """Random packed codes of an untrained model, and their posting lists."""
    model, row_quantizer = CompresSAE(DIM, LATENTS, NONZEROS, SEED), quantizer()
    length = int(row_quantizer.layout.lengths[-1])
    data = np.zeros(n * length + SPARE, np.uint8)
    rows = data[: n * length].reshape(n, length)
    ids = drawn_ids(lab, n, SEED).int().cpu().numpy()

    def fill(start: int, stop: int) -> None:
        rng = np.random.default_rng([SEED, start])
        for a in range(start, stop, 1 << 18):
            b = min(a + (1 << 18), stop)
            numbers = rng.integers(0, LEVELS, (b - a, NONZEROS), np.uint8)
            head = rng.integers(0, 256, (b - a, 1), np.uint8)
            rows[a:b] = pack(head, ids[a:b], numbers, row_quantizer.layout)

    over_rows(fill, n)
    codes = PackedCodes(
        data, None, row_quantizer, model.model_id, {"refit": True, "nonzeros": NONZEROS}
    )
    return codes, CompressedIndex(model.projection, codes, projection_type="float32")


def queries(lab: Lab, q: int) -> torch.Tensor:
    generator = torch.Generator(lab.device).manual_seed(SEED + 1)
    return torch.randn(q, LATENTS, device=lab.device, generator=generator)


def scan_row(lab: Lab, planes: Planes, q: int, half: bool = False, note: str = "") -> Row:
    asked = queries(lab, q)
    ms = milliseconds(lab, lambda: scan(planes, asked, None, lab.results, half=half))
    terms = len(planes) * NONZEROS * q
    return Row(
        "scan" + (", q' in float16" if half else ""),
        f"{len(planes):,} rows, {q} queries",
        ms,
        planes.nbytes + 4 * q * planes.blocks,
        2 * terms,
        note=f"{planes.nbytes / len(planes):.1f} bytes a row; {terms / ms / 1e9:.2f}e12 terms a "
        f"second, each a read of q' from L1 cache or shared memory, which no floor counts{note}",
    )


def scans(lab: Lab, codes: PackedCodes) -> Iterator[Row]:
    q = codes.quantizer
    planes = packed_planes(codes.rows, q.levels, q.gains, LATENTS).to(lab.device)
    for form in ("shared", "cached"):
        asked = queries(lab, 1)
        ms = milliseconds(lab, lambda form=form: forms.block_maxima(planes, asked, None, form=form))
        yield Row(
            f"block maxima, q' {form}",
            f"{len(planes):,} rows, 1 query",
            ms,
            planes.nbytes + 4 * planes.blocks,
            2 * len(planes) * NONZEROS,
        )
    for count in lab.pick((1, 8, 32, 512), (1, 2)):
        yield scan_row(lab, planes, count)
    yield scan_row(lab, planes, lab.pick(512, 2), True)


def lists(lab: Lab, index: CompressedIndex) -> Iterator[Row]:
    """Candidates from posting lists, the first stage of a search, alone."""
    postings = index.segments.merged().lists
    assert postings is not None
    held = resident(postings, lab.device)
    lengths = np.diff(postings.bounds.astype(np.int64), axis=1).sum(0)
    nonzeros, count = lab.pick((64, 3000), (8, 50))
    for q in lab.pick((1, 512), (1, 2)):
        latents, values = abs_topk(queries(lab, q), nonzeros)
        touched = int(lengths[latents.cpu().numpy()].sum())
        ms = milliseconds(lab, lambda i=latents, v=values: top_candidates(held, i, v, count), 0.1)
        yield Row(
            f"posting lists, the best {count:,}",
            f"{len(index):,} rows, {q} queries",
            ms,
            3 * min(touched, int(lengths.sum())),
            note=f"{held.nbytes / len(index):.0f} bytes a row; {touched:,} additions in the L2 "
            f"cache, {touched / ms / 1e6:.1f}e9 a second",
        )


def end_to_end(lab: Lab, index: CompressedIndex) -> Iterator[Row]:
    """Dense queries in, ids out, both on the host; checked against the CPU's scan."""
    rng = np.random.default_rng(SEED)
    dense = rng.standard_normal((lab.pick(512, 1), DIM), dtype=np.float32)
    gpu = GpuIndex(index, lab.device)
    few, candidates = lab.pick((8, 3000), (1, 200))
    expected = index.search(dense[:few], lab.results, candidates="all")
    hits = gpu.search(dense[:few], lab.results)
    error = float(np.abs(hits.scores - expected.scores).max())
    if error > 1e-3:
        raise AssertionError(f"scores differ from the CPU's by {error}")
    same = recall_at(hits.ids, expected.ids, lab.results)
    size = f"{len(index):,} rows"
    for q in sorted({1, len(dense)}):
        yield Row(
            "GpuIndex.search, a scan",
            f"{size}, {q} queries",
            wall(lab, lambda q=q: gpu.search(dense[:q], lab.results)),
            gpu.nbytes,
            note=f"{same:.4f} of the CPU's results; by the clock",
        )
        yield Row(
            f"GpuIndex.search, {candidates:,} candidates of lists",
            f"{size}, {q} queries",
            wall(lab, lambda q=q: gpu.search(dense[:q], lab.results, candidates=candidates)),
            note="64 query nonzeros; by the clock",
        )


def streams(lab: Lab, index: CompressedIndex) -> Iterator[Row]:
    """Search an index when a tenth of it fits the GPU."""
    dense = np.random.default_rng(SEED).standard_normal((lab.pick(512, 1), DIM), dtype=np.float32)
    gpu = GpuIndex(index, lab.device, memory=lab.pick(index.codes.nbytes // 10, 34_000))
    yield Row(
        "GpuIndex.search, streamed from the host",
        f"{len(index):,} rows, {len(dense)} queries",
        wall(lab, lambda: gpu.search(dense, lab.results), 3),
        note="by the clock",
    )


def sparse_peer(lab: Lab, codes: PackedCodes) -> Iterator[Row]:
    """cuSPARSE over the same codes, then top K by column or of the transpose, the faster of the
    two."""
    n, plain = len(codes), codes.unpack()
    matrix = torch.sparse_csr_tensor(
        torch.from_numpy(plain.indptr.astype(np.int32)),
        torch.from_numpy(plain.indices.astype(np.int32)),
        torch.from_numpy(np.array(plain.values, np.float32)),
        (n, LATENTS),
        device=lab.device,
        check_invariants=False,
    )
    nbytes = n * (NONZEROS * 8 + 4)
    for q in lab.pick((1, 512), (1, 2)):
        asked = queries(lab, q).T.contiguous()

        def single(asked: torch.Tensor = asked[:, 0]) -> None:
            (matrix @ asked).topk(lab.results)

        def down(asked: torch.Tensor = asked) -> None:
            for part in asked.split(128, 1):  # (n, 128) float32 at a time.
                (matrix @ part).topk(lab.results, dim=0)

        def across(asked: torch.Tensor = asked) -> None:
            for part in asked.split(128, 1):
                (matrix @ part).T.contiguous().topk(lab.results)

        ways = (single,) if q == 1 else (down, across)
        yield Row(
            "peer: torch.sparse CSR, topk",
            f"{n:,} rows, {q} queries",
            min(milliseconds(lab, way, 0.1) for way in ways),
            nbytes,
            note=f"{nbytes / n:.0f} bytes a row and {4 * n * min(q, 128) / 1e9:.2f} GB of scores",
        )


def dense_peer(lab: Lab, n: int) -> Iterator[Row]:
    """Brute force over dense rows in bfloat16."""
    dense = torch.randn(n, DIM, device=lab.device, dtype=torch.bfloat16)
    size = 1 << 20
    for q in lab.pick((1, 512), (1, 2)):
        asked = torch.randn(q, DIM, device=lab.device, dtype=torch.bfloat16)

        def brute(asked: torch.Tensor = asked) -> None:
            scores, ids = [], []
            for start in range(0, n, size):
                part = asked @ dense[start : start + size].T
                best = part.topk(min(lab.results, part.shape[1]))
                scores.append(best.values)
                ids.append(best.indices + start)
            top = torch.cat(scores, 1).topk(lab.results).indices
            torch.cat(ids, 1).gather(1, top)

        yield Row(
            "peer: bfloat16 brute force, topk",
            f"{n:,} × {DIM}, {q} queries",
            milliseconds(lab, brute),
            2 * n * DIM,
            2 * n * DIM * q,
            "bfloat16",
            note=f"{2 * DIM} bytes a row",
        )


def a_hundred_million(lab: Lab) -> Iterator[Row]:
    """Scan rows that are made on the GPU itself."""
    blocks = lab.pick(100_000_000, 256) // SCAN_BLOCK
    row_quantizer = quantizer()
    levels, gain_table = (
        torch.from_numpy(array).to(lab.device)
        for array in (row_quantizer.levels, row_quantizer.gains)
    )
    slots = torch.empty(blocks, NONZEROS, SCAN_BLOCK, dtype=torch.int16, device=lab.device)
    for part in slots.split(1 << 12):
        ids = drawn_ids(lab, len(part) * SCAN_BLOCK, SEED).view(len(part), SCAN_BLOCK, NONZEROS)
        numbers = torch.randint(LEVELS, ids.shape, device=lab.device)
        part.copy_((ids | numbers << 12).transpose(1, 2))
    planes = Planes(
        blocks * SCAN_BLOCK,
        LATENTS,
        slots,
        None,
        levels,
        gains=torch.randint(256, (blocks, SCAN_BLOCK), device=lab.device).to(torch.uint8),
        gain_table=gain_table,
    )
    note = f"; {planes.nbytes / 1e9:.2f} GB on the card"
    for q in lab.pick((1, 512), (1,)):
        yield scan_row(lab, planes, q, note=note)
