"""One small call of each Triton kernel in each form that it is launched in.

``ahead_of_time.py`` compiles what they launch. A kernel's tests check its answers.
"""

from collections.abc import Callable

import torch

from compressae.kernels.topk import gpu as topk

Workload = Callable[[], object]


def _top(h: int, k: int, dtype: torch.dtype, magnitude: bool) -> Workload:
    return lambda: topk.top(torch.zeros(2, h, dtype=dtype), k, magnitude)


WORKLOADS: dict[str, Workload] = {
    **{
        f"top-{k} of {h} {dtype}": _top(h, k, dtype, magnitude)
        for h, k, dtype, magnitude in [
            (4096, 32, torch.float32, True),
            (4096, 128, torch.float32, True),
            (4096, 40, torch.bfloat16, True),
            (65536, 256, torch.float32, True),
            (8192, 100, torch.float32, False),
        ]
    },
}
