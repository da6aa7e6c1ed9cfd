"""Command search: find the nearest items of queries."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy import sparse

from compressae.cli import common, inputs
from compressae.retrieval.codes import load_codes
from compressae.retrieval.devices import names_gpu
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.inverted import InvertedIndex
from compressae.retrieval.index.request import SCORINGS
from compressae.retrieval.io.atomic import check_file_destination
from compressae.retrieval.io.interactions import read_interactions
from compressae.retrieval.io.labels import read_labels
from compressae.retrieval.store import Catalogue
from compressae.retrieval.store.sharded import ShardedCatalogue, has_catalogues


@click.command(
    cls=common.Command,
    examples=(
        "search index queries.npy -k 10 --labels texts.txt",
        "search index queries.npy --rerank items.npy -o hits.npz",
        "search index queries.npy --rerank items.parquet --rerank-id-column sku",
        "search index users.npy -k 20 --exclude seen.npz",
        "search index queries.npy --where 'in_stock and price < 30'",
        "search lists documents.npz -k 100",
    ),
)
@click.argument("index", type=common.PATH)
@click.argument("queries", type=common.TABLE)
@click.option(
    "-k",
    "count",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="Results per query.",
)
@click.option(
    "--scoring",
    type=click.Choice(SCORINGS),
    default="asymmetric",
    show_default=True,
    help="How dense queries are scored against codes.",
)
@click.option(
    "--candidates",
    help="Items rescored per query, or 'all'.  [default: as tuned, or 3,000 or 10 times -k]",
)
@click.option(
    "--query-nonzeros",
    type=click.IntRange(min=1),
    help="Entries of a query that search the lists; more raise recall and time.  "
    "[default: as tuned, or 64]",
)
@click.option(
    "--allowed",
    type=common.PATH,
    help="The ids to search among: a .npy, also of one flag per id, or a .txt of a line each.",
)
@click.option(
    "--where",
    help="A condition of the metadata's columns in SQL: only rows for which it is true are found.",
)
@click.option(
    "--exclude",
    type=common.PATH,
    help="Pairs of a query and an id that it leaves out, such as what users have seen: a scipy "
    "sparse .npz, or an .npz or .parquet of integers 'user' and 'item'.",
)
@click.option(
    "--rerank",
    type=common.TABLE,
    help="The items' embeddings: the best items are reranked with these full-precision vectors.",
)
@inputs.rerank_id_column_option
@click.option(
    "--rerank-candidates",
    type=click.IntRange(min=1),
    help="Items reranked per query.  [default: 4 times -k]",
)
@click.option(
    "--labels",
    type=common.PATH,
    help="A UTF-8 text (or .gz) with a line for each row of the indexed table, printed with hits.",
)
@click.option("-o", "--output", type=common.PATH, help="A .npz file of ids and scores.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda or auto. A GPU compares up to 15 queries with all items; for more, sketches "
    "choose the items.",
)
@click.option(
    "--ray",
    "address",
    help="Search an index in shards by actors of a Ray cluster: auto, host:6379, "
    "ray://host:10001, or local.",
)
@common.column_option
@common.json_option
def search(
    index: Path,
    queries: Path,
    count: int,
    scoring: str,
    candidates: str | None,
    query_nonzeros: int | None,
    allowed: Path | None,
    where: str | None,
    exclude: Path | None,
    rerank: Path | None,
    rerank_id_column: str | None,
    rerank_candidates: int | None,
    labels: Path | None,
    output: Path | None,
    device: str,
    address: str | None,
    as_json: bool,
) -> None:
    """Find the nearest items of QUERIES.

    Dense queries are a table of the same width as the embeddings, or codes of the same model. An
    index without a model takes
    sparse queries: codes or a scipy .npz. Prints "query: id score, …" unless -o is given; with
    --labels one line per result.
    """
    if candidates not in (None, "all") and not candidates.isdecimal():
        raise click.UsageError(f"--candidates {candidates}: expected a number or 'all'")
    if output is not None:
        check_file_destination(output)
    searchable = None
    if allowed is not None:
        is_text = allowed.suffix == ".txt"
        searchable = (
            inputs.load_ids(allowed)
            if is_text
            else inputs.load_numbers(allowed, "ids or flags", "iubU")
        )
    left_out = None if exclude is None else read_interactions(exclude)
    texts = None if labels is None else read_labels(labels)
    catalogue: Any
    in_shards = has_catalogues(index)
    if address is not None and not in_shards:
        raise click.UsageError(f"--ray: {index} is no index in shards, of index --shards")
    if in_shards:
        if names_gpu(device) and device != "auto":
            raise click.UsageError(f"--device {device}: shards are searched on the cpu")
        device, catalogue = "cpu", ShardedCatalogue(index)
        first = catalogue.shards[0]
    else:
        first = catalogue = Catalogue.open(index)
    if address is not None:
        from compressae.cluster.ray import RayCatalogue

        catalogue = RayCatalogue(index, address)
    if address is not None and isinstance(rerank, Path):
        rerank = rerank.absolute()  # Actors run in folders of their own.
    full_rows = inputs.rerank_table(rerank, rerank_id_column, first)
    if isinstance(first.index, InvertedIndex):
        if device != "auto" and names_gpu(device):
            raise click.UsageError(
                f"--device {device} is for an index made with -m MODEL; lists alone are searched "
                "on the cpu"
            )
        for option in (candidates, query_nonzeros, rerank, rerank_candidates):
            if option is not None:
                raise click.UsageError(
                    "candidates, query nonzeros and reranking are for an index made with -m MODEL"
                )
        rows = inputs.sparse_rows(queries)
        left_out = None if left_out is None else _a_row_each(left_out, rows.shape[0], exclude)
        hits = catalogue.search(rows, count, allowed=searchable, where=where, exclude=left_out)
    else:
        on_gpu = names_gpu(device)
        searcher = None
        if on_gpu:
            from compressae.retrieval.index.gpu import GpuIndex

            searcher = GpuIndex(catalogue.index, device)
        table: Any = common.open_table(queries) if not _is_saved(queries) else load_codes(queries)
        hits = catalogue.search(
            table,
            count,
            scoring=scoring,
            candidates=candidates if candidates in (None, "all") else int(candidates),  # type: ignore[arg-type]
            query_nonzeros=query_nonzeros,
            allowed=searchable,
            where=where,
            rerank=full_rows,
            rerank_candidates=rerank_candidates,
            exclude=None if left_out is None else _a_row_each(left_out, len(table), exclude),
            **({} if searcher is None else {"on": searcher}),
        )
    if output is not None:
        hits.save(output)
        common.say({"hits": str(output), "queries": len(hits.ids), "results": count}, as_json)
        return
    _print(hits, texts, as_json)


def _is_saved(path: Path) -> bool:
    """Whether a path is a saved artifact."""
    return (path / "config.json").exists()


def _a_row_each(pairs: sparse.csr_array, queries: int, path: Path | None) -> sparse.csr_array:
    """Pairs (queries, ids) of pairs that may name fewer queries.

    Raises:
        InputError: they name more.
    """
    if pairs.shape[0] > queries:
        raise InputError(
            f"{path}: {pairs.shape[0]} users, but {queries} queries; expected a query each"
        )
    pairs.resize((queries, pairs.shape[1]))
    return pairs


def _print(hits: Hits, texts: Sequence[str] | None, as_json: bool) -> None:
    """Print hits on stdout: JSON lines, one line per query, or with labels one line per result."""
    if texts is not None and hits.ids.dtype.kind == "U":
        raise InputError("--labels: ids of this index are texts themselves; leave --labels out")
    if texts is not None and hits.ids.max(initial=-1) >= len(texts):
        raise InputError(
            f"{len(texts)} labels, but id {hits.ids.max()} was found; give one for each row of the "
            "table that was indexed"
        )
    for number, (padded, scores) in enumerate(zip(hits.ids, hits.scores, strict=True)):
        ids = padded[scores > -np.inf]
        top = scores[: len(ids)]
        if as_json:
            line = {"query": number, "ids": ids.tolist(), "scores": top.tolist()}
            if texts is not None:
                line["labels"] = [texts[i] for i in ids]
            click.echo(json.dumps(line))
        elif texts is None:
            pairs = zip(ids, top, strict=True)
            click.echo(f"{number}: " + ", ".join(f"{i} {s:.4f}" for i, s in pairs))
        else:
            for i, score in zip(ids, top, strict=True):
                click.echo(f"{number}: {i} {score:.4f} {texts[i]}")
