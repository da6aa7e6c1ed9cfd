#!/usr/bin/env python3
"""How often ``compressae check`` says "retrain" on batches whose answer is known.

usage: python scripts/benchmarks/drift EMBEDDINGS.npy

EMBEDDINGS are those of the synsets of WordNet 3.0 in file order: nouns by topic, verbs, adjectives,
adverbs. Three models (h = 4096, k = 16) are trained: on 60,000 random nouns, 1,000 of them held
out; on the same without a hold-out; and on nouns without one topic, rows 10,000 to 20,000. Batches
are drawn at random, unseen nouns from the 22,115 others. Prints Markdown.
"""

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from compressae import CompresSAE, TrainConfig, open_embeddings, train
from compressae.evaluation.drift import check, measure_reference
from compressae.retrieval.io.embeddings import unit_rows

PARTS = {"verbs": (82_115, 95_882), "adjectives": (95_882, 114_038), "adverbs": (114_038, 117_659)}
NOUNS = 82_115
TRAINED = 60_000
TOPIC = np.arange(10_000, 20_000)
HEADER = ("batch", "rows", "retrain", "cosine", "low", "recall", "live", "imbalance", "worse")

Draw = Callable[[int, np.random.Generator], np.ndarray]
Case = tuple[str, Draw, Sequence[tuple[int, int]]]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    items = open_embeddings(sys.argv[1])
    order = np.random.default_rng(3).permutation(NOUNS)
    seen, unseen = np.sort(order[:TRAINED]), order[TRAINED:]
    rotation = np.linalg.qr(np.random.default_rng(4).standard_normal((items.shape[1],) * 2))[0]

    def among(rows: np.ndarray) -> Draw:
        return lambda m, rng: items.take(rng.choice(rows, m, replace=False))

    def noisy(share: float) -> Draw:
        def draw(m: int, rng: np.random.Generator) -> np.ndarray:
            x = unit_rows(among(unseen)(m, rng))
            return x + share * unit_rows(rng.standard_normal(x.shape, dtype=np.float32))

        return draw

    def mixed(m: int, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([among(unseen)(m - m // 2, rng), parts["verbs"](m // 2, rng)])

    parts = {name: among(np.arange(*ends)) for name, ends in PARTS.items()}
    few = [(200, 10), (1000, 10)]
    same: Case = ("unseen nouns", among(unseen), [(100, 100), (200, 100), (1000, 50), (5000, 20)])
    others: list[Case] = [(name, draw, few) for name, draw in parts.items()]
    topics: list[Case] = [
        (f"nouns {start:,} to {start + 10_000:,}", among(np.arange(start, start + 10_000)), few)
        for start in range(0, 80_000, 10_000)
    ]
    altered: list[Case] = [
        ("half nouns, half verbs", mixed, few),
        ("rotated nouns", lambda m, rng: among(unseen)(m, rng) @ rotation.astype(np.float32), few),
        *((f"nouns with {100 * s:.0f} % noise", noisy(s), few) for s in (0.05, 0.2, 0.3)),
    ]
    sets = [
        ("60,000 nouns, 1,000 of them held out", seen, 1000, [same, *others, *altered, *topics]),
        ("60,000 nouns, none held out", seen, 0, [same, *others, *altered]),
        (
            "nouns without rows 10,000 to 20,000, 1,000 held out",
            np.setdiff1d(np.arange(NOUNS), TOPIC),
            1000,
            [("the rows left out", among(TOPIC), few)],
        ),
    ]
    for title, rows, held, cases in sets:
        table = items.subset(rows)
        config = TrainConfig(latents=4096, nonzeros=16, hold_out=held)
        started = time.perf_counter()
        model = train(table, config)
        model.settings["reference"] = measure_reference(model, table).to_settings()
        print(f"\n## Trained on {title} ({time.perf_counter() - started:.0f} s)\n", flush=True)
        report(model, cases)


def report(model: CompresSAE, cases: Sequence[Case]) -> None:
    """Print a row for each case and size: share to retrain, mean figures, which were worse."""
    reference = model.settings["reference"]["figures"]
    recall = "; ".join(f"{value:.3f} of {corpus}" for corpus, value, _ in reference["recall"])
    cells = [f"{reference[name][0]:.3f}" for name in ("cosine", "low")]
    cells += [recall, "", f"{reference['list_imbalance'][0]:.2f}", ""]
    first = ["reference", f"{reference['rows']:,}", "", *cells]
    for cells in (HEADER, ["---"] * len(HEADER), first):
        print("| " + " | ".join(cells) + " |")
    for name, draw, sizes in cases:
        for m, times in sizes:
            rng = np.random.default_rng(m)
            batches = [check(model, draw(m, rng)) for _ in range(times)]
            now = np.mean([[one.now for one in batch.findings] for batch in batches], axis=0)
            worse = sorted({one.name for batch in batches for one in batch.findings if one.worse})
            share = f"{sum(batch.retrain for batch in batches)} of {times}"
            figures = [f"{value:.3f}" for value in now[:4]] + [f"{now[4]:.2f}"]
            cells = [name, f"{m:,}", share, *figures, ", ".join(worse)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
