#!/usr/bin/env python3
"""Exact search over sparse vectors of any kind (SPLADE, TF-IDF): scipy rows in, ids out."""

import numpy as np
import scipy.sparse

from compressae.retrieval import InvertedIndex


def main() -> None:
    rng = np.random.default_rng(0)
    documents = scipy.sparse.random_array((10_000, 30_522), density=0.002, rng=rng).tocsr()
    index = InvertedIndex(documents)
    print(index)
    query = documents[7:8]
    hits = index.search(query, 5)
    print(hits.ids[0], hits.scores[0])

    ids = index.add(documents[:3])  # The next free ids.
    index.remove(ids[:2])
    allowed = np.arange(0, documents.shape[0], 2)
    print(index.search(query, 5, allowed=allowed).ids[0], "among even ids")


if __name__ == "__main__":
    main()
