#!/usr/bin/env python3
"""Recall of every recipe and scoring on one table: 1,000 held-out queries against all other rows.

usage: bench_recall.py EMBEDDINGS.npy OUTPUT_FOLDER [RECIPE ...]

Trains h = 4096, k = 32 with each recipe (or those named) and its own number of steps, codes the
corpus with float32 values (the paper's not refitted) and measures every method of
``compressae evaluate``. Prints a table a recipe; writes OUTPUT_FOLDER/RECIPE.
"""

import sys
import time
from pathlib import Path

import numpy as np

from compressae import TrainConfig, open_embeddings, train
from compressae.evaluation.protocol import evaluate
from compressae.evaluation.report import print_table, write
from compressae.progress import progress, training_details
from compressae.training import held_out_rows

QUERIES = 1000


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    items, folder = open_embeddings(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    held, kept = held_out_rows(len(items), QUERIES)
    for recipe in sys.argv[3:] or ("pursuit", "autoencoder", "paper"):
        config = TrainConfig(recipe=recipe, hold_out=QUERIES)
        started = time.perf_counter()
        with progress(f"training {recipe}") as show:
            model = train(
                items,
                config,
                progress=lambda now: show(now.step, now.steps, training_details(now)),
            )
        about = {"training_seconds": time.perf_counter() - started}
        with progress("measuring") as show:
            queries = items.take(held)
            result = evaluate(
                model,
                items.subset(np.sort(kept)),
                queries,
                codes={"values": "float32"},
                about=about,
                progress=show,
            )
        write(result, folder / recipe)
        print(f"recipe {recipe}: trained in {about['training_seconds']:.0f} s")
        print_table(result)


if __name__ == "__main__":
    main()
