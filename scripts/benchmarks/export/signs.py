"""What a store finds in exported rows whose signs are kept, or are halves."""

import tempfile
from pathlib import Path
from typing import get_args

import click
import numpy as np
from benchmarks.catalogue.rows import about, write_record
from benchmarks.export.setting import corpus_and_queries
from scipy import sparse

from compressae import TrainConfig, compress, train
from compressae.retrieval import Catalogue, exact_search
from compressae.retrieval.export import sparse_query, to_scipy
from compressae.retrieval.export.signs import Signs

CANDIDATES = (100, 1000, 3000)


@click.command()
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rows", default=50_000, show_default=True, help="Of the corpus.")
@click.option("--queries", default=300, show_default=True)
@click.option("--latents", default=1024, show_default=True)
@click.option("--nonzeros", default=16, show_default=True)
@click.option("--entries", default=64, show_default=True, help="Of W·x that are kept.")
@click.option("-k", "K", default=100, show_default=True)
def signs(
    embeddings: Path,
    output: Path,
    rows: int,
    queries: int,
    latents: int,
    nonzeros: int,
    entries: int,
    K: int,
) -> None:
    """Rank exported rows of both kinds of signs, as an exact store does.

    Trains on the first rows of EMBEDDINGS, exports their codes to scipy with both kinds of signs,
    and ranks them by the product with the queries: other rows of the table, with all entries of
    W·x and with the largest ones. The figure is the share of the exact top K among the first C
    rows, which is the recall of a reranking with full-precision vectors. Rows that share no latent
    with a query are not found. OUTPUT gets export.json; prints Markdown.
    """
    corpus, x = corpus_and_queries(embeddings, rows, queries)
    output.mkdir(parents=True, exist_ok=True)
    # The command as it was called, without the places on this machine.
    settings = {"rows": rows, "queries": queries, "latents": latents, "nonzeros": nonzeros, "K": K}
    command = f"python scripts/benchmarks/export signs {embeddings.name} OUTPUT"
    record = about(command, ("numpy", "scipy")) | settings | {"points": []}
    model = train(corpus, TrainConfig(latents=latents, nonzeros=nonzeros))
    truth = exact_search(corpus, x, K, "cosine").ids
    head = ["signs", "entries of W·x", *(f"first {count:,}" for count in CANDIDATES)]
    for cells in (head, ["---"] * len(head)):
        click.echo(f"| {' | '.join(cells)} |")
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Catalogue.create(f"{folder}/index", model.projection, compress(model, corpus))
        for kind in get_args(Signs):
            path = f"{folder}/{kind}.npz"
            to_scipy(catalogue, path, signs=kind)
            matrix = sparse.load_npz(path)
            for count in (None, entries):
                query = sparse_query(model.projection, x, count, signs=kind)
                shares = found_shares(query, matrix, truth)
                record["points"].append({"signs": kind, "entries": count, "shares": shares})
                cells = [kind, str(count or "all"), *(f"{share:.3f}" for share in shares)]
                click.echo(f"| {' | '.join(cells)} |")
    write_record(output / "export.json", record)


def found_shares(
    query: sparse.csr_array, matrix: sparse.csr_array, truth: np.ndarray
) -> list[float]:
    """Share of ``truth`` (q, K) among the first C rows of each query, for each C.

    Args:
        query: (q, w) rows of ``sparse_query``.
        matrix: (n, w) exported rows; ids are row numbers.
        truth: (q, K) ids.
    """
    shares = np.zeros((len(truth), len(CANDIDATES)))
    for i, own in enumerate(truth):
        scores = (query[[i]] @ matrix.T).toarray()[0]
        order = np.argsort(-np.where(scores == 0, -np.inf, scores), kind="stable")
        order = order[: np.count_nonzero(scores)]
        shares[i] = [np.isin(own, order[:count]).mean() for count in CANDIDATES]
    return [float(share) for share in shares.mean(axis=0)]
