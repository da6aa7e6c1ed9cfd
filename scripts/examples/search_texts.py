#!/usr/bin/env python3
"""Train on nouns of the WordNet sample, compress them, and search them for a few of their own."""

import numpy as np

from compressae import TrainConfig, compress, load_sample, train
from compressae.retrieval import CompressedIndex, ExactIndex, recall_at, tune

ROWS = 4000  # Of 20,000, so that it takes seconds.


def main() -> None:
    sample = load_sample()
    items = sample.embeddings.subset(np.arange(ROWS))  # (n, d); or open_embeddings("items.npy")
    model = train(items, TrainConfig(latents=512, nonzeros=8, seed=0))
    codes = compress(model, items, residual_bytes=16)
    index = CompressedIndex(model.projection, codes)
    print(f"{codes.nbytes / len(codes):.0f} bytes an item instead of {4 * items.shape[1]}")

    queries = items.take(np.arange(200))
    tune(index, queries, K=10, recall=0.99)  # Sets query nonzeros and candidates.
    truth = ExactIndex(items).search(queries, 10)
    print(f"recall@10 {recall_at(index.search(queries, 10).ids, truth.ids, 10):.3f}")
    reranked = index.search(queries, 10, rerank=items)
    print(f"recall@10 {recall_at(reranked.ids, truth.ids, 10):.3f}, reranked")

    for row in (100, 1000, 3000):
        hits = index.search(items.take(np.array([row])), 4)
        print(f"\n{sample.texts[row]}")
        for i, score in zip(hits.ids[0, 1:], hits.scores[0, 1:], strict=True):
            print(f"  {score:.3f}  {sample.texts[i]}")


if __name__ == "__main__":
    main()
