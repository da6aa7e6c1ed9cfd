"""One small call of each Triton kernel in each form that it is launched in.

``ahead_of_time.py`` compiles what they launch. A kernel's tests check its answers. Run as a script,
on a GPU: that is what the sanitizer watches. Arguments choose workloads by parts of their names.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from compressae.kernels.chain import gpu as chain
from compressae.kernels.cosine import dense
from compressae.kernels.cosine import gpu as cosine
from compressae.kernels.decode import gpu as decode
from compressae.kernels.encode import gpu as encode
from compressae.kernels.pursuit import gpu as pursuit
from compressae.kernels.quantize import gpu as quantize
from compressae.kernels.scan import SCAN_BLOCK, Planes
from compressae.kernels.scan import gpu as scan
from compressae.kernels.sketch import gpu as sketch
from compressae.kernels.support import gpu as support
from compressae.kernels.topk import gpu as topk

if __name__ == "__main__":
    torch.set_default_device("cuda")

Workload = Callable[[], object]


def _top(n: int, h: int, k: int, dtype: torch.dtype, magnitude: bool) -> Workload:
    return lambda: topk.top(torch.zeros(n, h, dtype=dtype), k, magnitude)


def _sparse_products(d: int, k: int, h: int = 4096, n: int = 3, first: int = 0) -> Workload:
    ids, values = torch.zeros(n, k, dtype=torch.int32), torch.zeros(n, k)
    weights, rows = torch.zeros(h, d), torch.zeros(n, d)
    ids, values, rows = ids[first:], values[first:], rows[first:]

    def run() -> None:
        decode.decode(ids, values, weights)
        decode.sampled_matmul(ids, rows, weights)
        decode.sparse_t_matmul(ids, values, rows, h)

    return run


def _fit(d: int, k: int, levels: int = 16) -> Workload:
    """Pursuit of one latent a step, then values under quantisation; refit launches no others."""
    x, weights = torch.zeros(2, d), torch.zeros(300, d)
    choices, sizes = np.zeros((k, levels), np.float32), np.full(k, levels)

    def run() -> None:
        ids, values = pursuit.pursue(x, weights, [1] * k, 1e-4, torch.float32)
        quantize.quantize_on_support(x, ids, values, weights, choices, sizes, 3)

    return run


def _select(h: int, k: int, steps: int, width: int) -> Workload:
    latents, rows = torch.zeros(h, 48), torch.zeros(3, 48)
    return lambda: support.select_latents(rows, h, *support.prepare(latents), k, steps, width)


def _training(d: int, k: int, wide: int, h: int = 4096, n: int = 3) -> Workload:
    ids, values = torch.zeros(n, wide, dtype=torch.int32), torch.zeros(n, wide)
    weights, x = torch.zeros(h, d), torch.zeros(n, d)

    def run() -> None:
        encode.encode(x, weights, torch.zeros(h), wide)
        cosine.cosine_gradients(ids, values, weights, x, k, 0.1)
        dense.gradients(x, weights, torch.zeros(h), weights, k, wide, 0.1)

    return run


def _step(n: int, h: int, k: int) -> Workload:
    x, weights, bias = torch.zeros(n, 768), torch.zeros(h, 768), torch.zeros(h)
    return lambda: dense.gradients(x, weights, bias, weights, k, 4 * k, 0.1)


def _planes(h: int, values: torch.dtype | None, levels: int, m: int, ragged: bool) -> Planes:
    """16 blocks of 32 ranks; plain codes where there are no levels."""
    shape, numbers = (16, 32, SCAN_BLOCK), (16, SCAN_BLOCK)
    return Planes(
        16 * SCAN_BLOCK,
        h,
        torch.zeros(shape, dtype=torch.int16 if h <= 1 << 16 else torch.int32),
        None if values is None else torch.zeros(shape, dtype=values),
        torch.zeros(32, levels) if levels else None,
        torch.zeros(numbers, dtype=torch.int32) if ragged else None,
        torch.zeros(16, m, SCAN_BLOCK, dtype=torch.uint8) if m else None,
        torch.zeros(numbers, dtype=torch.uint8) if levels else None,
        torch.zeros(256) if levels else None,
        torch.zeros(256) if m and not ragged else None,
        None if levels or values != torch.int8 else torch.zeros(numbers),
    )


def _scan(planes: Planes, form: scan.Form, half: bool = False, masked: bool = False) -> Workload:
    m = 0 if planes.residual is None else planes.residual.shape[1]
    tables = torch.zeros(2, m, 256) if m else None
    mask = torch.ones(planes.n, dtype=torch.bool) if masked else None

    def launch() -> None:
        queries = torch.zeros(2, planes.latents)
        scan.block_maxima(planes, queries, tables, mask, half, form)
        scan.scores(planes, queries, tables, torch.zeros(2, 5, dtype=torch.int64), mask, SCAN_BLOCK)
        scan.scores(planes, queries, tables, torch.zeros(2, 5, dtype=torch.int64), mask, 32)
        scan.scores(planes, queries, tables, torch.zeros(2, 3000, dtype=torch.int64))

    return launch


def _search(blocks: int, K: int) -> Workload:
    """What a search of one query launches, then one of many, by sketches."""
    planes = _planes(4096, None, 16, 0, False)
    slots = torch.zeros(blocks, *planes.slots.shape[1:], dtype=planes.slots.dtype)
    gains = torch.zeros(blocks, SCAN_BLOCK, dtype=torch.uint8)
    planes = replace(planes, n=blocks * SCAN_BLOCK - 3, slots=slots, gains=gains)

    def run() -> None:
        for q in (1, K):
            queries = torch.zeros(q, 4096)
            if q == 1:
                maxima, each = scan.block_maxima(planes, queries, None), SCAN_BLOCK
            else:
                rows = torch.zeros(planes.n, 64, dtype=torch.int8)
                asked = torch.zeros(q, 128, dtype=torch.int8)
                maxima, each = sketch.block_maxima(asked, rows, None, 32, None)[0], 32
            best = topk.largest(maxima, K)[0]
            topk.largest(scan.scores(planes, queries, None, best, None, each), K)

    return run


def _sketch(columns: int, lengths: bool, masked: bool) -> Workload:
    n = 600
    rows = torch.zeros(n, columns // 2, dtype=torch.int8)
    queries = torch.zeros(3, columns, dtype=torch.int8)
    kept = torch.ones(n) if lengths else None
    mask = torch.ones(n, dtype=torch.bool) if masked else None
    return lambda: sketch.block_maxima(queries, rows, kept, 32, mask)


#: latents, values, levels, residual parts, rows differ in k
_PLANES = {
    "packed in 16 bits": (4096, None, 16, 0, False),
    "packed, levels apart, residual codes": (4096, torch.uint8, 64, 16, False),
    "packed, rows of different lengths": (16384, torch.uint8, 16, 8, True),
    "float32": (4096, torch.float32, 0, 0, False),
    "float16": (8192, torch.float16, 0, 0, False),
    "int8": (32768, torch.int8, 0, 0, False),
    "wide": (1 << 17, torch.float32, 0, 0, False),
}

WORKLOADS: dict[str, Workload] = {
    **{
        f"top-{k} of {n} x {h} {dtype}": _top(n, h, k, dtype, magnitude)
        for n, h, k, dtype, magnitude in [
            (8, 4096, 1, torch.float32, True),
            (8, 4096, 32, torch.float32, True),
            (8, 4096, 128, torch.float32, True),
            (8, 4096, 256, torch.float32, True),
            (8, 8192, 100, torch.float32, False),
            (8, 4096, 8, torch.bfloat16, False),
            (8, 4096, 40, torch.bfloat16, True),
            (8, 4096, 160, torch.bfloat16, True),
            (8, 4096, 256, torch.bfloat16, True),
            (2, 4096, 32, torch.float16, True),
            (2, 4096, 512, torch.bfloat16, True),
            (2, 65536, 256, torch.float32, True),
            (2, 39000, 400, torch.int32, False),
            (2, 8192, 2048, torch.float32, False),
            (1, 200_000, 400, torch.float32, False),
            (1, 200_000, 2048, torch.int32, False),
        ]
    },
    **{
        f"sparse products of {k} nonzeros, {d} wide": _sparse_products(d, k)
        for d, k in [(768, 32), (384, 128), (1024, 7), (50, 16), (1, 1)]
    },
    "sparse products of rows that no 16 bytes align": _sparse_products(769, 33, first=1),
    **{f"fit of {k} nonzeros, {d} wide": _fit(d, k) for d, k in [(768, 32), (50, 1), (384, 100)]},
    "fit of 256 nonzeros with 256 levels": _fit(768, 256, 256),
    "supports from a shortlist": _select(4096, 16, 6, 512),
    "supports of few latents": _select(100, 40, 40, 100),
    "codes of a chain": lambda: chain.encode_chain(torch.zeros(20, 6), torch.zeros(2, 256, 6)),
    "sparse sums in parts": _sparse_products(768, 32, 4, 100),
    **{
        f"training of {d} columns, {k} and {wide} nonzeros": _training(d, k, wide)
        for d, k, wide in [(768, 32, 128), (384, 16, 16), (2048, 32, 128), (3000, 32, 128)]
    },
    **{
        f"scan of {name}, {form}": _scan(_planes(*of), form)
        for name, of in _PLANES.items()
        for form in ("shared", "cached", "together")
        if form != "shared" or of[0] <= 1 << 14
    },
    "scan in half precision": _scan(_planes(4096, None, 16, 0, False), "together", half=True),
    "masked scan": _scan(_planes(4096, torch.uint8, 64, 16, True), "shared", masked=True),
    "masked scan, together": _scan(_planes(4096, None, 16, 0, False), "together", masked=True),
    "first search": _search(128, 100),
    "search of another size": _search(131, 90),
    "first step": _step(48, 4096, 32),
    "step of another size": _step(51, 8192, 31),
    "sketches": _sketch(128, False, False),
    "sketches of few columns, with lengths, masked": _sketch(64, True, True),
}


if __name__ == "__main__":
    for name, workload in WORKLOADS.items():
        if len(sys.argv) > 1 and not any(part in name for part in sys.argv[1:]):
            continue
        workload()
        torch.cuda.synchronize()
        print(f"done: {name}", flush=True)
