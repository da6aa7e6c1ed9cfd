"""Rows of the report: search on a GPU beside torch's own products."""

from collections.abc import Callable, Iterator

import torch
from benchmarks.gpu.lab import Lab, Row, Task, timed
from benchmarks.gpu.planted import LATENTS, LEVELS, NONZEROS, SEED, drawn_ids, quantizer

from compressae.kernels.maxima.gpu import block_maxima
from compressae.kernels.scan import SCAN_BLOCK, Planes, rescore, scan
from compressae.kernels.scan import gpu as forms
from compressae.kernels.topk import largest

DIM = 768
#: Columns of a sketch, and rows of its blocks.
SKETCH, BLOCK = 64, 32


def asked_queries(lab: Lab, q: int, columns: int = LATENTS) -> torch.Tensor:
    generator = torch.Generator(lab.device).manual_seed(SEED + 1)
    return torch.randn(q, columns, device=lab.device, generator=generator)


def planted_planes(lab: Lab, n: int) -> Planes:
    """Make planes of about n rows on the GPU itself."""
    blocks = n // SCAN_BLOCK
    row_quantizer = quantizer()
    levels, gain_table = (
        torch.from_numpy(array).to(lab.device)
        for array in (row_quantizer.levels, row_quantizer.gains)
    )
    slots = torch.empty(blocks, NONZEROS, SCAN_BLOCK, dtype=torch.int16, device=lab.device)
    for i, part in enumerate(slots.split(1 << 12)):
        ids = drawn_ids(lab, len(part) * SCAN_BLOCK, i).view(len(part), SCAN_BLOCK, NONZEROS)
        numbers = torch.randint(LEVELS, ids.shape, device=lab.device)
        part.copy_((ids | numbers << 12).transpose(1, 2))
    return Planes(
        blocks * SCAN_BLOCK,
        LATENTS,
        slots,
        None,
        levels,
        gains=torch.randint(256, (blocks, SCAN_BLOCK), device=lab.device).to(torch.uint8),
        gain_table=gain_table,
    )


def scan_row(lab: Lab, planes: Planes, q: int, half: bool = False) -> Task:
    asked = asked_queries(lab, q)

    def run() -> Row:
        time = timed(lab, lambda: scan(planes, asked, None, lab.results, half=half))
        terms = len(planes) * NONZEROS * q
        return Row(
            time,
            planes.nbytes + 4 * q * planes.blocks,
            2 * terms,
            note=f"{planes.nbytes / len(planes):.1f} bytes a row, {planes.nbytes / 1e9:.2f} GB; "
            f"{terms / time.median / 1e9:.2f}e12 terms a second, each a read of q' from L1 or "
            "shared memory, which no floor counts",
        )

    return Task(
        "scan" + (", q' in float16" if half else ""), f"{len(planes):,} rows, {q} queries", run
    )


def scan_rows(lab: Lab) -> Iterator[Task]:
    planes = planted_planes(lab, lab.pick(10_000_000, 512))
    for form in ("shared", "cached"):
        asked = asked_queries(lab, 1)
        yield Task(
            f"block maxima of a scan, q' {form}",
            f"{len(planes):,} rows, 1 query",
            lambda form=form, asked=asked: Row(  # type: ignore[misc]
                timed(lab, lambda: forms.block_maxima(planes, asked, None, form=form)),
                planes.nbytes + 4 * planes.blocks,
                2 * len(planes) * NONZEROS,
            ),
        )
    for count in lab.pick((1, 8, 32, 512), (1, 2)):
        yield scan_row(lab, planes, count)
    yield scan_row(lab, planes, lab.pick(512, 2), True)
    yield from sketch_tasks(lab, planes)


def sketch_tasks(lab: Lab, planes: Planes) -> Iterator[Task]:
    """Candidates by int8 sketches of rows, then the exact scores of the best blocks."""
    n, q, count = len(planes), lab.pick(512, 2), lab.pick(400, 3)
    sketch = torch.randint(-127, 128, (n, SKETCH), device=lab.device, dtype=torch.int8)
    small = torch.randint(-127, 128, (q, SKETCH), device=lab.device, dtype=torch.int8)
    asked = asked_queries(lab, q)
    size = f"{n:,} rows, {q} queries"

    def maxima(block: int = BLOCK, **form: int) -> Callable[[], Row]:
        return lambda: Row(
            timed(lab, lambda: block_maxima(small, sketch, block, **form)),
            sketch.nbytes + 4 * q * n / block,
            2 * n * q * SKETCH,
            "bfloat16",
        )

    for block in (16, 32, 64):
        yield Task(f"sketch maxima, blocks of {block}", size, maxima(block))
    for form in (
        dict(tile=256, together=128, warps=8),
        dict(tile=128, together=128, warps=4),
        dict(tile=128, together=64, warps=4),
        dict(tile=256, together=64, warps=8),
        dict(tile=256, together=64, warps=4, stages=2),
        dict(tile=256, together=64, warps=4, stages=1),
    ):
        name = ", ".join(f"{key} {value}" for key, value in form.items())
        yield Task(f"sketch maxima, {name}", size, maxima(**form))
    kept = block_maxima(small, sketch, BLOCK)
    yield Task(
        f"sketch selection, the best {count}",
        size,
        lambda: Row(
            timed(lab, lambda: largest(kept, count)),
            kept.nbytes,
            peer="torch.topk",
            peer_time=timed(lab, lambda: kept.topk(count)),
        ),
    )
    blocks = largest(kept, count)[0]

    def rows_of(blocks: torch.Tensor) -> torch.Tensor:
        rows = blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=lab.device)
        return rows.flatten(1)

    yield Task(
        f"exact scores of {count} blocks",
        size,
        lambda: Row(
            timed(lab, lambda: rescore(planes, asked, None, rows_of(blocks))),
            q * count * BLOCK * planes.nbytes / n,
        ),
    )

    def whole() -> None:
        best = largest(block_maxima(small, sketch, BLOCK), count)[0].sort(1).values
        largest(rescore(planes, asked, None, rows_of(best)), lab.results)

    yield Task(
        "sketch and exact scores, top K",
        size,
        lambda: Row(timed(lab, whole), sketch.nbytes, 2 * n * q * SKETCH, "bfloat16"),
    )


def dense_rows(lab: Lab) -> Iterator[Task]:
    """Brute force over dense rows in bfloat16."""
    n = lab.pick(10_000_000, 640)
    dense = torch.empty(n, DIM, device=lab.device, dtype=torch.bfloat16)
    for part in dense.split(1 << 18):
        part.copy_(torch.randn(part.shape, device=lab.device))
    size = 1 << 20
    for q in lab.pick((1, 512), (1, 2)):
        asked = asked_queries(lab, q, DIM).bfloat16()

        def brute(asked: torch.Tensor = asked) -> None:
            scores, ids = [], []
            for start in range(0, n, size):
                part = asked @ dense[start : start + size].T
                best = part.topk(min(lab.results, part.shape[1]))
                scores.append(best.values)
                ids.append(best.indices + start)
            top = torch.cat(scores, 1).topk(lab.results).indices
            torch.cat(ids, 1).gather(1, top)

        def fused(asked: torch.Tensor = asked) -> None:
            maxima = block_maxima(asked, dense, BLOCK, tile=128, together=128, warps=8)
            best = largest(maxima, min(lab.results, maxima.shape[1]))[0]
            blocks = dense[: n // BLOCK * BLOCK].view(-1, BLOCK, DIM)
            for own, mine in zip(best.split(64), asked.split(64), strict=True):
                rows = blocks[own].flatten(1, 2)
                largest(torch.bmm(rows, mine[:, :, None])[:, :, 0].float(), lab.results)

        for name, way in (("torch.topk", brute), ("block maxima", fused)):
            yield Task(
                f"peer: bfloat16 brute force, {name}",
                f"{n:,} × {DIM}, {q} queries",
                lambda way=way, q=q: Row(  # type: ignore[misc]
                    timed(lab, way),
                    2 * n * DIM,
                    2 * n * DIM * q,
                    "bfloat16",
                    note=f"{2 * DIM} bytes a row",
                ),
            )


def sparse_rows(lab: Lab) -> Iterator[Task]:
    """cuSPARSE over codes, then top K by column or of the transpose, the faster of the two."""
    n = lab.pick(10_000_000, 512)
    bounds = torch.arange(n + 1, dtype=torch.int32, device=lab.device) * NONZEROS
    matrix = torch.sparse_csr_tensor(
        bounds,
        drawn_ids(lab, n, SEED).sort(1).values.int().flatten(),
        torch.randn(n * NONZEROS, device=lab.device),
        (n, LATENTS),
        device=lab.device,
        check_invariants=False,
    )
    nbytes = n * (NONZEROS * 8 + 4)
    for q in lab.pick((1, 512), (1, 2)):
        asked = asked_queries(lab, q).T.contiguous()

        def single(asked: torch.Tensor = asked[:, 0]) -> None:
            (matrix @ asked).topk(lab.results)

        def down(asked: torch.Tensor = asked) -> None:
            for part in asked.split(128, 1):  # (n, 128) float32 at a time.
                (matrix @ part).topk(lab.results, dim=0)

        def across(asked: torch.Tensor = asked) -> None:
            for part in asked.split(128, 1):
                (matrix @ part).T.contiguous().topk(lab.results)

        ways = (single,) if q == 1 else (down, across)
        yield Task(
            "peer: torch.sparse CSR, topk",
            f"{n:,} rows, {q} queries",
            lambda ways=ways, q=q: Row(  # type: ignore[misc]
                min((timed(lab, way, 0.1) for way in ways), key=lambda time: time.median),
                nbytes,
                note=f"{nbytes / n:.0f} bytes a row and {4 * n * min(q, 128) / 1e9:.2f} GB of "
                "scores",
            ),
        )


def a_hundred_million(lab: Lab) -> Iterator[Task]:
    planes = planted_planes(lab, lab.pick(100_000_000, 256))
    for q in lab.pick((1, 512), (1,)):
        yield scan_row(lab, planes, q)


search_parts = (scan_rows, dense_rows, sparse_rows, a_hundred_million)
