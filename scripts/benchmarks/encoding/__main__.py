#!/usr/bin/env python3
"""Encoding and training throughput of one core, beside faiss's quantisers at equal bytes.

EMBEDDINGS is a table of rows; OUTPUT gets encoding.json. --before is another checkout of this
repository, whose figures are taken in the same run, in turns. Figures are medians of --rounds (of
training: one round), in processor seconds of one thread. Quantisers are fitted before, untimed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click
import faiss
import numpy as np
import torch

from compressae import CompresSAE, TrainConfig, compress, open_embeddings, train
from compressae.evaluation.protocol import machine
from compressae.retrieval.io.embeddings import unit_rows

ROOT = Path(__file__).resolve().parents[3]
#: Bytes of a row of each configuration: nonzeros and residual bytes.
CODES = {8: ((8, 16), (8, 48)), 16: ((16, 16),)}


@click.command(help=__doc__)
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--before", type=click.Path(path_type=Path), help="Another checkout.")
@click.option("--latents", default="4096,16384", show_default=True, help="h, several by commas.")
@click.option("--rows", default=8192, show_default=True, help="Rows that are encoded.")
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
    points = []
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        np.save(folder / "rows.npy", table[:rows])
        np.save(folder / "table.npy", table)
        for h in map(int, latents.split(",")):
            for trained_k, forms in CODES.items():
                config = TrainConfig(latents=h, nonzeros=trained_k, steps=2)
                model = train(table, config, device="cpu")  # Speed does not depend on its quality.
                model_path = folder / f"model {h} {trained_k}"
                model.save(model_path)
                for k, residual_bytes in forms:
                    codes = compress(
                        CompresSAE.load(model_path), table[:4096], nonzeros=k,
                        residual_bytes=residual_bytes, device="cpu",
                    )  # fmt: skip
                    codes_path = folder / f"codes {h} {k} {residual_bytes}"
                    codes.save(codes_path)
                    seconds = in_turns(
                        checkouts, rounds, "encode", model_path, codes_path, folder / "rows.npy"
                    )
                    for name, one in seconds.items():
                        points.append(
                            {
                                "what": f"encode, h = {h}, {k} nonzeros and {residual_bytes} "
                                "residual bytes",
                                "code": name,
                                "bytes": codes.nbytes / len(codes),
                                "rows_a_second": round(rows / one),
                            }
                        )
                        show(points[-1])
                if not steps:
                    continue
                seconds = in_turns(checkouts, 1, "train", folder / "table.npy", h, trained_k, steps)
                for name, one in seconds.items():
                    points.append(
                        {
                            "what": f"train, h = {h}, k = {trained_k}",
                            "code": name,
                            "seconds_a_step": round(one, 2),
                        }
                    )
                    show(points[-1])
    for size in (32, 64):
        for name, factory in (
            ("PQ", f"PQ{size}"), ("OPQ", f"OPQ{size},PQ{size}"), ("RQ", f"RQ{size}x8"),
        ):  # fmt: skip
            if name == "RQ" and size > 32:
                continue  # Training alone takes a quarter of an hour.
            points.append(faiss_point(name, factory, table, size, rounds))
            show(points[-1])
    output.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": machine(),
        "commit": commit(ROOT),
        "command": " ".join(["python", "scripts/benchmarks/encoding", *sys.argv[1:]]),
        "before": None if before is None else commit(before),
        "points": points,
    }
    (output / "encoding.json").write_text(json.dumps(record, indent=1) + "\n")


def show(point: dict) -> None:
    click.echo("; ".join(f"{key} {value}" for key, value in point.items()))


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


def faiss_point(name: str, factory: str, table: np.ndarray, size: int, rounds: int) -> dict:
    """Rows a second that a quantiser of faiss encodes, trained on few rows."""
    index = faiss.index_factory(table.shape[1], factory)
    index.train(table[:8192])
    few = table[:2048]
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        index.sa_encode(few)
        seconds.append(time.process_time() - start)
    rate = round(len(few) / float(np.median(seconds)))
    return {"what": "encode", "code": f"faiss {name}", "bytes": size, "rows_a_second": rate}


if __name__ == "__main__":
    main()
