"""Where work is done, and the way there and back."""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from compressae.kernels.backend import has_triton, takes_tensors
from compressae.retrieval.errors import InputError


def pick_device(device: str) -> torch.device:
    """The torch device for "cpu", "cuda" or "auto": a GPU where torch finds one and Triton, which
    runs kernels there, is installed.

    Raises:
        InputError: another name, or "cuda" where torch finds none or Triton is missing.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and has_triton() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"device {device!r}: expected auto, cpu, cuda or cuda:NUMBER")
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: torch finds no GPU here; expected cpu or auto")
    count, number = torch.cuda.device_count(), torch.device(device).index or 0
    if device != "cpu" and number >= count:
        raise InputError(
            f"device {device!r}: torch finds {count} GPUs here; expected 0 to {count - 1}"
        )
    if device != "cpu" and not has_triton():
        raise InputError(
            f"device {device!r} without Triton, which runs kernels there; pip install triton "
            "(Linux), or choose cpu"
        )
    return torch.device(device)


def tensors_on(device: torch.device) -> torch.device | None:
    """The device where work there is on tensors, None where it is on arrays: see ``put``."""
    return device if takes_tensors(str(device)) else None


def current(device: torch.device | None) -> AbstractContextManager[Any]:
    """A ``with`` block in which a GPU is the one that kernels are launched on."""
    if device is None or device.type != "cuda":
        return nullcontext()
    return torch.cuda.device(device)


def put(array: np.ndarray, tensors: torch.device | None) -> Any:
    """An array as it is, or as a tensor on a device."""
    return array if tensors is None else torch.from_numpy(array).to(tensors)


def fetch(rows: Any) -> np.ndarray:
    """An array of what ``put`` gave, or of what was computed from it."""
    return rows if isinstance(rows, np.ndarray) else rows.detach().cpu().numpy()
