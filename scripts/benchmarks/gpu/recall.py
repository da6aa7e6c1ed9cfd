#!/usr/bin/env python3
"""How many of a scan's results are in the blocks that sketches choose, on a table of your own:
`python scripts/benchmarks/gpu/recall.py EMBEDDINGS OUTPUT.json`.

The arithmetic is that of the GPU's kernels and exact on a CPU too. QUERIES rows are taken out as
queries; the others are coded by a model that learned from them, with and without residual codes. A
scan's own recall, against dense rows, stands beside. Rows are stored in the table's order and in a
random one: neighbours in the table that are alike share blocks, which helps.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))  # The source tree needs no installation.

import click
import numpy as np
import torch

from compressae import TrainConfig, compress, train
from compressae.evaluation.protocol import machine
from compressae.kernels.sketch import BLOCK, pack_columns, pack_queries
from compressae.kernels.sketch.reference import best_blocks
from compressae.retrieval import CompressedIndex, exact_search, recall_at
from compressae.retrieval.index.sketch import directions_of
from compressae.retrieval.io.embeddings import as_embeddings, unit_rows


@click.command()
@click.argument("embeddings", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--queries", default=500, show_default=True, help="Rows taken out as queries.")
@click.option("--latents", default=4096, show_default=True)
@click.option("--nonzeros", default=16, show_default=True)
@click.option("--steps", default=40, show_default=True, help="Training steps of recipe pursuit.")
def main(
    embeddings: Path, output: Path, queries: int, latents: int, nonzeros: int, steps: int
) -> None:
    """Measure and write OUTPUT."""
    items = as_embeddings(embeddings)
    drawn = np.random.default_rng(0).permutation(len(items))
    asked = unit_rows(items.take(np.sort(drawn[:queries])))
    table = items.subset(np.sort(drawn[queries:]))
    model = train(table, TrainConfig(latents=latents, nonzeros=nonzeros, steps=steps))
    truth = exact_search(table, asked, 100).ids
    rows = []
    for residual_bytes in (0, 32):
        codes = compress(model, table, residual_bytes=residual_bytes)
        index = CompressedIndex(model.projection, codes, lists=False)
        scanned = index.search(asked, 100, candidates="all").ids
        decoded = codes.reconstruct(model.projection.decoder)
        for K in (10, 100):
            for row in sketched(decoded, asked, scanned[:, :K]):
                code_bytes = codes.nbytes / len(codes)
                recall = recall_at(scanned[:, :K], truth[:, :K], K)
                rows.append({"code_bytes": code_bytes, "K": K, "scan_recall": recall, **row})
                click.echo(json.dumps(rows[-1]))
    report = {
        "command": " ".join(["scripts/benchmarks/gpu/recall.py", *sys.argv[1:]]),
        "machine": machine(),
        "rows_searched": len(table),
        "dim": table.shape[1],
        "rows": rows,
    }
    output.write_text(json.dumps(report, indent=1) + "\n")


def sketched(decoded: np.ndarray, asked: np.ndarray, wanted: np.ndarray) -> list[dict]:
    """Share of wanted rows (q, K) in the chosen blocks, by order of rows and number of blocks."""
    n, K = len(decoded), wanted.shape[1]
    whole = torch.from_numpy(decoded)
    directions = directions_of(whole[:: max(1, n >> 16)])
    projected = whole @ directions
    packed = pack_columns(projected, projected.square().mean().sqrt()).numpy()
    small = pack_queries(torch.from_numpy(asked) @ directions).numpy()
    orders = {"kept": np.arange(n), "random": np.random.default_rng(1).permutation(n)}
    rows = []
    for name, order in orders.items():
        place = np.argsort(order)[wanted] // BLOCK
        for count in (4 * K, 8 * K, max(256, 8 * K), 16 * K):
            blocks = best_blocks(small, packed[order], count, None, None, BLOCK)
            found = [np.isin(own, chosen).mean() for own, chosen in zip(place, blocks, strict=True)]
            rows.append({
                "order": name,
                "blocks": count,
                "share_of_rows": count * BLOCK / n,
                "of_the_scan": float(np.mean(found)),
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
