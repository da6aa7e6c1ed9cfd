#!/usr/bin/env python3
"""Search, kernels and training on a GPU beside torch's own operations, in one run of minutes:
`python scripts/benchmarks/gpu`.

ceilings: the card's best rates: a large copy (bytes read and written), products of large matrices
in bfloat16 and float32.

search: 10,000,000 synthetic rows of 32 nonzeros, h = 4096, top 100, and 100,000,000 rows. Peers:
bfloat16 brute force over 768 dimensions, with torch.topk over all scores and with the selection
that our own stages use; cuSPARSE (torch.sparse) and torch.topk.

kernels: each operation's time, its two floors (bytes of memory over the copy's rate, operations
over the rate of their unit), the share of the larger floor that was reached, a peer.

training: 1,000,000 × 768 synthetic rows, h = 4096, k = 32. The paper's recipe (batch 100,000, 500
steps) sets the mean cosine to reach; then the time to it of each of our recipes.

index: 10,000,000 rows as packed codes on the host, from dense queries to ids on the host.

Times are of calls after the first, whose time has a column of its own: it compiles. A row that
fails is named, the others go on, and the exit status is 1. What has not begun when --deadline is
over is named too. OUTPUT gets gpu.json and gpu.md, rewritten after each row. With --smoke sizes are
tiny and kernels run in Triton's interpreter on a CPU: that checks the script, and its times mean
nothing.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("triton") is None:
    sys.exit("Error: Triton is not installed; pip install 'compressae[gpu]' (Linux)")
if "--smoke" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[3]))  # The source tree needs no installation.
sys.path.insert(0, str(Path(__file__).parents[2]))

import contextlib
import json
import subprocess
import time
import traceback
from typing import Any

import click
import torch
from benchmarks.gpu.index_rows import index_parts
from benchmarks.gpu.kernel_rows import kernel_parts
from benchmarks.gpu.lab import Ceilings, Lab, Part, card, timed
from benchmarks.gpu.search_rows import search_parts
from benchmarks.gpu.training_rows import training_parts

from compressae.evaluation.protocol import machine
from compressae.kernels.backend import use

PARTS: dict[str, tuple[Part, ...]] = {
    "search": search_parts,
    "kernels": kernel_parts,
    "training": training_parts,
    "index": index_parts,
}


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--deadline", default=480.0, show_default=True, help="Seconds; then nothing begins.")
@click.option("--smoke", is_flag=True, help="Tiny sizes in Triton's interpreter, without a GPU.")
def main(output: Path, parts: str, deadline: float, smoke: bool) -> None:
    """Measure PARTS on this machine's GPU and write OUTPUT/gpu.json and OUTPUT/gpu.md."""
    if not smoke and not torch.cuda.is_available():
        raise click.ClickException("torch finds no GPU here; expected one, or --smoke")
    unknown = set(parts.split(",")) - set(PARTS)
    if unknown:
        raise click.UsageError(f"parts {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    run = Run(output, Lab("cpu" if smoke else "cuda", smoke), time.time() + deadline)
    with use("triton") if smoke else contextlib.nullcontext():
        for part in parts.split(","):
            for tasks in PARTS[part]:
                run.measure(tasks)
    run.write()
    click.echo(table(run.report()))
    if run.failed:
        raise click.ClickException(f"{', '.join(run.failed)} failed; the reasons stand above")


class Run:
    """Measured rows, and the files that have them.

    Args:
        output: folder of the files.
        lab: where to measure.
        deadline: of the clock, in seconds.
    """

    def __init__(self, output: Path, lab: Lab, deadline: float) -> None:
        self.output, self.lab, self.deadline = output, lab, deadline
        self.started, self.before = time.time(), card()
        self.ceilings = measure_ceilings(lab)
        self.rows: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def measure(self, part: Part) -> None:
        """Measure a part's rows, each guarded, until the deadline."""
        tasks = part(self.lab)
        while True:
            if time.time() > self.deadline:
                self.skipped.append(part.__name__)
                break
            try:
                task = next(tasks, None)
            except Exception:
                traceback.print_exc()
                self.failed.append(part.__name__)
                break
            if task is None:
                break
            try:
                figures = task.run().figures(self.ceilings)
                self.rows.append({"name": task.name, "size": task.size, **figures})
                click.echo(f"{time.time() - self.started:6.1f} s  {self._line()}", err=True)
            except Exception:
                traceback.print_exc()
                self.failed.append(f"{task.name} ({task.size})")
            self.write()
        del tasks
        if self.lab.device == "cuda":
            torch.cuda.empty_cache()

    def _line(self) -> str:
        row = self.rows[-1]
        peer = f", peer {row['peer_time']['median']:.3f} ms" if row["peer_time"] else ""
        return f"{row['name']}, {row['size']}: {row['time']['median']:.3f} ms{peer}"

    def write(self) -> None:
        """Write what is known so far."""
        report = self.report()
        (self.output / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        (self.output / "gpu.md").write_text(table(report))

    def report(self) -> dict[str, Any]:
        return {
            "command": " ".join(["scripts/benchmarks/gpu", *sys.argv[1:]]),
            "commit": commit(),
            "machine": machine(),
            "measured": not self.lab.smoke,
            "seconds": time.time() - self.started,
            "card": {"before": self.before, "after": card()},
            "failed": self.failed,
            "skipped": self.skipped,
            "ceilings": vars(self.ceilings),
            "rows": self.rows,
        }


def measure_ceilings(lab: Lab) -> Ceilings:
    """Measure the card's limits."""
    size = lab.pick(1 << 30, 1 << 16)
    a, b = (torch.randn(size // 4, device=lab.device) for _ in range(2))
    copied = timed(lab, lambda a=a, b=b: b.copy_(a)).median
    del a, b
    edge = lab.pick(8192, 64)
    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        x, y = (torch.randn(edge, edge, device=lab.device).to(dtype) for _ in range(2))
        rates[dtype] = 2 * edge**3 / (1e-3 * timed(lab, lambda x=x, y=y: x @ y).median)
    return Ceilings(2 * size / (1e-3 * copied), rates[torch.bfloat16], rates[torch.float32])


def commit() -> str:
    """The measured commit: COMMIT in the environment where .git did not travel, or "unknown"."""
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    about, ceilings, card = report["machine"], report["ceilings"], report["card"]
    lines = [
        f"# GPU: {about['gpu'] or 'none (smoke run: times mean nothing)'}",
        "",
        f"`{report['command']}` at {report['commit']}, torch {about['torch']}, triton "
        f"{about['triton']}, {report['seconds']:.0f} s. Copy "
        f"{ceilings['bytes_a_second'] / 1e12:.2f} TB/s, bfloat16 "
        f"{ceilings['bfloat16'] / 1e12:.0f}, float32 {ceilings['float32'] / 1e12:.1f} TFLOP/s. "
        f"Card before: {card['before'] or 'unknown'}; after: {card['after'] or 'unknown'}.",
        "",
        "| what | size | ms | 10–90 % | first ms | bytes floor ms | operations floor ms | share "
        "| peer | peer ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        time, peer = row["time"], row["peer_time"]
        floors = [f"{row[name]:.3f}" if row[name] else "" for name in ("bytes_ms", "operations_ms")]
        cells = [
            row["name"],
            row["size"],
            f"{time['median']:.3f}",
            f"{time['low']:.3f}–{time['high']:.3f}",
            f"{time['first']:.0f}",
            *floors,
            f"{100 * row['share']:.0f} %" if row["share"] else "",
            row["peer"],
            f"{peer['median']:.3f}" if peer else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        f"- {row['name']}, {row['size']}: {row['note']}" for row in report["rows"] if row["note"]
    ]
    for what in ("failed", "skipped"):
        notes += [f"- {what}: {name}" for name in report[what]]
    return "\n".join([*lines, "", *notes, ""])


if __name__ == "__main__":
    main()
