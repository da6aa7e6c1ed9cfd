"""Compile every kernel for a GPU that is not here, and say what each takes of it.

usage: python ahead_of_time.py CAPABILITY (80 or 90), without TRITON_INTERPRET. JSON on stdout.

Kernels are launched by their own launchers on tensors of the CPU; launches compile for the
capability, as they would on its first use, and then return without running.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

_CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class _Absent:
    """Stands for the driver of a GPU of a capability."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread, and bytes of stack and local memory (where spilled registers go)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_CUOBJDUMP), "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    return {
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]),
        "local": int(found["LOCAL"]),
    }


def main(capability: int) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from workloads import WORKLOADS

    driver.set_active(_Absent(capability))
    torch.empty = torch.zeros  # Nothing fills what launchers allocate.
    run, compiled = JITFunction.run, {}

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **settings: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **settings)
        compiled.setdefault(kernel.hash, (self.fn.__module__, self.fn.__name__, kernel))
        return kernel

    JITFunction.run = compile_only
    rows = []
    for name, workload in WORKLOADS.items():
        compiled.clear()
        workload()
        for module, kernel_name, kernel in compiled.values():
            rows.append({
                "workload": name,
                "hash": kernel.hash,
                "kernel": f"{module.removeprefix('compressae.kernels.')}.{kernel_name}",
                "capability": capability,
                "warps": kernel.metadata.num_warps,
                "shared": kernel.metadata.shared,
                **resources(kernel.asm["cubin"]),
            })  # fmt: skip
    json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
