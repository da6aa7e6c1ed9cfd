"""Sizes, timing and rows of the GPU benchmark."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Lab:
    """Where the benchmark runs: "cuda", or in a smoke run "cpu", with tiny sizes."""

    device: str
    smoke: bool

    @property
    def results(self) -> int:
        """K of the searches."""
        return self.pick(100, 10)

    def pick(self, size: T, tiny: T) -> T:
        """``tiny`` in a smoke run, else ``size``."""
        return tiny if self.smoke else size


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of a card.

    Attributes:
        bytes_a_second: of a large copy, bytes read plus bytes written.
        bfloat16, float32: operations a second of large matrix products.
    """

    bytes_a_second: float
    bfloat16: float
    float32: float


@dataclass
class Row:
    """One measurement.

    Attributes:
        ms: median milliseconds.
        moved: least bytes that memory must read or write.
        operations: least number of operations.
        unit: the ceiling that bounds operations: "float32" or "bfloat16".
        peer, peer_ms: another implementation, if any, and its median.
        note: other results.
    """

    name: str
    size: str
    ms: float
    moved: float = 0.0
    operations: float = 0.0
    unit: str = "float32"
    peer: str = ""
    peer_ms: float = 0.0
    note: str = ""

    def figures(self, ceilings: Ceilings) -> dict[str, Any]:
        """The row with both floors in milliseconds and the share of the larger one."""
        bytes_ms = 1e3 * self.moved / ceilings.bytes_a_second
        operations_ms = 1e3 * self.operations / getattr(ceilings, self.unit)
        share = max(bytes_ms, operations_ms) / self.ms
        return {
            **asdict(self),
            "bytes_ms": bytes_ms,
            "operations_ms": operations_ms,
            "share": share,
        }


def milliseconds(lab: Lab, run: Callable[[], Any], seconds: float = 0.3) -> float:
    """Median time of a call by the device's events, with a cold L2 cache."""
    if lab.device == "cuda":
        from triton.testing import do_bench

        return do_bench(run, warmup=25, rep=int(1e3 * seconds), return_mode="median")
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def wall(lab: Lab, run: Callable[[], Any], calls: int = 5) -> float:
    """Median wall-clock time of a call, host work and transfers included, after one call."""
    times = []
    for _ in range(lab.pick(calls + 1, 1)):
        started = time.perf_counter()
        run()
        if lab.device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return sorted(times[1:] or times)[len(times[1:]) // 2]
