"""Planted rows: clusters in 128 dimensions, made a block at a time."""

import json
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from compressae import CompresSAE, TrainConfig, train
from compressae.evaluation.protocol import machine

DIM, LATENTS, NONZEROS, RESIDUAL_BYTES = 128, 1024, 8, 16
_CENTRES, _NOISE = 2000, 0.7


def planted(count: int, seed: int) -> np.ndarray:
    """Unit rows (count, 128) float32 around 2,000 centres, the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((_CENTRES, DIM)).astype(np.float32)
    rng = np.random.default_rng([1, seed])
    rows = centres[rng.integers(_CENTRES, size=count)]
    rows += _NOISE * rng.standard_normal((count, DIM), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def dictionary() -> CompresSAE:
    """A dictionary trained on 20,000 of the rows."""
    return train(planted(20_000, 1), TrainConfig(LATENTS, nonzeros=NONZEROS, steps=20))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def p50(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> float:
    """Median milliseconds of one query (1, d) at a time, after as many to warm up."""
    for query in queries:
        search(query[None])
    return 1e3 * float(np.median([timed(lambda: search(query[None]))[0] for query in queries]))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def about(command: str, libraries: tuple[str, ...]) -> dict[str, Any]:
    """Machine, commit, versions and command of a record."""
    versions = {}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {"command": command, "commit": commit, "machine": machine(), "versions": versions}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record, as far as it has come."""
    path.write_text(json.dumps(record, indent=1) + "\n")
