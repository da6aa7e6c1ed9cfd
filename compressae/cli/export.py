"""Command export: write the rows of an index for another engine."""

import warnings
from pathlib import Path
from typing import Any, get_args

import click

from compressae.cli import common
from compressae.cli.progress import progress
from compressae.retrieval.export.rows import ResidualWarning, residual_warning
from compressae.retrieval.export.signs import Signs
from compressae.retrieval.store import Catalogue

#: The options that say where each target goes.
_PLACES = {
    "parquet": ("output",),
    "arrow": ("output",),
    "scipy": ("output",),
    "postgres": ("dsn", "table"),
    "qdrant": ("url", "collection"),
    "milvus": ("uri", "collection"),
    "elastic": ("output",),
}
#: Other options, and the targets that have them.
_EXTRAS = {
    "columns": ("parquet", "arrow", "postgres", "qdrant", "milvus", "elastic"),
    "packed": ("parquet", "arrow"),
    "signs": ("parquet", "arrow", "scipy"),
    "postings": ("parquet",),
    "shard_rows": ("parquet",),
    "api_key": ("qdrant",),
    "token": ("milvus",),
}


@click.command(
    cls=common.Command,
    examples=(
        "export index --to parquet -o items.parquet",
        "export index --to parquet --postings -o postings.parquet",
        "export index --to scipy -o items.npz",
        "export index --to postgres --dsn 'host=db dbname=shop' --table items",
        "export index --to qdrant --url http://localhost:6333 --collection items",
        "export index --to milvus --uri http://localhost:19530 --collection items",
        "export index --to elastic -o items.ndjson",
    ),
)
@click.argument("index", type=common.PATH)
@click.option("--to", "target", required=True, type=click.Choice(list(_PLACES)), help="The format.")
@click.option("-o", "--output", type=common.PATH, help="The file to write.")
@click.option("--dsn", help="Of --to postgres: the server, as libpq takes it; '' for PGHOST, ….")
@click.option("--table", help="Of --to postgres: name, or schema.name, of the table.")
@click.option("--url", help="Of --to qdrant: the server.")
@click.option("--uri", help="Of --to milvus: the server, or a path ending in .db for Milvus Lite.")
@click.option("--collection", help="Of --to qdrant or milvus: alias of the collection.")
@click.option(
    "--api-key",
    envvar="QDRANT_API_KEY",
    help="Of --to qdrant: the server's key.  [default: that of the environment's QDRANT_API_KEY]",
)
@click.option(
    "--token",
    envvar="MILVUS_TOKEN",
    help="Of --to milvus: the server's token.  [default: that of the environment's MILVUS_TOKEN]",
)
@click.option(
    "--columns",
    help="Names of the metadata columns that go along, with commas; '' for none.  [default: all]",
)
@click.option(
    "--postings",
    is_flag=True,
    help="Of --to parquet: a row a nonzero, by ascending latent, for search in SQL.",
)
@click.option(
    "--packed",
    is_flag=True,
    help="Of --to parquet or arrow: a column of the rows' packed bytes, residual codes included.",
)
@click.option(
    "--signs",
    type=click.Choice(get_args(Signs)),
    help="Of --to parquet, arrow or scipy: 'halves' for a store that refuses negative values. A "
    "row s becomes [max(s, 0), max(-s, 0)], and what the store finds must be reranked. Milvus and "
    "elastic have halves always.  [default: both]",
)
@click.option(
    "--shard-rows",
    type=click.IntRange(min=1),
    help="Of --to parquet: write a folder of files of so many rows.",
)
@click.option("--version", type=click.IntRange(min=1), help="Of the index.  [default: the newest]")
@click.option("--overwrite", is_flag=True, help="Replace an older export.")
@common.json_option
def export(
    index: Path,
    target: str,
    version: int | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the rows of INDEX for another engine: ids, latents, values and metadata.

    Values are those that a search scores with: the dot product of a row with W·x is the score of
    the query x. Removed rows are left out, and so are residual codes.
    """
    _check_options(target, options)
    places = [options[name] for name in _PLACES[target]]
    columns = options["columns"]
    if columns is not None:
        columns = [name for name in columns.split(",") if name]
    catalogue = Catalogue.open(index, version)
    lost = residual_warning(catalogue)
    if lost is not None:
        click.echo(f"warning: {lost}", err=True)
    with progress("exporting") as show, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResidualWarning)  # Said above.
        settings: dict[str, Any] = {"overwrite": overwrite, "progress": show}
        written = _write(catalogue, target, places, columns, options, settings)
    what = "postings" if options["postings"] else "rows"
    said = {"index": str(index), "version": catalogue.version, what: written}
    place = options["table"] or options["collection"] or str(options["output"])
    common.say({"export": place, **said}, as_json)


def _check_options(target: str, options: dict[str, Any]) -> None:
    """Refuse options of other targets, and missing ones of this one."""
    for name in _PLACES[target]:
        if options[name] is None:
            raise click.UsageError(f"--to {target}: where to? Give --{name}")
    own = {*_PLACES[target], *(name for name, targets in _EXTRAS.items() if target in targets)}
    if options["postings"]:
        own -= {"columns", "packed", "shard_rows", "signs"}
    for name, value in options.items():
        # Keys from the environment may be for other commands.
        if name not in own and value not in (None, False) and name not in ("api_key", "token"):
            form = f"--to {target}" + (" --postings" if options["postings"] else "")
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with {form}")


def _write(
    catalogue: Catalogue,
    target: str,
    places: list[Any],
    columns: list[str] | None,
    options: dict[str, Any],
    settings: dict[str, Any],
) -> int:
    """Write to the target: the number of rows, or of postings."""
    from compressae.retrieval import export

    if options["postings"]:
        return export.to_postings(catalogue, *places, **settings)
    if options["signs"] is not None:
        settings["signs"] = options["signs"]
    if target == "scipy":
        return export.to_scipy(catalogue, *places, **settings)
    settings["columns"] = columns
    if target == "postgres":
        return export.to_postgres(catalogue, *places, **settings)
    if target == "qdrant":
        return export.to_qdrant(catalogue, *places, api_key=options["api_key"], **settings)
    if target == "milvus":
        return export.to_milvus(catalogue, *places, token=options["token"], **settings)
    if target == "elastic":
        return export.to_elastic(catalogue, *places, **settings)
    settings["packed"] = options["packed"]
    if target == "arrow":
        return export.to_arrow(catalogue, *places, **settings)
    return export.to_parquet(catalogue, *places, shard_rows=options["shard_rows"], **settings)
