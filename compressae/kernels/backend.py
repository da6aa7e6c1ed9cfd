"""Choose the backend of a kernel: numba on the CPU, Triton on a GPU.

Triton launches on torch's current device. To run on another GPU, wrap the call in
``current``.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

#: "numba" (CPU), "triton" (GPU), or "auto": the backend of the device that holds the data.
Backend = Literal["auto", "numba", "triton"]

_default: ContextVar[Backend] = ContextVar("backend", default="auto")


@contextmanager
def use(backend: Backend) -> Iterator[None]:
    """Set the backend of CPU tensors within a ``with`` block.

    ``use("triton")`` runs Triton kernels on CPU tensors, in Triton's interpreter.
    """
    token = _default.set(backend)
    try:
        yield
    finally:
        _default.reset(token)


def interprets() -> bool:
    """Whether Triton interprets kernels on CPU tensors; slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def takes_tensors(device: str) -> bool:
    """Whether kernels on a device ("cpu", "cuda", "cuda:1") run in Triton, hence on tensors."""
    return device.startswith("cuda") or _default.get() == "triton"


def uses_triton(data: Any, backend: Backend = "auto") -> bool:
    """Whether a kernel runs in Triton (True) or numba (False) on ``data``.

    Args:
        data: a numpy array or a torch tensor.
        backend: "auto" selects Triton for a tensor on a GPU and numba otherwise (see ``use``).

    Raises:
        ValueError: the backend is unknown or cannot read ``data``.

    >>> uses_triton(np.zeros(3, np.float32))
    False
    """
    if backend not in ("auto", "numba", "triton"):
        raise ValueError(f"backend {backend!r}: expected auto, numba or triton")
    device = data.device.type if hasattr(data, "device") and hasattr(data, "cpu") else "numpy"
    if backend == "auto" and device != "numpy":
        backend = "triton" if device == "cuda" else _default.get()
    if backend != "triton":
        if device == "cuda":
            raise ValueError("backend 'numba' with a tensor on a GPU; give tensor.cpu()")
        return False
    if device == "numpy":
        raise ValueError(
            "backend 'triton' with a numpy array; give torch.from_numpy(x).to(\"cuda\")"
        )
    if device == "cpu" and not interprets():
        raise ValueError(
            "backend 'triton' with a tensor on the CPU; give tensor.to(\"cuda\"), or set "
            "TRITON_INTERPRET=1 before Python starts to run kernels in Triton's interpreter"
        )
    if not has_triton():
        raise ValueError(
            f"a tensor on {device} needs Triton (Linux); pip install 'compressae[gpu]'"
        )
    return True


@lru_cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def beside(array: Any, data: Any) -> Any:
    """Move an array to the device of ``data``; return it unchanged if ``data`` is a numpy array.

    >>> beside(np.arange(3), np.zeros(2))
    array([0, 1, 2])
    """
    if isinstance(data, np.ndarray):
        return array
    import torch

    return torch.as_tensor(array, device=data.device)


def namespace(data: Any) -> Any:
    """The module whose functions accept ``data``: numpy or torch.

    For functions that have one name in both.

    >>> namespace(np.zeros(2)).__name__
    'numpy'
    """
    if isinstance(data, np.ndarray):
        return np
    import torch

    return torch


def tensors_on(device: "torch.device") -> "torch.device | None":
    """The device if kernels there take tensors, None if they take arrays; see ``put``."""
    return device if takes_tensors(str(device)) else None


def current(device: "torch.device | None") -> AbstractContextManager[Any]:
    """A ``with`` block in which a GPU is torch's current device, on which Triton launches."""
    if device is None or device.type != "cuda":
        return nullcontext()
    import torch

    if device.index is None or device.index == torch.cuda.current_device():
        return nullcontext()  # Sixty times as fast.
    return torch.cuda.device(device)


def put(array: np.ndarray, device: "torch.device | None") -> Any:
    """Move an array to a device as a tensor; return it as it is for None."""
    if device is None:
        return array
    import torch

    return torch.from_numpy(array).to(device)


def fetch(rows: Any) -> np.ndarray:
    """Move a tensor to an array; the inverse of ``put``."""
    return rows if isinstance(rows, np.ndarray) else rows.detach().cpu().numpy()
