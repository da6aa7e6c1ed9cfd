"""One small call of each Triton kernel in each form that it is launched in.

``ahead_of_time.py`` compiles what they launch. A kernel's tests check its answers.
"""

from collections.abc import Callable

import numpy as np
import torch

from compressae.kernels.cosine import gpu as cosine
from compressae.kernels.decode import gpu as decode
from compressae.kernels.encode import gpu as encode
from compressae.kernels.pursuit import gpu as pursuit
from compressae.kernels.quantize import gpu as quantize
from compressae.kernels.topk import gpu as topk

Workload = Callable[[], object]


def _top(h: int, k: int, dtype: torch.dtype, magnitude: bool) -> Workload:
    return lambda: topk.top(torch.zeros(2, h, dtype=dtype), k, magnitude)


def _sparse_products(d: int, k: int, h: int = 4096, n: int = 3) -> Workload:
    ids, values = torch.zeros(n, k, dtype=torch.int32), torch.zeros(n, k)
    weights, rows = torch.zeros(h, d), torch.zeros(n, d)

    def run() -> None:
        decode.decode(ids, values, weights)
        decode.project(ids, rows, weights)
        decode.outer_sum(ids, values, rows, h)

    return run


def _fit(d: int, k: int, levels: int = 16) -> Workload:
    """Pursuit of one latent a step, then values under quantisation; refit launches no others."""
    x, weights = torch.zeros(2, d), torch.zeros(300, d)
    choices, sizes = np.zeros((k, levels), np.float32), np.full(k, levels)

    def run() -> None:
        ids, values = pursuit.pursue(x, weights, [1] * k, 1e-4, torch.float32)
        quantize.quantize_on_support(x, ids, values, weights, choices, sizes, 3)

    return run


def _training(d: int, k: int, wide: int, h: int = 4096, n: int = 3) -> Workload:
    ids, values = torch.zeros(n, wide, dtype=torch.int32), torch.zeros(n, wide)
    weights, x = torch.zeros(h, d), torch.zeros(n, d)

    def run() -> None:
        encode.encode(x, weights, torch.zeros(h), wide)
        cosine.cosine_gradients(ids, values, weights, x, k, 0.1)

    return run


WORKLOADS: dict[str, Workload] = {
    **{
        f"top-{k} of {h} {dtype}": _top(h, k, dtype, magnitude)
        for h, k, dtype, magnitude in [
            (4096, 32, torch.float32, True),
            (4096, 128, torch.float32, True),
            (4096, 40, torch.bfloat16, True),
            (65536, 256, torch.float32, True),
            (8192, 100, torch.float32, False),
            (4096, 8, torch.bfloat16, False),
        ]
    },
    **{
        f"sparse products of {k} nonzeros, {d} wide": _sparse_products(d, k)
        for d, k in [(768, 32), (384, 128), (1024, 7), (50, 16)]
    },
    **{f"fit of {k} nonzeros, {d} wide": _fit(d, k) for d, k in [(768, 32), (50, 1), (384, 100)]},
    "fit of 256 nonzeros with 256 levels": _fit(768, 256, 256),
    "sparse sums in parts": _sparse_products(768, 32, 4, 100),
    **{
        f"training of {d} columns, {k} and {wide} nonzeros": _training(d, k, wide)
        for d, k, wide in [(768, 32, 128), (384, 16, 16), (2048, 32, 128), (3000, 32, 128)]
    },
}
