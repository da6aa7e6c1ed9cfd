"""The device that a user names, checked. Torch is imported only where there may be a GPU."""

import os
import re
from typing import TYPE_CHECKING

from compressae.kernels.backend import has_triton
from compressae.retrieval.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import torch

#: Device files of NVIDIA's and AMD's drivers.
_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


def names_gpu(device: str) -> bool:
    """Whether a device name stands for a GPU; without importing torch where there is none.

    Raises:
        InputError: see ``pick_device``.

    >>> names_gpu("cpu")
    False
    """
    if device == "cpu" or (device == "auto" and not any(map(os.path.exists, _DRIVERS))):
        return False
    return pick_device(device).type == "cuda"


def pick_device(device: str) -> "torch.device":
    """The torch device of "cpu", "cuda", "cuda:NUMBER" or "auto".

    "auto" is a GPU where torch finds one and Triton, which runs kernels there, is installed.

    Raises:
        InputError: another name, or "cuda" where torch finds no GPU.
        MissingExtraError: "cuda" without Triton.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    import torch

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
        raise MissingExtraError("triton", "gpu", f"device {device!r} (on Linux)")
    return torch.device(device)
