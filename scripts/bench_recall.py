#!/usr/bin/env python3
"""Recall of both recipes on one table: 1,000 held-out queries against all other rows.

usage: bench_recall.py EMBEDDINGS.npy OUTPUT_FOLDER [STEPS]

Trains h = 4096, k = 32 with the default and the paper's recipe (3,000 steps each unless said),
codes the corpus with float32 values (the paper's not refitted) and measures every method of
``compressae evaluate``. Prints both tables; writes OUTPUT_FOLDER/default and OUTPUT_FOLDER/paper.
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
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    items, folder = open_embeddings(sys.argv[1]), Path(sys.argv[2])
    steps = int(sys.argv[3]) if len(sys.argv) == 4 else 3000
    folder.mkdir(parents=True, exist_ok=True)
    held, kept = held_out_rows(len(items), QUERIES)
    for recipe in ("default", "paper"):
        config = TrainConfig(recipe=recipe, steps=steps, hold_out=QUERIES)
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
                model, items.subset(np.sort(kept)), queries, about=about, progress=show
            )
        write(result, folder / recipe)
        print(f"recipe {recipe}: trained in {about['training_seconds']:.0f} s")
        print_table(result)


if __name__ == "__main__":
    main()
