"""The time of q' = W·x, by which every dense query begins."""

import time

import click
import numpy as np

SHAPES = ((4096, 384), (16384, 384), (4096, 768))


@click.command()
@click.option("--rounds", default=200, show_default=True)
def projection(rounds: int) -> None:
    """The time of q' = W·x, with W in float32, bfloat16, 8 bits and 4 bits."""
    import torch

    from compressae.kernels.product import IntMatrix, product, round_directions
    from compressae.retrieval.io.embeddings import unit_rows

    torch.set_num_threads(1)
    click.echo(
        "| h | d | float32 | bfloat16 | 8 bits | 4 bits | float32, 256 queries | error at most |"
    )
    click.echo("|---|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for h, d in SHAPES:
        W, X = (
            unit_rows(rng.standard_normal((n, d), dtype=np.float32)).astype(np.float32)
            for n in (h, 256)
        )
        rounded = IntMatrix.of_entries(round_directions(W))
        W = rounded.to_float32()
        int8, bfloat16, x = IntMatrix.of(W), torch.from_numpy(W).bfloat16(), X[:1]
        x_bfloat16 = torch.from_numpy(x[0]).bfloat16()
        single = (
            lambda: W @ x[0],
            lambda: bfloat16 @ x_bfloat16,
            lambda: product(int8, x),
            lambda: product(rounded, x),
        )
        times = [_median(job, rounds) for job in single]
        batch = _median(lambda: X @ W.T, min(rounds, 10)) / len(X)
        error = max(np.abs(product(held, X) - X @ W.T).max() for held in (int8, rounded))
        cells = [f"{1e6 * seconds:.0f} µs" for seconds in times]
        cells += [f"{1e6 * batch:.0f} µs each", f"{error:.4f}"]
        click.echo(f"| {h:,} | {d} | {' | '.join(cells)} |")


def _median(job, rounds: int) -> float:
    """Median seconds of a call, after one call."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))
