"""Items as they are served: compressed tables, searched by users without what they have seen."""

from pathlib import Path
from typing import Any

import click
import numpy as np
from benchmarks.gowalla.files import write, write_json
from recommenders.interactions import Split, read_split
from scipy import sparse
from scipy.sparse.linalg import svds

from compressae import CompresSAE, TrainConfig, train
from compressae.cli.progress import progress
from compressae.evaluation.interactions import Interactions
from compressae.evaluation.protocol import evaluate
from compressae.evaluation.report import header, markdown, rows
from compressae.evaluation.summary import summarise
from compressae.retrieval import exact_search
from compressae.retrieval.errors import InputError

#: Users who are judged, and other users whose results say which items are recommended most.
JUDGED, COUNTED = 2000, 8000
#: Ours and the rivals at about equal bytes: 30 and 58 of ours, 32 or 33 and 64 or 65 of theirs.
METHODS = (
    "dense",
    "asymmetric-all:nonzeros=4:residual_bytes=23",
    "asymmetric-all:budget=30:residual_bytes=16",
    "asymmetric:budget=30:residual_bytes=16:candidates=1000/3000",
    "asymmetric-all:nonzeros=4:residual_bytes=51",
    "asymmetric-all:budget=58:residual_bytes=40",
    "asymmetric:budget=58:residual_bytes=40:candidates=1000/3000",
    "pq:code_bytes=32/64",
    "opq:code_bytes=32/64",
    "opq:code_bytes=32:weighted=1",
    "ne-pq:code_bytes=33/65",
    "ne-pq:code_bytes=33:weighted=1",
    "rq:code_bytes=32",
    "rq:code_bytes=32:weighted=1",
)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("trained", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--latents", default=1024, help="h.")
@click.option("--dim", default=64, help="Dimensions of the SVD.")
@click.option("--seed", default=0, help="Seed of the dictionary.")
@click.option("--method", "methods", multiple=True, help="Default: those of served.py.")
def served(
    data: Path,
    trained: tuple[Path, ...],
    output: Path,
    latents: int,
    dim: int,
    seed: int,
    methods: tuple[str, ...],
) -> None:
    """Judge the item table of each recommender as an index that users search.

    TRAINED are outputs of `train` (their final.npy); without any, an SVD of the degree-normalised
    pairs is taken, its item rows multiplied by the square roots of the items' degrees.

    2,000 users are judged, whom no statistic has seen. By the others errors are weighted (ours, and
    rivals with weighted=1), and which items are in their top 50 gives the importance of items under
    a budget. OUTPUT gets served-NAME.json and .md for each recommender.
    """
    split = read_split(data)
    tables = {path.name: trained_tables(path, split) for path in trained}
    if not tables:
        tables["svd"] = svd_tables(split, dim)
    output.mkdir(parents=True, exist_ok=True)
    for name, (users, items) in tables.items():
        summary = _judge(name, split, users, items, latents, seed, methods or METHODS)
        write_json(output / f"served-{name}.json", summary)
        write(output / f"served-{name}.md", markdown(summary))
        click.echo(f"{name}: {' | '.join(header(summary))}")
        for cells in rows(summary):
            click.echo(" | ".join(cells))


def _judge(
    name: str,
    split: Split,
    users: np.ndarray,
    items: np.ndarray,
    latents: int,
    seed: int,
    methods: tuple[str, ...],
) -> dict[str, Any]:
    """Summary of every method on one recommender's tables."""
    judged, others, asked = demand(split, users, items)
    importance = 1 + asked
    config = TrainConfig(latents, nonzeros=8, similarity="dot", seed=seed)
    model: CompresSAE = train(items, config)
    with progress(f"measuring {name}") as show:
        result = evaluate(
            items,
            users[judged],
            list(methods),
            model,
            progress=show,
            about={"recommender": name, "seed": seed},
            interactions=Interactions.of(split.train, split.test, judged),
            query_sample=users[others],
            importance=importance,
        )
    return summarise(result)


def demand(
    split: Split, users: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users who are judged, the others, and how often each item is among the 50 best of 8,000 of
    these."""
    order = np.random.default_rng(0).permutation(np.flatnonzero(np.diff(split.test.indptr)))
    judged = order[: min(JUDGED, len(order) // 2)]
    others = np.setdiff1d(np.arange(len(users)), judged)
    some = others[:COUNTED]
    seen = sparse.csr_array(split.train)[some]
    counted = exact_search(items, users[some], 50, "dot", exclude=seen).ids
    return judged, others, np.bincount(counted[counted >= 0], minlength=len(items))


def trained_tables(folder: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Users and items by which a trained recommender scores pairs."""
    path = folder / "final.npy"
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected the output of 'train' ({error})") from error
    if len(table) != split.n_users + split.n_items:
        raise InputError(
            f"{path}: {table.shape}; expected {split.n_users} users, then {split.n_items} items"
        )
    return table[: split.n_users], table[split.n_users :]


def svd_tables(split: Split, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of a truncated SVD of the degree-normalised pairs."""
    pairs = split.train.astype(np.float32)
    of_users, of_items = (np.maximum(pairs.sum(axis), 1) for axis in (1, 0))
    scaled = sparse.diags_array(of_users**-0.5) @ pairs @ sparse.diags_array(of_items**-0.5)
    axes = svds(scaled, k=dim, rng=np.random.default_rng(0))[2].T
    items = axes * np.sqrt(of_items)[:, None]
    users = pairs @ (axes / np.sqrt(of_items)[:, None])
    return users.astype(np.float32), items.astype(np.float32)
