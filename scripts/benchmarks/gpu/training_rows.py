"""Rows of the report: training, the time to the quality of the paper's recipe."""

import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from benchmarks.gpu.lab import Lab, Row, Task, Timing
from benchmarks.gpu.planted import drawn_rows

from compressae import CompresSAE, TrainConfig, train
from compressae.kernels.decode import decode
from compressae.kernels.pursuit import pursue, pursuit_schedule
from compressae.training.loop import TrainProgress


def training_rows(lab: Lab) -> Iterator[Task]:
    """Train by each recipe; the note has the mean cosine of held-out rows by both coders."""
    n, d, h, k = lab.pick((1_000_000, 768, 4096, 32), (40, 16, 32, 2))
    batch, steps = lab.pick((100_000, 500), (4, 1))
    rest = np.empty((n, d), np.float32)
    for i, start in enumerate(range(0, n, 1 << 16)):
        part = rest[start : start + (1 << 16)]
        part[:] = drawn_rows(lab, len(part), d, seed=i).cpu().numpy()
    held = torch.nn.functional.normalize(drawn_rows(lab, lab.pick(10_000, 4), d, seed=-1))
    goal: list[float] = []  # The mean cosine of the paper's recipe, once known.
    configs = (
        TrainConfig(latents=h, nonzeros=k, recipe="paper", batch=batch, steps=steps),
        TrainConfig(
            latents=h,
            nonzeros=k,
            recipe="autoencoder",
            batch=lab.pick(16_384, 4),
            steps=lab.pick(1000, 2),
        ),
        TrainConfig(h, k, steps=lab.pick(40, 1), batch=lab.pick(16_384, 8), whitening=0.4),
        TrainConfig(latents=h, nonzeros=k, recipe="autoencoder", batch=batch, steps=steps),
    )
    for config in lab.pick(configs, configs[:3:2]):
        yield Task(
            f"training, recipe {config.recipe}",
            f"{n} × {d}, {config.steps} steps of {config.batch}",
            lambda config=config: training(lab, config, rest, held, goal),  # type: ignore[misc]
        )


def training(
    lab: Lab, config: TrainConfig, rows: np.ndarray, held: torch.Tensor, goal: list[float]
) -> Row:
    """Train once; "first" is all of it by the clock, from rows on the host to a model."""
    curve: list[tuple[float, float]] = []
    started = time.perf_counter()

    def record(now: TrainProgress) -> None:
        curve.append((time.perf_counter() - started, now.cosine))

    model = train(rows, config, lab.device, record)
    seconds = time.perf_counter() - started
    between = [1e3 * (b[0] - a[0]) for a, b in pairwise(curve)] or [1e3 * curve[0][0]]
    low, median, high = np.quantile(between, [0.1, 0.5, 0.9]).tolist()
    encoder, pursuit = held_cosines(lab, model, held)
    note = (
        f"ms are of a step; {seconds:.1f} s in all, the first step after {curve[0][0]:.1f} s; "
        f"held-out cosine of the encoder's code {encoder:.4f}, of pursuit's {pursuit:.4f}"
    )
    if config.recipe == "paper":
        goal[:] = [curve[-1][1]]
    if config.recipe != "pursuit" and goal:  # Its batches are coded by pursuit: no comparison.
        reached = next((at for at, cosine in curve if cosine >= goal[0]), None)
        note += f"; a batch's {goal[0]:.4f}, where the paper's recipe ends, "
        note += "not reached" if reached is None else f"after {reached:.1f} s"
    return Row(Timing(median, low, high, 1e3 * seconds), note=note)


def held_cosines(lab: Lab, model: CompresSAE, x: torch.Tensor) -> tuple[float, float]:
    """Mean cosines of unit rows x (n, d) and reconstructions: (encoder's code, pursuit's)."""
    model = model.to(lab.device)
    weights = model.decoder.detach()
    with torch.no_grad():
        codes = model.encode(x), pursue(x, weights, pursuit_schedule(model.nonzeros))
    return tuple(
        torch.cosine_similarity(x, decode(ids, values, weights)).mean().item()
        for ids, values in codes
    )  # type: ignore[return-value]


training_parts = (training_rows,)
