#!/usr/bin/env python3
"""What bfloat16 costs in training on a GPU, shown on a processor.

On a GPU latents are chosen by bfloat16 products, of which a few more than k are computed anew, and
sums over rows multiply numbers rounded to bfloat16. This trains recipe autoencoder on the shipped
sample with and without these roundings and prints the mean cosine of the last 20 batches of each.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np
import torch
from torch import Tensor

from compressae import CompresSAE, TrainConfig, load_sample, train, training
from compressae.gradients import Step, take_gradients
from compressae.sparse_ops import abs_topk, decode, outer_sum, project


@torch.no_grad()
def rounded(model: CompresSAE, x: Tensor, wide_weight: float) -> Step:
    """Gradients of the loss at k with a GPU's roundings."""
    k, h = model.nonzeros, model.latents
    columns, shift = model.encoder.bfloat16().T, model.encoder_bias.bfloat16()
    products = torch.addmm(shift, x.bfloat16(), columns).float()
    near = abs_topk(products, min(h, k + max(8, k // 4)))[0].sort(1).values.contiguous()
    entries = project(near, x, model.encoder) + model.encoder_bias[near.long()]
    place, values = abs_topk(entries, k)
    ids = near.gather(1, place.long())
    y = decode(ids, values, model.decoder)
    length = y.norm(dim=1, keepdim=True)
    cosines = (x * y).sum(1, keepdim=True) / length
    slope = (cosines * y / length**2 - x / length) / len(x)
    to_values = project(ids, slope, model.decoder)

    def low(numbers: Tensor) -> Tensor:
        return numbers.bfloat16().float()

    model.decoder.grad = outer_sum(ids, low(values), low(slope), h)
    model.encoder.grad = outer_sum(ids, low(to_values), low(x), h)
    model.encoder_bias.grad = outer_sum(ids, low(to_values), torch.ones(len(x), 1), h)[:, 0]
    return Step(1 - cosines.mean(), cosines[:, 0], ids, values)


@click.command()
@click.option("--latents", type=click.IntRange(32), default=2048, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=600, show_default=True)
def main(latents: int, steps: int) -> None:
    """Train twice and print both cosines."""
    settings: dict[str, Any] = dict(latents=latents, nonzeros=32, steps=steps, batch=1024)
    config = TrainConfig(recipe="autoencoder", **settings)
    for name, gradients in (("float32", take_gradients), ("bfloat16", rounded)):
        training.take_gradients = gradients
        cosines: list[float] = []
        train(load_sample().embeddings, config, "cpu", lambda now: cosines.append(now.cosine))
        click.echo(f"{name} {np.mean(cosines[-20:]):.4f}")


if __name__ == "__main__":
    main()
