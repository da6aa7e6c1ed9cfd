"""Rows of the report: an index of packed codes on the host, searched on a GPU."""

from collections.abc import Iterator

import numpy as np
from benchmarks.gpu.lab import Lab, Row, Task, wall
from benchmarks.gpu.planted import planted

from compressae.kernels.packed import SPARE, pack
from compressae.kernels.threads import over_rows
from compressae.retrieval import CompressedIndex, GpuIndex, PackedCodes, recall_at


def make_index(lab: Lab) -> tuple[CompressedIndex, np.ndarray]:
    """The trained codes packed in host memory, and dense queries to them."""
    made = planted(lab)
    ids, numbers, gains = (t.cpu().numpy() for t in (made.ids, made.numbers, made.gains))
    length = int(made.quantizer.layout.lengths[-1])
    data = np.zeros(len(ids) * length + SPARE, np.uint8)
    rows = data[: len(ids) * length].reshape(len(ids), length)

    def fill(start: int, stop: int) -> None:
        for a in range(start, stop, 1 << 18):
            b = min(a + (1 << 18), stop)
            head, latents = gains[a:b, None], ids[a:b].astype(np.int32)
            rows[a:b] = pack(head, latents, numbers[a:b], made.quantizer.layout)

    over_rows(fill, len(ids))
    settings = {"refit": True, "nonzeros": ids.shape[1]}
    codes = PackedCodes(data, None, made.quantizer, made.model.model_id, settings)
    index = CompressedIndex(made.model.projection, codes, projection_type="float32", lists=False)
    return index, made.queries.cpu().numpy()


def index_rows(lab: Lab) -> Iterator[Task]:
    """Dense queries in, ids out, both on the host; the scan is checked against the CPU's."""
    index, dense = make_index(lab)
    gpu = GpuIndex(index, lab.device)
    size, few = f"{len(index):,} rows", lab.pick(8, 1)
    whole = gpu.search(dense, lab.results, candidates="all")

    def scanned(q: int) -> Row:
        expected = index.search(dense[:few], lab.results, candidates="all")
        error = float(np.abs(whole.scores[:few] - expected.scores).max())
        if error > 1e-3:
            raise AssertionError(f"scores differ from the CPU's by {error}")
        same = recall_at(whole.ids[:few], expected.ids, lab.results)
        return Row(
            wall(lab, lambda: gpu.search(dense[:q], lab.results, candidates="all")),
            gpu.nbytes,
            note=f"{same:.4f} of the CPU's results; by the clock",
        )

    def sketched(q: int, candidates: int | None) -> Row:
        hits = gpu.search(dense[:q], lab.results, candidates=candidates)
        same = recall_at(hits.ids, whole.ids[:q], lab.results)
        return Row(
            wall(lab, lambda: gpu.search(dense[:q], lab.results, candidates=candidates)),
            note=f"{same:.4f} of a scan's results; {gpu.nbytes / len(index):.0f} bytes a row; by "
            "the clock",
        )

    for q in lab.pick((1, 4, 8, 16, 512), (1,)):
        yield Task("GpuIndex.search, a scan", f"{size}, {q} queries", lambda q=q: scanned(q))  # type: ignore[misc]
        yield Task(
            f"GpuIndex.search by sketches, {8 * lab.results} blocks",
            f"{size}, {q} queries",
            lambda q=q: sketched(q, 8 * lab.results),  # type: ignore[misc]
        )
    for q in lab.pick((16, 64, 300, 512), (2,)):
        yield Task(
            "GpuIndex.search as it chooses",
            f"{size}, {q} queries",
            lambda q=q: sketched(q, None),  # type: ignore[misc]
        )
    tenth = GpuIndex(index, lab.device, memory=lab.pick(index.codes.nbytes // 10, 4_000))
    yield Task(
        "GpuIndex.search, streamed from the host",
        f"{size}, {len(dense)} queries",
        lambda: Row(wall(lab, lambda: tenth.search(dense, lab.results), 3), note="by the clock"),
    )


index_parts = (index_rows,)
