#!/usr/bin/env python3
"""Encoding and training throughput of one core, beside faiss's quantisers at equal bytes.

EMBEDDINGS is a table of rows; OUTPUT gets encoding.json. --before is another checkout of this
repository, whose figures are taken in the same run, in turns. Figures are medians of --rounds (of
training: one round), in processor seconds of one thread. Quantisers are fitted before, untimed;
encoding includes the Gram matrix of the latents, once, which many rows share.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click
import faiss
import numpy as np
import torch

from compressae import CompresSAE, TrainConfig, compress, open_embeddings, train
from compressae.evaluation.protocol import machine
from compressae.retrieval.baselines import build
from compressae.retrieval.io.embeddings import unit_rows

ROOT = Path(__file__).resolve().parents[3]
#: Bytes of a row of each configuration: nonzeros and residual bytes.
CODES = {8: ((8, 16), (8, 48)), 16: ((16, 16),)}


@click.command(help=__doc__)
@click.argument("embeddings", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--before", type=click.Path(exists=True, path_type=Path), help="Another checkout.")
@click.option("--latents", default="4096,16384", show_default=True, help="h, several by commas.")
@click.option("--rows", default=32_768, show_default=True, help="Rows that are encoded.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--steps", default=2, show_default=True, help="Training steps timed; 0: none.")
def main(
    embeddings: Path,
    output: Path,
    before: Path | None,
    latents: str,
    rows: int,
    rounds: int,
    steps: int,
) -> None:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # One processor, for child processes too.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    items = open_embeddings(embeddings)
    table = unit_rows(items.take(np.arange(len(items))))
    checkouts = {"ours": ROOT} | ({} if before is None else {"before": before.resolve()})
    record = Record(output, before)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        np.save(folder / "rows.npy", table[:rows])
        np.save(folder / "table.npy", table)
        for h in map(int, latents.split(",")):
            for k, forms in CODES.items():
                encode(record, table, folder, h, k, forms, checkouts, rounds)
                if steps:
                    sizes = h, k, steps
                    seconds = in_turns(checkouts, 1, "train", folder / "table.npy", *sizes)
                    for name, own in seconds.items():
                        record.add(f"train, h = {h}, k = {k}", name, seconds_a_step=round(own, 2))
    for size in (32, 64):
        encode_by_faiss(record, "pq", table, rounds, code_bytes=size)
        encode_by_faiss(record, "opq", table, rounds, code_bytes=size, iterations=2)
        encode_by_faiss(record, "prq", table, rounds, code_bytes=size)
    encode_by_faiss(record, "rq", table, rounds, code_bytes=32, beam=1)


class Record:
    """The points so far, printed and written one by one."""

    def __init__(self, output: Path, before: Path | None) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.path, self.points = output / "encoding.json", []
        self.about = {
            "machine": machine(),
            "commit": commit(ROOT),
            "before": None if before is None else commit(before),
        }

    def add(self, what: str, code: str, **figures: float) -> None:
        self.points.append({"what": what, "code": code, **figures})
        click.echo("; ".join(f"{key} {value}" for key, value in self.points[-1].items()))
        self.path.write_text(json.dumps({**self.about, "points": self.points}, indent=1) + "\n")


def encode(
    record: Record,
    table: np.ndarray,
    folder: Path,
    h: int,
    k: int,
    forms: tuple[tuple[int, int], ...],
    checkouts: dict[str, Path],
    rounds: int,
) -> None:
    """Rows a second of each form of codes of one model, whose quality their speed is not of."""
    train(table, TrainConfig(latents=h, nonzeros=k, steps=2), device="cpu").save(folder / "model")
    model, rows = CompresSAE.load(folder / "model"), folder / "rows.npy"
    for nonzeros, residual in forms:
        codes = compress(
            model, table[:4096], nonzeros=nonzeros, residual_bytes=residual, device="cpu"
        )
        codes.save(folder / "codes")
        seconds = in_turns(checkouts, rounds, "encode", folder / "model", folder / "codes", rows)
        for name, own in seconds.items():
            record.add(
                f"encode, h = {h}, {nonzeros} nonzeros and {residual} residual bytes",
                name,
                bytes=round(codes.nbytes / len(codes)),
                rows_a_second=round(len(np.load(rows, mmap_mode="r")) / own),
            )


def commit(checkout: Path) -> str:
    """The commit that a checkout is at."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def in_turns(checkouts: dict[str, Path], rounds: int, *arguments: object) -> dict[str, float]:
    """Median seconds that ``work.py`` prints with each checkout; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    script = Path(__file__).with_name("work.py")
    for _ in range(rounds):
        for name, checkout in checkouts.items():
            done = subprocess.run(
                [sys.executable, str(script), *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": str(checkout)},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds[name].append(float(done.stdout))
    return {name: float(np.median(own)) for name, own in seconds.items()}


def encode_by_faiss(
    record: Record, name: str, table: np.ndarray, rounds: int, **settings: int
) -> None:
    """Rows a second that a quantiser of faiss encodes, trained on few rows."""
    index: Any = build(name, table[:2048], **settings)
    index, few, seconds = index.index, table[:2048], []
    for _ in range(rounds):
        start = time.process_time()
        index.sa_encode(few)
        seconds.append(time.process_time() - start)
    rate = round(len(few) / float(np.median(seconds)))
    record.add("encode", f"faiss {name}", **settings, rows_a_second=rate)


if __name__ == "__main__":
    main()
