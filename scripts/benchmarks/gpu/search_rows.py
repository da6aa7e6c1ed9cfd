"""Rows of the report: search on a GPU beside torch's own products."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from benchmarks.gpu.brute import dense_maxima
from benchmarks.gpu.lab import Lab, Row, Task, timed, wall
from benchmarks.gpu.planted import Planted, best_of, planted, recall

from compressae.kernels.scan import Planes, best_of_runs, scan
from compressae.kernels.scan import gpu as forms
from compressae.kernels.sketch import BLOCK, best_blocks, pack_queries
from compressae.kernels.sketch.gpu import block_maxima
from compressae.kernels.topk import largest
from compressae.retrieval.index.sketch import Sketch


def scan_row(lab: Lab, planes: Planes, asked: torch.Tensor, half: bool = False) -> Task:
    ranks, q = planes.slots.shape[1], len(asked)

    def run() -> Row:
        time = timed(lab, lambda: scan(planes, asked, None, lab.results, half=half))
        terms = len(planes) * ranks * q
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
    """All rows of trained codes, exactly."""
    made = planted(lab)
    planes, asked = made.planes(), projected(lab, made)
    ranks = planes.slots.shape[1]
    for form in ("shared", "cached"):
        yield Task(
            f"block maxima of a scan, q' {form}",
            f"{len(planes):,} rows, 1 query",
            lambda form=form: Row(  # type: ignore[misc]
                timed(lab, lambda: forms.block_maxima(planes, asked[:1], None, form=form)),
                planes.nbytes + 4 * planes.blocks,
                2 * len(planes) * ranks,
            ),
        )
    for q in lab.pick((1, 8, 16, 32, 512), (1,)):
        yield scan_row(lab, planes, asked[:q])
    yield scan_row(lab, planes, asked, half=True)


def projected(lab: Lab, made: Planted) -> torch.Tensor:
    """q' (q, h) of the queries."""
    return made.queries @ made.model.decoder.detach().to(lab.device).T


def sketch_rows(lab: Lab) -> Iterator[Task]:
    """Blocks chosen by sketches, then the exact scores of their rows."""
    made = planted(lab)
    planes, all_asked = made.planes(), projected(lab, made)
    n, K = len(planes), lab.results
    weights = made.model.decoder.detach().to(lab.device)
    sketch: list[Sketch] = []

    def make() -> None:
        sketch[:] = [Sketch.of(planes, weights, None, None, False)]

    yield Task("making sketches", f"{n:,} rows", lambda: Row(wall(lab, make, 3)))
    rows = sketch[0].rows
    truth = best_of(made.rows[:n], made.queries, K)
    every = scan(planes, all_asked, None, K)[0]
    for q in lab.pick((1, 16, 64, 512), (2,)):
        size = f"{n:,} rows, {q} queries"
        x, asked = made.queries[:q], all_asked[:q]
        small = pack_queries(x @ sketch[0].directions)
        yield Task(
            "sketch products, maxima of blocks",
            size,
            lambda q=q, small=small: Row(  # type: ignore[misc]
                timed(lab, lambda: block_maxima(small, rows, None, BLOCK, None)),
                rows.nbytes + 4 * q * n / BLOCK,
                4 * n * q * rows.shape[1],
                "bfloat16",
            ),
        )
        for count in lab.pick((400, 8 * K, 16 * K, 32 * K) if q == 512 else (8 * K,), (3,)):

            def search(
                x: torch.Tensor = x, asked: torch.Tensor = asked, count: int = count
            ) -> torch.Tensor:
                blocks = sketch[0].best_blocks(x, count, None)
                return best_of_runs(planes, asked, None, K, blocks, BLOCK)[0]

            def measure(q: int = q, search: Callable[[], torch.Tensor] = search) -> Row:
                found = search()
                return Row(
                    timed(lab, search),
                    rows.nbytes,
                    4 * n * q * rows.shape[1],
                    "bfloat16",
                    note=f"{(planes.nbytes + rows.nbytes) / n:.0f} bytes a row; "
                    f"{recall(found, every[:q]):.4f} of the results of a scan; recall@{K} of "
                    f"dense rows {recall(found, truth[:q]):.4f}, of a scan "
                    f"{recall(every[:q], truth[:q]):.4f}",
                )

            yield Task(f"search by sketches, {count} blocks", size, measure)
    small = pack_queries(made.queries @ sketch[0].directions)
    lengths, count = torch.rand(n, device=lab.device), 8 * K
    size = f"{n:,} rows, {len(small)} queries"
    yield Task(
        "sketch products with lengths, maxima of blocks",
        size,
        lambda: Row(timed(lab, lambda: block_maxima(small, rows, lengths, BLOCK, None))),
    )
    yield Task(
        f"the best {count} blocks",
        size,
        lambda: Row(timed(lab, lambda: best_blocks(small, rows, count))),
    )
    blocks = best_blocks(small, rows, count)
    yield Task(
        f"top {K} of {count} blocks",
        size,
        lambda: Row(
            timed(lab, lambda: best_of_runs(planes, all_asked, None, K, blocks, BLOCK)),
            len(small) * count * BLOCK * planes.nbytes / n,
        ),
    )


def dense_rows(lab: Lab) -> Iterator[Task]:
    """Brute force over dense rows in bfloat16."""
    made = planted(lab)
    dense, (n, d), size = made.rows, made.rows.shape, 1 << 20
    for q in lab.pick((1, 512), (1, 2)):
        asked = made.queries[:q].bfloat16()

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
            maxima = dense_maxima(asked, dense, BLOCK)
            best = largest(maxima, min(lab.results, maxima.shape[1]))[0]
            blocks = dense[: n // BLOCK * BLOCK].view(-1, BLOCK, d)
            for own, mine in zip(best.split(64), asked.split(64), strict=True):
                rows = blocks[own].flatten(1, 2)
                largest(torch.bmm(rows, mine[:, :, None])[:, :, 0].float(), lab.results)

        for name, way in (("torch.topk", brute), ("block maxima", fused)):
            yield Task(
                f"peer: bfloat16 brute force, {name}",
                f"{n:,} × {d}, {q} queries",
                lambda way=way, q=q: Row(  # type: ignore[misc]
                    timed(lab, way),
                    2 * n * d,
                    2 * n * d * q,
                    "bfloat16",
                    note=f"{2 * d} bytes a row",
                ),
            )


def sparse_rows(lab: Lab) -> Iterator[Task]:
    """cuSPARSE over codes, then top K by column or of the transpose, the faster of the two."""
    made = planted(lab)
    (n, k), asked_all = made.ids.shape, projected(lab, made)
    bounds = torch.arange(n + 1, dtype=torch.int32, device=lab.device) * k
    ids, order = made.ids.sort(1)
    levels = torch.from_numpy(made.quantizer.levels).to(lab.device)
    values = torch.cat([
        levels[order[part], made.numbers[part].gather(1, order[part]).long()].flatten()
        for part in (slice(at, at + (1 << 18)) for at in range(0, n, 1 << 18))
    ])  # fmt: skip
    del order
    matrix = torch.sparse_csr_tensor(
        bounds,
        ids.int().flatten(),
        values,
        (n, made.model.latents),
        device=lab.device,
        check_invariants=False,
    )
    nbytes = n * (k * 8 + 4)
    for q in lab.pick((1, 512), (1, 2)):
        asked = asked_all[:q].T.contiguous()

        def single(asked: torch.Tensor = asked) -> None:
            (matrix @ asked[:, 0]).topk(lab.results)

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
                "scores; rows' gains are left out",
            ),
        )


def a_hundred_million(lab: Lab) -> Iterator[Task]:
    """The trained codes ten times over, and their sketches."""
    made = planted(lab)
    one, weights = made.planes(), made.model.decoder.detach().to(lab.device)
    copies, K = lab.pick(10, 2), lab.results
    assert one.gains is not None
    planes = replace(
        one,
        n=copies * len(one),
        slots=one.slots.repeat(copies, 1, 1),
        gains=one.gains.repeat(copies, 1),
    )
    asked = projected(lab, made)
    for q in lab.pick((1, 512), (1,)):
        yield scan_row(lab, planes, asked[:q])
    sketch = Sketch.of(planes, weights, None, None, False)

    def search() -> None:
        blocks = sketch.best_blocks(made.queries, 8 * K, None)
        best_of_runs(planes, asked, None, K, blocks, BLOCK)

    yield Task(
        f"search by sketches, {8 * K} blocks",
        f"{len(planes):,} rows, {len(asked)} queries",
        lambda: Row(
            timed(lab, search),
            sketch.nbytes,
            4 * len(asked) * len(planes) * sketch.rows.shape[1],
            "bfloat16",
            note=f"{(planes.nbytes + sketch.nbytes) / 1e9:.2f} GB on the card",
        ),
    )


search_parts = (scan_rows, sketch_rows, dense_rows, sparse_rows, a_hundred_million)
