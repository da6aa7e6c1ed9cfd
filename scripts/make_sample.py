#!/usr/bin/env python3
"""Make the sample that ships with the package from embeddings and texts of all of WordNet 3.0.

usage: make_sample.py EMBEDDINGS.npy TEXTS.txt.gz OUTPUT_FOLDER

The tables have one row a synset in file order (noun, verb, adjective, adverb). 20,000 of the nouns
are drawn with seed 0. The same input gives the same bytes.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

NOUNS = 82_115
ROWS = 20_000


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    table, texts_file, folder = np.load(sys.argv[1], mmap_mode="r"), sys.argv[2], Path(sys.argv[3])
    rows = np.sort(np.random.default_rng(0).choice(NOUNS, ROWS, replace=False))
    x = table[rows].astype(np.float32)
    scales = np.abs(x).max(axis=1) / 127
    values = np.rint(x / scales[:, None]).astype(np.int8)
    tensors = {"values": values, "scales": scales, "rows": rows.astype(np.int32)}
    save_file(tensors, folder / "wordnet_nouns.safetensors")
    with gzip.open(texts_file, "rt", encoding="utf-8") as file:
        texts = file.read().splitlines()
    chosen = "".join(texts[row] + "\n" for row in rows)
    packed = gzip.compress(chosen.encode(), compresslevel=9, mtime=0)
    (folder / "wordnet_nouns.txt.gz").write_bytes(packed)
    restored = values * scales[:, None]
    lengths = np.linalg.norm(restored, axis=1) * np.linalg.norm(x, axis=1)
    cosine = (restored * x).sum(axis=1) / lengths
    print(
        f"{ROWS} rows; cosine with the original: min {cosine.min():.5f}, mean {cosine.mean():.5f}"
    )


if __name__ == "__main__":
    main()
