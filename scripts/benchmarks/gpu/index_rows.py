"""Rows of the report: an index of packed codes on the host, searched on a GPU."""

from collections.abc import Iterator

import numpy as np
from benchmarks.gpu.lab import Lab, Row, Task, timed, wall
from benchmarks.gpu.planted import DIM, LATENTS, LEVELS, NONZEROS, SEED, drawn_ids, quantizer
from benchmarks.gpu.search_rows import asked_queries

from compressae import CompresSAE
from compressae.kernels.candidates import resident, top_candidates
from compressae.kernels.packed import SPARE, pack
from compressae.kernels.threads import over_rows
from compressae.kernels.topk import abs_topk
from compressae.retrieval import CompressedIndex, GpuIndex, PackedCodes, recall_at


def make_index(lab: Lab, n: int) -> CompressedIndex:
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
    return CompressedIndex(model.projection, codes, projection_type="float32")


def index_rows(lab: Lab) -> Iterator[Task]:
    index = make_index(lab, lab.pick(10_000_000, 300))
    yield from end_to_end(lab, index)
    yield from lists(lab, index)
    yield from streams(lab, index)


def lists(lab: Lab, index: CompressedIndex) -> Iterator[Task]:
    """Candidates from posting lists, the first stage of a search, alone."""
    postings = index.segments.merged().lists
    assert postings is not None
    held = resident(postings, lab.device)
    lengths = np.diff(postings.bounds.astype(np.int64), axis=1).sum(0)
    nonzeros, count = lab.pick((64, 3000), (8, 50))

    def run(q: int) -> Row:
        latents, values = abs_topk(asked_queries(lab, q), nonzeros)
        touched = int(lengths[latents.cpu().numpy()].sum())
        time = timed(lab, lambda: top_candidates(held, latents, values, count), 0.1)
        return Row(
            time,
            3 * min(touched, int(lengths.sum())),
            note=f"{held.nbytes / len(index):.0f} bytes a row; {touched:,} additions in the L2 "
            f"cache, {touched / time.median / 1e6:.1f}e9 a second",
        )

    for q in lab.pick((1, 512), (1, 2)):
        yield Task(
            f"posting lists, the best {count:,}",
            f"{len(index):,} rows, {q} queries",
            lambda q=q: run(q),  # type: ignore[misc]
        )


def end_to_end(lab: Lab, index: CompressedIndex) -> Iterator[Task]:
    """Dense queries in, ids out, both on the host; checked against the CPU's scan."""
    rng = np.random.default_rng(SEED)
    dense = rng.standard_normal((lab.pick(512, 1), DIM), dtype=np.float32)
    gpu = GpuIndex(index, lab.device)
    few, candidates = lab.pick((8, 3000), (1, 200))
    size = f"{len(index):,} rows"

    def scanned(q: int) -> Row:
        expected = index.search(dense[:few], lab.results, candidates="all")
        hits = gpu.search(dense[:few], lab.results, candidates="all")
        error = float(np.abs(hits.scores - expected.scores).max())
        if error > 1e-3:
            raise AssertionError(f"scores differ from the CPU's by {error}")
        same = recall_at(hits.ids, expected.ids, lab.results)
        return Row(
            wall(lab, lambda: gpu.search(dense[:q], lab.results, candidates="all")),
            gpu.nbytes,
            note=f"{same:.4f} of the CPU's results; by the clock",
        )

    for q in sorted({1, len(dense)}):
        yield Task("GpuIndex.search, a scan", f"{size}, {q} queries", lambda q=q: scanned(q))  # type: ignore[misc]
        yield Task(
            f"GpuIndex.search, {candidates:,} candidates of lists",
            f"{size}, {q} queries",
            lambda q=q: Row(  # type: ignore[misc]
                wall(lab, lambda: gpu.search(dense[:q], lab.results, candidates=candidates)),
                note="64 query nonzeros; by the clock",
            ),
        )


def streams(lab: Lab, index: CompressedIndex) -> Iterator[Task]:
    """Search an index when a tenth of it fits the GPU."""
    dense = np.random.default_rng(SEED).standard_normal((lab.pick(512, 1), DIM), dtype=np.float32)
    gpu = GpuIndex(index, lab.device, memory=lab.pick(index.codes.nbytes // 10, 34_000))
    yield Task(
        "GpuIndex.search, streamed from the host",
        f"{len(index):,} rows, {len(dense)} queries",
        lambda: Row(
            wall(lab, lambda: gpu.search(dense, lab.results), 3),
            note="by the clock",
        ),
    )


index_parts = (index_rows,)
