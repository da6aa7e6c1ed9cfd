"""Command encode: compress a table to codes."""

from pathlib import Path
from typing import Any

import click

from compressae.cli import coding, common, inputs
from compressae.cli.progress import progress
from compressae.retrieval.codes import KIND, PackedCodes
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.atomic import check_new_file
from compressae.retrieval.io.remote import RemotePath

#: Options of codes that shards have too; a quantiser says the others.
_OF_SHARDS = ("like", "beam")


@click.command(
    cls=common.Command,
    examples=(
        "encode items.npy -m model -o codes --residual-bytes 32",
        "encode items.npy -m model -o codes --budget '48 B/row' --importance popularity.npy",
        "encode items.npy -m model -o codes --values int8",
        "encode items.parquet -m model --like quantizer -o codes.parquet --id-column sku",
        "encode items/ -m model --like quantizer -o coded --shards --id-column sku",
        "encode items/ -m model --like quantizer -o coded --shards --ray auto",
    ),
)
@common.EMBEDDINGS
@common.model_option(True, "Folder of a trained model.")
@common.output_option("Folder of the codes.")
@coding.code_options
@click.option(
    "--id-column",
    help="Column of .parquet files that holds ids, whole numbers or texts: they go to the index.",
)
@click.option(
    "--shards",
    is_flag=True,
    help="Write codes of each file, or of its row groups, apart, and a manifest last. The same "
    "command goes on where it was stopped.",
)
@click.option(
    "--shard-rows",
    type=click.IntRange(min=1),
    help="Rows of a shard, at most.  [default: 1,000,000]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that make shards.  [default: one a processor]",
)
@click.option(
    "--ray",
    "address",
    envvar="RAY_ADDRESS",
    help="Make shards on a Ray cluster: auto, host:6379, ray://host:10001, or local.",
)
@common.device_option
@common.threads_option
@common.column_option
@common.json_option
def encode(
    embeddings: Path,
    model: Path,
    output: Path,
    overwrite: bool,
    id_column: str | None,
    shards: bool,
    shard_rows: int | None,
    workers: int | None,
    address: str | None,
    device: str,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compress every row of EMBEDDINGS to a sparse code.

    An output that ends in .parquet is a table of ids and packed bytes, for codes of a quantiser.
    """
    if shards:
        how = (id_column, shard_rows, workers, address, device, threads)
        common.say(_encode_shards(embeddings, model, output, overwrite, options, *how), as_json)
        return
    if shard_rows or workers or (address and _is_given("address")):
        raise click.UsageError("--shard-rows, --workers and --ray make shards: give --shards")
    as_table = output.suffix == ".parquet"
    if as_table:
        _check_table(output, overwrite, options["like"])
    else:
        common.check_output(output, KIND, overwrite)
    items = common.open_table(embeddings)
    ids = None if id_column is None else inputs.load_ids(embeddings, id_column)
    from compressae.model import CompresSAE
    from compressae.retrieval.store.names import check_row_ids
    from compressae.retrieval.store.packed_table import write_packed_table
    from compressae.retrieval.store.shards import save_shard

    check_row_ids(ids, len(items))  # Before rows are encoded, which takes longest.
    encoder = CompresSAE.load(model)
    with progress("encoding") as show:
        codes = coding.encode_rows(encoder, items, options, device, show, threads)
    if as_table:
        assert isinstance(codes, PackedCodes)
        write_packed_table(output, codes, ids)
    else:
        save_shard(output, codes, ids)
    common.say(
        {
            "codes": str(output),
            "rows": len(codes),
            "bytes": codes.nbytes,
            "bytes_an_item": codes.nbytes / len(codes),
        },
        as_json,
    )


def _check_table(output: Path, overwrite: bool, like: Path | None) -> None:
    """Refuse a .parquet of codes that could not be written or read back.

    Raises:
        InputError: see above.
    """
    check_new_file(output, overwrite)
    if like is None:
        raise InputError(
            f"{output}: codes in a .parquet are read back with their quantiser: give --like; "
            "fit-quantizer fits one"
        )


def _encode_shards(
    embeddings: Path,
    model: Path,
    output: Path,
    overwrite: bool,
    options: dict[str, Any],
    id_column: str | None,
    shard_rows: int | None,
    workers: int | None,
    address: str | None,
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    """Encode in shards; return what to print."""
    own = [name for name, value in options.items() if value and name not in _OF_SHARDS]
    if own:
        raise click.UsageError(
            "shards are coded as their quantiser says: of the options of codes give --like and "
            "--beam alone"
        )
    if options["like"] is None:
        raise click.UsageError("shards share a quantiser: give --like; fit-quantizer fits one")
    if workers and address:
        if _is_given("address"):
            raise click.UsageError("--workers and --ray: give one of them")
        address = None  # Of the environment.
    from compressae.cluster.encode import InProcess, Job, Runner, encode_shards
    from compressae.cluster.pool import Pool
    from compressae.cluster.units import UNIT_ROWS
    from compressae.kernels.threads import available_threads

    runner: Runner
    if address:
        from compressae.cluster.ray import RayRunner

        runner = RayRunner(address)
    else:
        workers = workers or max(1, available_threads() // (threads or 1))
        runner = InProcess() if workers == 1 else Pool(workers)
    job = Job(
        model=_absolute(model),
        quantizer=_absolute(options["like"]),
        output=str(output.absolute()),
        column=common.chosen_column(),
        id_column=id_column,
        beam=options["beam"] or 1,
        device=device,
        threads=threads or 1,
    )
    rows = shard_rows or UNIT_ROWS
    with progress("encoding") as show:
        manifest = encode_shards(job, _absolute(embeddings), runner, rows, overwrite, show)
    return {"shards": len(manifest.shards), "codes": str(output), "rows": manifest.rows}


def _is_given(name: str) -> bool:
    """Whether an option stands on the command line, and not in the environment alone."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _absolute(path: Path | RemotePath) -> str:
    """A path as workers in other folders find it."""
    return str(path if isinstance(path, RemotePath) else path.absolute())
