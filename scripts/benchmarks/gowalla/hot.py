"""Hot items: the most recommended ones in full precision beside codes of all."""

import time
from pathlib import Path

import click
import numpy as np
from benchmarks.gowalla.files import write_json
from benchmarks.gowalla.served import demand, svd_tables, trained_tables
from recommenders.interactions import read_split
from scipy import sparse

from compressae import TrainConfig, compress, train
from compressae.retrieval import CompressedIndex, HotRows, exact_search, recall_at

K = 20


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("trained", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--latents", default=1024, help="h.")
@click.option("--dim", default=64, help="Dimensions of the SVD.")
def hot(data: Path, trained: Path | None, output: Path, latents: int, dim: int) -> None:
    """Rerank the items that are recommended most from memory, at several shares of the catalogue.

    TRAINED is an output of `train`; an SVD is taken without. Hot are the items that are most often
    among the best 50 of users who are not judged. Bytes are those of codes and of hot rows (float16
    and an id), over all items. OUTPUT gets hot.json.
    """
    split = read_split(data)
    users, items = svd_tables(split, dim) if trained is None else trained_tables(trained, split)
    judged, others, asked = demand(split, users, items)
    seen = sparse.csr_array(split.train)
    by_demand = np.argsort(-asked, kind="stable")
    model = train(items, TrainConfig(latents, nonzeros=8, similarity="dot"))
    truth = exact_search(items, users[judged], K, "dot", exclude=seen[judged]).ids
    output.mkdir(parents=True, exist_ok=True)
    points = []
    for how in (8, 16, 24, 32, 40, "budget"):
        settings: dict = {"residual_bytes": how}
        if how == "budget":  # The other way to give more to what is asked for.
            settings = {"budget": "37 B/row", "importance": asked + 1.0, "residual_bytes": 16}
        codes = compress(model, items, queries=users[others], **settings)
        index = CompressedIndex(model.projection, codes, threads=1)
        for share in (0, 0.01, 0.05, 0.1, 0.2):
            ids = by_demand[: int(share * len(items))]
            rows = HotRows(items[ids], ids, "dot") if share else None
            hits = index.search(
                users[judged], K, candidates="all", exclude=seen[judged], rerank=rows
            )
            times = []
            for user in judged[:300]:
                started = time.perf_counter()
                index.search(users[[user]], K, exclude=seen[[user]], rerank=rows)
                times.append(1e3 * (time.perf_counter() - started))
            held = 0 if rows is None else rows.nbytes
            point = {
                "codes": how,
                "share": share,
                "of_results": float(asked[ids].sum() / asked.sum()),
                "bytes": (codes.nbytes + held) / len(items),
                "overlap@20": recall_at(hits.ids, truth, K),
                "p50_ms": float(np.median(times)),
            }
            points.append(point)
            click.echo(str(point))
            write_json(output / "hot.json", {"items": len(items), "points": points})
