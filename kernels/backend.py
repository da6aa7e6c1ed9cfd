"""Which version of a kernel runs: numba on the CPU, Triton on a GPU.

Triton launches on torch's current device: work on another GPU goes into a ``torch.cuda.device``
block, as that of ``compressae.devices.current``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

#: "numba" (CPU), "triton" (GPU), or "auto": where the data lives.
Backend = Literal["auto", "numba", "triton"]

_default: ContextVar[Backend] = ContextVar("backend", default="auto")


@contextmanager
def use(backend: Backend) -> Iterator[None]:
    """What "auto" means for tensors on the CPU within a ``with`` block: ``use("triton")`` has
    Triton work on them, in its interpreter."""
    token = _default.set(backend)
    try:
        yield
    finally:
        _default.reset(token)


def interprets() -> bool:
    """Triton runs kernels in its interpreter, on tensors of the CPU: for tests, and slow."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def takes_tensors(device: str) -> bool:
    """Whether work on a device ("cpu", "cuda", "cuda:1") is Triton's, and so on tensors."""
    return device.startswith("cuda") or _default.get() == "triton"


def uses_triton(data: Any, backend: Backend = "auto") -> bool:
    """Whether Triton's version of a kernel shall work on ``data``, else numba's.

    Args:
        data: a numpy array or a torch tensor.
        backend: "auto" takes Triton for a tensor on a GPU and numba for the rest (see ``use``).

    Raises:
        ValueError: an unknown backend, or one that cannot read such data.
    """
    if backend not in ("auto", "numba", "triton"):
        raise ValueError(f"backend {backend!r}: expected auto, numba or triton")
    place = data.device.type if hasattr(data, "device") and hasattr(data, "cpu") else "numpy"
    if backend == "auto" and place != "numpy":
        backend = "triton" if place == "cuda" else _default.get()
    if backend != "triton":
        if place == "cuda":
            raise ValueError("backend 'numba' with a tensor on a GPU; give tensor.cpu()")
        return False
    if place == "numpy":
        raise ValueError(
            "backend 'triton' with a numpy array; give torch.from_numpy(x).to(\"cuda\")"
        )
    if place == "cpu" and not interprets():
        raise ValueError(
            "backend 'triton' with a tensor on the CPU; give tensor.to(\"cuda\"), or set "
            "TRITON_INTERPRET=1 before the start to run kernels in Triton's interpreter"
        )
    if not has_triton():
        raise ValueError(f"a tensor on {place} without Triton; pip install triton (Linux)")
    return True


@lru_cache
def has_triton() -> bool:
    """Triton is installed."""
    return find_spec("triton") is not None


def beside(array: Any, data: Any) -> Any:
    """An array as it is where ``data`` is a numpy array, else as a tensor on the data's device."""
    if isinstance(data, np.ndarray):
        return array
    import torch

    return torch.as_tensor(array, device=data.device)


def namespace(data: Any) -> Any:
    """The module, numpy or torch, whose functions take ``data``; for those that both name alike."""
    if isinstance(data, np.ndarray):
        return np
    import torch

    return torch
