"""Data-parallel training: several processes, each with its share of every batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from compressae.retrieval.devices import pick_device
from compressae.retrieval.errors import InputError


@dataclass(frozen=True)
class Replicas:
    """This process among those that train one model.

    Attributes:
        rank: number of this process; 0 writes files and shows progress.
        count: number of processes.

    >>> Replicas(rank=1, count=4).share(10)
    slice(2, 5, None)
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Replicas":
        """This process by ``torch.distributed``; the only one where that was not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, n: int) -> slice:
        """This process's slice of n rows; the slices of all processes cover them once."""
        return slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def sum(self, *tensors: Tensor) -> None:
        """All-reduce each tensor to its sum, bit-identical in all processes."""
        for tensor in tensors if self.count > 1 else ():
            dist.all_reduce(tensor)

    def max(self, tensor: Tensor) -> None:
        """All-reduce a tensor to its maximum."""
        if self.count > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether a flag is set in any process; reduced on ``device``."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag), device=device)
        self.max(flags)
        return bool(flags)


#: The only process.
ALONE = Replicas()


@contextmanager
def launched(device: str) -> Iterator[str]:
    """Join the process group that ``torchrun`` started, if it did, within a ``with`` block.

    Args:
        device: "auto", "cpu" or "cuda": a GPU each (NCCL), or the processor (gloo).

    Yields:
        The device of this process: cuda:LOCAL_RANK, or what was given.

    Raises:
        InputError: one GPU was named for several processes; there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.startswith("cuda:"):
        raise InputError(
            f"device {device!r} for {os.environ['WORLD_SIZE']} processes; expected cuda: each "
            "takes the GPU of its number"
        )
    if device == "auto":
        device = pick_device(device).type
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine, which has {torch.cuda.device_count()} GPUs; "
                "start as many processes as GPUs (torchrun --nproc-per-node)"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device != "cpu" else "gloo")
    yield device
    # Not where this process failed: it would wait for others that wait for it; its end ends them.
    dist.destroy_process_group()
