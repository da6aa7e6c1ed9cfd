"""Both sides compressed: users as codes too, beside norm-explicit PQ of the whole table."""

import json
from pathlib import Path

import click
import numpy as np
from benchmarks.gowalla.files import write_json
from benchmarks.gowalla.served import svd_tables, trained_tables
from recommenders.interactions import Split, read_split
from scipy import sparse

from compressae import TrainConfig, compress, train
from compressae.retrieval import CompressedIndex, exact_search, recall_at
from compressae.retrieval.io.embeddings import as_embeddings

K, JUDGED = 20, 2000
FORM = {"nonzeros": 4, "residual_bytes": 23}
NE_BYTES = 33


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("trained", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--latents", default=1024, help="h.")
@click.option("--dim", default=64, help="Dimensions of the SVD.")
def sides(data: Path, trained: tuple[Path, ...], output: Path, latents: int, dim: int) -> None:
    """Search compressed items by users that are compressed too.

    TRAINED as in `served`. Ours: one dictionary, trained on the items, 30 bytes a row of either
    side. Norm-explicit PQ: one set of codebooks for users and items together, 33 bytes a row. 2,000
    users are judged, without what they have seen. OUTPUT gets sides.json.
    """
    split = read_split(data)
    tables = {path.name: trained_tables(path, split) for path in trained}
    if not tables:
        tables["svd"] = svd_tables(split, dim)
    output.mkdir(parents=True, exist_ok=True)
    record = {}
    for name, (users, items) in tables.items():
        record[name] = _judge(split, users, items, latents)
        write_json(output / "sides.json", record)
        click.echo(json.dumps({name: record[name]}))


def _judge(split: Split, users: np.ndarray, items: np.ndarray, latents: int) -> dict:
    """Overlap with the dense top 20, and Recall@20 of held-out pairs, of every pair of sides."""
    from compressae.retrieval.baselines.norm_explicit import NormExplicitPQ  # Needs faiss.

    order = np.random.default_rng(0).permutation(np.flatnonzero(np.diff(split.test.indptr)))
    judged = order[:JUDGED]
    seen, test = sparse.csr_array(split.train)[judged], sparse.csr_array(split.test)[judged]
    asked = users[judged]
    model = train(items, TrainConfig(latents, nonzeros=8, similarity="dot"))
    index = CompressedIndex(model.projection, compress(model, items, **FORM), lists=False)
    codes = compress(model, users, **FORM)
    table = as_embeddings(np.concatenate([users, items])).compared_by("dot")
    whole = NormExplicitPQ(table, NE_BYTES, train_rows=100_000)
    n = len(users)
    pq_users = np.concatenate([whole.decode(user, user + 1) for user in judged])
    pq_items = whole.decode(n, n + len(items))

    def exact(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return exact_search(rows, queries, K, "dot", exclude=seen).ids

    found = {
        "dense": exact(asked, items),
        "ours, users dense": index.search(asked, K, exclude=seen).ids,
        "ours, both sides": index.search(codes.take(judged), K, exclude=seen).ids,
        "norm-explicit PQ, users dense": exact(asked, pq_items),
        "norm-explicit PQ of the whole table": exact(pq_users, pq_items),
    }
    return {
        name: {
            "overlap@20": recall_at(ids, found["dense"], K),
            "Recall@20": float(np.mean([_recall(*pair) for pair in zip(ids, test, strict=True)])),
        }
        for name, ids in found.items()
    }


def _recall(ids: np.ndarray, held_out: sparse.csr_array) -> float:
    """Share of a user's held-out items among the results."""
    wanted = held_out.indices
    return float(np.isin(wanted, ids).mean())
