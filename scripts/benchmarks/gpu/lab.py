"""Sizes, timing and rows of the GPU benchmark."""

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
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


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call.

    Attributes:
        median, low, high: of the calls after the first, with the 10th and the 90th percentile.
        first: of the first call by the clock, compiling included.
    """

    median: float
    low: float
    high: float
    first: float


@dataclass
class Row:
    """One measurement.

    Attributes:
        time: of a call.
        moved: least bytes that memory must read or write.
        operations: least number of operations.
        unit: the ceiling that bounds operations: "float32" or "bfloat16".
        peer, peer_time: another implementation, if any.
        note: other results.
    """

    time: Timing
    moved: float = 0.0
    operations: float = 0.0
    unit: str = "float32"
    peer: str = ""
    peer_time: Timing | None = None
    note: str = ""

    def figures(self, ceilings: Ceilings) -> dict[str, Any]:
        """The row with both floors in milliseconds and the share of the larger one."""
        bytes_ms = 1e3 * self.moved / ceilings.bytes_a_second
        operations_ms = 1e3 * self.operations / getattr(ceilings, self.unit)
        return {
            **asdict(self),
            "bytes_ms": bytes_ms,
            "operations_ms": operations_ms,
            "share": max(bytes_ms, operations_ms) / self.time.median,
        }


@dataclass(frozen=True)
class Task:
    """What measures one row; another row is measured though it fails."""

    name: str
    size: str
    run: Callable[[], Row] = field(repr=False)


#: Prepares and yields tasks.
Part = Callable[[Lab], Iterator[Task]]


def timed(lab: Lab, run: Callable[[], Any], seconds: float = 0.2) -> Timing:
    """Time a call by the device's events, with a cold L2 cache."""
    first = _clock(lab, run)
    if lab.device != "cuda":
        return Timing(first, first, first, first)
    from triton.testing import do_bench

    return _timing(do_bench(run, warmup=25, rep=int(1e3 * seconds), return_mode="all"), first)


def wall(lab: Lab, run: Callable[[], Any], calls: int = 7) -> Timing:
    """Time a call by the clock, host work and transfers included."""
    first = _clock(lab, run)
    return _timing([_clock(lab, run) for _ in range(lab.pick(calls, 1))], first)


def _timing(times: list[float], first: float) -> Timing:
    low, median, high = torch.tensor(times).quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    return Timing(median, low, high, first)


def _clock(lab: Lab, run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    if lab.device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started)


def card() -> str:
    """Clocks, power and temperature of the GPU as nvidia-smi says them; "" where it is absent."""
    asked = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.splitlines()[0] if said.stdout else ""
