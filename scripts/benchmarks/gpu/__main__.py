#!/usr/bin/env python3
"""Kernels, training and search on a GPU beside torch's own operations, in one run of minutes:
`python scripts/benchmarks/gpu`.

ceilings: the card's best rates: a large copy (bytes read and written), products of large matrices
in bfloat16 and float32.

kernels: each operation's time, its two floors (bytes of memory over the copy's rate, operations
over the rate of their unit), the share of the larger floor that was reached, a peer.

training: 1,000,000 × 768 synthetic rows, h = 4096, k = 32. The paper's recipe (batch 100,000, 500
steps) sets the mean cosine to reach; then the time to it of each of our recipes.

search: 10,000,000 synthetic rows of 32 nonzeros, h = 4096, top 100, and 100,000,000 rows. Peers:
cuSPARSE (torch.sparse) and torch.topk, bfloat16 brute force over 768 dimensions and torch.topk.

A part that fails is named, the others go on, and the exit status is 1. OUTPUT gets gpu.json and
gpu.md, rewritten after each part. With --smoke sizes are tiny and kernels run in Triton's
interpreter on a CPU: that checks the script, and its times mean nothing.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("triton") is None:
    sys.exit("Error: Triton is not installed; pip install triton (Linux)")
if "--smoke" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[3]))  # The source tree needs no installation.
sys.path.insert(0, str(Path(__file__).parents[2]))

import contextlib
import json
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import click
import torch
from benchmarks.gpu.kernel_rows import kernel_rows
from benchmarks.gpu.lab import Ceilings, Lab, Row, milliseconds
from benchmarks.gpu.search_rows import search_rows
from benchmarks.gpu.training_rows import training_rows

from compressae.evaluation.protocol import machine
from compressae.kernels.backend import use

PARTS: dict[str, Callable[[Lab], Iterator[Row]]] = {
    "kernels": kernel_rows,
    "training": training_rows,
    "search": search_rows,
}


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--smoke", is_flag=True, help="Tiny sizes in Triton's interpreter, without a GPU.")
def main(output: Path, parts: str, smoke: bool) -> None:
    """Measure PARTS on this machine's GPU and write OUTPUT/gpu.json and OUTPUT/gpu.md."""
    if not smoke and not torch.cuda.is_available():
        raise click.ClickException("torch finds no GPU here; expected one, or --smoke")
    unknown = set(parts.split(",")) - set(PARTS)
    if unknown:
        raise click.UsageError(f"parts {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    started = time.time()
    lab = Lab("cpu" if smoke else "cuda", smoke)
    failed: list[str] = []
    rows: list[Row] = []
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    with use("triton") if smoke else contextlib.nullcontext():
        ceilings = measure_ceilings(lab)
        for part in parts.split(","):
            try:
                for row in PARTS[part](lab):
                    rows.append(row)
                    click.echo(f"{time.time() - started:6.1f} s  {row.name}, {row.size}", err=True)
            except Exception:
                traceback.print_exc()
                failed.append(part)
            if lab.device == "cuda":
                torch.cuda.empty_cache()
            report = {
                "command": " ".join(["scripts/benchmarks/gpu", *sys.argv[1:]]),
                "commit": commit(),
                "machine": machine(),
                "measured": not smoke,
                "seconds": time.time() - started,
                "failed": failed,
                "ceilings": vars(ceilings),
                "rows": [row.figures(ceilings) for row in rows],
            }
            (output / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
            (output / "gpu.md").write_text(table(report))
    click.echo(table(report))
    if failed:
        raise click.ClickException(f"{', '.join(failed)} failed; the reasons stand above")


def measure_ceilings(lab: Lab) -> Ceilings:
    """Measure the card's limits."""
    size = lab.pick(1 << 30, 1 << 16)
    a, b = (torch.randn(size // 4, device=lab.device) for _ in range(2))
    copied = milliseconds(lab, lambda a=a, b=b: b.copy_(a))
    del a, b
    edge = lab.pick(8192, 64)
    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        x, y = (torch.randn(edge, edge, device=lab.device).to(dtype) for _ in range(2))
        rates[dtype] = 2 * edge**3 / (1e-3 * milliseconds(lab, lambda x=x, y=y: x @ y))
    return Ceilings(2 * size / (1e-3 * copied), rates[torch.bfloat16], rates[torch.float32])


def commit() -> str:
    """The measured commit, or "unknown"."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    about, ceilings = report["machine"], report["ceilings"]
    lines = [
        f"# GPU: {about['gpu'] or 'none (smoke run: times mean nothing)'}",
        "",
        f"`{report['command']}` at {report['commit']}, torch {about['torch']}, triton "
        f"{about['triton']}, {report['seconds']:.0f} s. Copy "
        f"{ceilings['bytes_a_second'] / 1e12:.2f} TB/s, bfloat16 "
        f"{ceilings['bfloat16'] / 1e12:.0f}, float32 {ceilings['float32'] / 1e12:.1f} TFLOP/s.",
        "",
        "| what | size | ms | bytes floor ms | operations floor ms | share | peer | peer ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        floors = [f"{row[name]:.3f}" if row[name] else "" for name in ("bytes_ms", "operations_ms")]
        share = f"{100 * row['share']:.0f} %" if row["share"] else ""
        peer = f"{row['peer_ms']:.3f}" if row["peer_ms"] else ""
        cells = [row["name"], row["size"], f"{row['ms']:.3f}", *floors, share, row["peer"], peer]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        f"- {row['name']}, {row['size']}: {row['note']}" for row in report["rows"] if row["note"]
    ]
    return "\n".join([*lines, "", *notes, ""])


if __name__ == "__main__":
    main()
