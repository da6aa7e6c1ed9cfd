"""Every Triton kernel compiles for GPUs of compute capability 8.0 and 9.0, and fits them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs triton, which has wheels for Linux alone")

SCRIPT = Path(__file__).with_name("ahead_of_time.py")
#: Bytes of shared memory that a block may take.
SHARED = {80: 166912, 90: 232448}


@pytest.fixture(scope="module")
def compiled():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    running = {
        capability: subprocess.Popen(
            [sys.executable, SCRIPT, str(capability)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for capability in SHARED
    }
    rows = {}
    for capability, process in running.items():
        out, complaints = process.communicate(timeout=600)
        assert process.returncode == 0, complaints
        rows[capability] = json.loads(out)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
def test_every_kernel_compiles_and_fits(compiled, capability):
    rows = compiled[capability]
    assert rows
    for row in rows:
        assert row["local"] == 0 and row["stack"] == 0, row  # Nothing spilled.
        assert row["shared"] <= SHARED[capability], row
        assert row["registers"] * 32 * row["warps"] <= 65536, row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "other", "most"),
    [("first search", "search of another size", 7), ("first step", "step of another size", 4)],
)
def test_other_sizes_compile_nothing_anew(compiled, first, other, most):
    kernels = {
        name: {row["hash"] for row in compiled[90] if row["workload"] == name}
        for name in (first, other)
    }
    assert kernels[first] == kernels[other] and 0 < len(kernels[first]) <= most


@pytest.mark.slow
def test_no_kernel_is_left_out(compiled):
    import re

    kernels = Path(__file__).parents[2] / "kernels"
    written = {
        f"{path.parent.name}.gpu.{name}"
        for path in kernels.glob("*/gpu.py")
        for name in re.findall(r"@triton\.jit(?:\(.*\))?\ndef (\w+)\(", path.read_text())
    }
    launched = {row["kernel"] for row in compiled[90]}
    inlined = {name for name in written - launched if _is_called_by_kernels(name)}
    assert launched and written - launched == inlined


def _is_called_by_kernels(name):
    """Whether a jitted function is one that kernels call, which a launch brings in."""
    room, _, function = name.split(".")
    text = (Path(__file__).parents[2] / "kernels" / room / "gpu.py").read_text()
    return f"{function}[" not in text and text.count(f"{function}(") > 1
