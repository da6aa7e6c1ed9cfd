"""Training on a GPU: the time to the quality of the paper's recipe."""

import time

import torch
from gpu_tools import Ceilings, Lab, Row

from compressae import TrainConfig, train
from compressae.training import TrainProgress

SEED = 0


def table(lab: Lab, n: int, d: int) -> torch.Tensor:
    """Synthetic embeddings (n, d): sums of a few of many directions, of decaying weight, and noise
    with a decaying spectrum. They stand for nobody's data."""
    generator = torch.Generator(lab.device).manual_seed(SEED)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=lab.device, generator=generator)

    spectrum = torch.arange(1, d + 1, device=lab.device) ** -0.4
    directions = torch.nn.functional.normalize(normal(20 * d, d) * spectrum)
    rows = torch.empty(n, d)
    for start in range(0, n, 1 << 16):
        m = min(1 << 16, n - start)
        part = 0.5 * torch.nn.functional.normalize(normal(m, d) * spectrum)
        for j in range(24):
            drawn = torch.rand(m, device=lab.device, generator=generator) ** 2 * len(directions)
            part += normal(m, 1) * (j + 1) ** -0.5 * directions[drawn.long()]
        rows[start : start + m] = part.cpu()
    return rows


def training_rows(lab: Lab, ceilings: Ceilings) -> list[Row]:
    n, d, h, k = lab.pick((1_000_000, 768, 4096, 32), (40, 16, 32, 2))
    batch, steps = lab.pick((100_000, 500), (4, 2))
    items = table(lab, n, d).numpy()
    rows: list[Row] = []
    goal = 0.0
    for config in (
        TrainConfig(latents=h, nonzeros=k, recipe="paper", batch=batch, steps=steps),
        TrainConfig(latents=h, nonzeros=k, recipe="autoencoder", batch=batch, steps=steps),
        TrainConfig(
            latents=h, nonzeros=k, recipe="autoencoder", batch=lab.pick(16_384, 4),
            steps=lab.pick(1000, 2),
        ),
        TrainConfig(latents=h, nonzeros=k, steps=lab.pick(40, 2), batch=lab.pick(16_384, 8)),
    ):  # fmt: skip
        curve: list[tuple[float, float]] = []
        started = time.perf_counter()

        def note(
            now: TrainProgress,
            curve: list[tuple[float, float]] = curve,
            started: float = started,
        ) -> None:
            curve.append((time.perf_counter() - started, now.cosine))

        train(items, config, lab.device, note)
        whole = time.perf_counter() - started
        goal = goal or curve[-1][1]
        reached = next((at for at, cosine in curve if cosine >= goal), None)
        product = 2 * config.batch * d * h
        rows.append(
            Row(
                f"training, recipe {config.recipe}",
                f"{n} × {d}, {config.steps} steps of {config.batch}",
                1e3 * whole,
                operations=config.steps * product if config.recipe != "pursuit" else 0.0,
                unit="bfloat16",
                note=f"mean cosine of the last batch {curve[-1][1]:.4f}; "
                + (
                    f"{goal:.4f}, where the paper's recipe ends, after {reached:.1f} s"
                    if reached is not None
                    else f"{goal:.4f}, where the paper's recipe ends, was not reached"
                ),
            )
        )
    return rows
