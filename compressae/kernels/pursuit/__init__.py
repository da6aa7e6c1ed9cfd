"""Orthogonal matching pursuit: select a row's latents in steps and refit its values after each.

Source: Pati, Rezaiifar and Krishnaprasad 1993 (one latent per step); stagewise pursuit adds
several per step (Donoho, Tsaig, Drori and Starck 2012).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from compressae.kernels.backend import Backend, uses_triton
from compressae.kernels.pursuit import cpu
from compressae.kernels.threads import over_rows

#: Most entries of a batch's (rows, h) products (64 MiB of bfloat16).
_PRODUCTS = 1 << 25
#: Views of a float's bits: with the sign bit cleared they order like the magnitude.
_KEYS = {
    torch.bfloat16: (torch.int16, 0x7FFF, np.uint16),
    torch.float32: (torch.int32, 0x7FFFFFFF, np.uint32),
}


#: Most steps of a pursuit; a larger k selects several latents a step.
MOST_STEPS = 64


def pursuit_schedule(k: int, steps: int = MOST_STEPS) -> list[int]:
    """Latents added in each step of a pursuit of k latents: even, the smaller steps first.

    >>> pursuit_schedule(10, steps=4)
    [2, 2, 3, 3]
    """
    steps = min(steps, k)
    return [k // steps + (step >= steps - k % steps) for step in range(steps)]


def fast_dtype() -> torch.dtype:
    """bfloat16 if the processor multiplies it natively (about 4 × as fast), else float32."""
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
    """Encode rows by matching pursuit: latents and least-squares values (n, k).

    Step s adds the ``counts[s]`` latents of largest |W r| to a row's support, r being the residual
    of the fit so far, and refits all values. O(steps·d·h + k²·d) per row.

    Args:
        x: (n, d) float32, unit rows.
        weights: (h, d) float32, unit rows.
        counts: latents added per step; k = sum(counts) ≤ h.
        ridge: ridge of the refit, above 0; it is needed if latents of a row are nearly parallel.
        dtype: dtype of the products W r, which only select latents: bfloat16 or float32. When None
            ``fast_dtype()``, on a GPU bfloat16. Values are computed in float32.
        threads: number of threads; every processor the process may use when None.
        backend: see ``compressae.kernels.backend``.

    Returns:
        indices (n, k) int32 in order of selection and values (n, k) float32: numpy arrays, or
        tensors if x is a tensor on a GPU.

    Raises:
        ValueError: ``counts`` or ``ridge`` is out of range.

    >>> x, weights = np.array([[0.6, 0.8]], np.float32), np.eye(2, dtype=np.float32)
    >>> indices, values = pursue(x, weights, counts=[1, 1])
    >>> indices, values.round(2)
    (array([[1, 0]], dtype=int32), array([[0.8, 0.6]], dtype=float32))
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
    # The batch's float32 Gram matrices (rows, k, k) are limited to the same bytes.
    batch_size = max(1, _PRODUCTS // max(h, 2 * k * k))
    for start in range(0, n, batch_size):
        batch = slice(start, start + batch_size)
        _pursue_batch(
            x[batch], weights, projection, counts, ridge, indices[batch], values[batch], threads
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
    """Fill indices and values (m, k) of one batch; ``projection`` (d, h) is Wᵀ."""
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
