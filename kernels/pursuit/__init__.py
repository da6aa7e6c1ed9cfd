"""Orthogonal matching pursuit: a row's latents chosen in steps, its values refitted after each.

Source: Pati, Rezaiifar and Krishnaprasad 1993 (one latent a step); several a step as in stagewise
pursuit (Donoho, Tsaig, Drori and Starck 2012).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.pursuit import cpu
from compressae.kernels.threads import over_rows

#: Numbers of one batch's (rows, h) products (64 MiB of bfloat16).
_PRODUCTS = 1 << 25
#: Without its sign bit a float orders like an unsigned integer.
_KEYS = {
    torch.bfloat16: (torch.int16, 0x7FFF, np.uint16),
    torch.float32: (torch.int32, 0x7FFFFFFF, np.uint32),
}


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (about 4 × as fast), else float32."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if supported else torch.float32


def pursue(
    x: Any,
    weights: Any,
    counts: Sequence[int],
    ridge: float = 1e-4,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    backend: Backend = "auto",
) -> tuple[Any, Any]:
    """Latents and least-squares values of each row.

    Each step adds the ``counts[s]`` latents of largest |W r| to a row's support, r being what the
    support so far does not reconstruct, and refits all its values. O(steps·d·h + k²·d) a row.

    Args:
        x: (n, d) float32, unit rows.
        weights: (h, d) float32, unit rows.
        counts: latents added in each step; k = sum(counts) ≤ h.
        ridge: keeps the refit solvable where latents of a row are nearly parallel; above 0.
        dtype: of the products W r, which only choose: bfloat16 or float32; when None
            ``fast_dtype()``, on a GPU bfloat16. Values are computed in float32.
        threads: processors to use; all that the process may use when None.
        backend: see ``compressae.kernels.backend``.

    Returns:
        indices (n, k) int32 in the order chosen and values (n, k) float32: arrays, or, of tensors
        on a GPU, tensors.
    """
    k, n, h = sum(counts), len(x), len(weights)
    if not 1 <= k <= h or min(counts) < 1:
        raise ValueError(f"counts = {list(counts)}: expected 1 or more a step, at most {h} in all")
    if not ridge > 0:
        raise ValueError(f"ridge = {ridge}: expected more than 0")
    if uses_triton(x, backend):
        from compressae.kernels.pursuit import gpu

        return gpu.pursue(x, weights, counts, ridge, dtype)
    x, weights = np.ascontiguousarray(x), np.ascontiguousarray(weights)
    projection = torch.from_numpy(weights).to(dtype or fast_dtype()).T
    indices, values = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    batch = max(1, _PRODUCTS // max(h, 2 * k * k))  # float32 Gram matrices as large at most.
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        _pursue_batch(
            x[part], weights, projection, counts, ridge, indices[part], values[part], threads
        )
    return indices, values


def _pursue_batch(
    x: np.ndarray,
    weights: np.ndarray,
    projection: torch.Tensor,
    counts: Sequence[int],
    ridge: float,
    indices: np.ndarray,
    values: np.ndarray,
    threads: int | None,
) -> None:
    """Fill the indices and values of one batch; ``projection`` (d, h) is the weights' transpose."""
    (m, k), residual = indices.shape, x.copy()
    gram, y = np.empty((m, k, k), np.float32), np.empty((m, k), np.float32)
    signed, mask, unsigned = _KEYS[projection.dtype]
    filled = 0
    for count in counts:
        products = torch.from_numpy(residual).to(projection.dtype) @ projection
        keys = products.view(signed).bitwise_and_(mask).numpy().view(unsigned)

        def step(
            a: int, b: int, keys: np.ndarray = keys, old: int = filled, new: int = count
        ) -> None:
            cpu.strongest(keys, indices, old, new, a, b)
            cpu.extend(x, weights, indices, old, old + new, ridge, gram, y, values, residual, a, b)

        over_rows(step, m, threads)
        filled += count
