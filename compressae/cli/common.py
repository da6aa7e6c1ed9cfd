"""Shared by the commands: one-line errors, common options, printed results."""

import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import click
import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import check_destination
from compressae.retrieval.io.embeddings import (
    SIMILARITIES,
    Embeddings,
    open_embeddings,
    table_files,
)
from compressae.retrieval.io.labels import read_labels
from compressae.retrieval.io.parquet import id_values, read_columns
from compressae.retrieval.io.plain import check_plain
from compressae.retrieval.io.remote import RemotePath, as_path, is_url, local_path

if TYPE_CHECKING:
    from compressae.model import CompresSAE
    from compressae.retrieval.codes import Codes
    from compressae.retrieval.store import CatalogueReader, RerankTable


class PathType(click.Path):
    """A local path, as ``Path``; or for what may be read from afar a URL too, as ``RemotePath``.

    Args:
        remote: whether a URL is allowed.
    """

    def __init__(self, remote: bool = False) -> None:
        super().__init__(path_type=Path)
        self.remote = remote

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not is_url(value):
            return super().convert(value, param, ctx)
        if not self.remote:
            self.fail(
                f"{value}: expected a local path; tables, codes and models alone are read from "
                "URLs, and nothing is written to one",
                param,
                ctx,
            )
        return as_path(value)


#: A local path; and the path or URL of a table, codes or a model.
PATH, TABLE = PathType(), PathType(remote=True)
EMBEDDINGS = click.argument("embeddings", type=TABLE)
#: Name under which a command keeps its --column.
_COLUMN = "compressae.column"


class Command(click.Command):
    """A command whose library errors become one line on stderr and exit code 1.

    Args:
        examples: command lines for the end of the help.
    """

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}compressae {example}\n")

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.ClickException(_one_line(error)) from error
        except BrokenPipeError:
            raise  # The reader closed the pipe ("| head"): click exits without a message.
        except OSError as error:
            _give_up_stdout_if_full()
            names_file = error.strerror and error.filename is not None
            reason = f"{error.filename}: {error.strerror}" if names_file else error.strerror
            raise click.ClickException(_one_line(reason or error)) from error
        except MemoryError as error:
            raise click.ClickException(
                f"out of memory ({_one_line(error)}); use fewer rows or a larger machine"
            ) from error
        except RuntimeError as error:  # torch has no MemoryError.
            if "out of memory" not in str(error) and "allocate memory" not in str(error):
                raise
            raise click.ClickException(
                f"out of memory ({_one_line(error)}); use fewer latents, a smaller batch or a "
                "larger machine"
            ) from error


def _give_up_stdout_if_full() -> None:
    """Send to nowhere what stdout cannot take: the interpreter would try again at its end, complain
    and change the exit status."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--json: print the result as JSON."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        function
    )


def column_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--column, of the tables that ``open_table`` opens."""
    return click.option(
        "--column",
        expose_value=False,
        callback=lambda context, _, column: context.meta.update({_COLUMN: column}),
        help="Column of vectors of .parquet tables.  [default: the only one of lists of floats, or "
        "the one named embedding, embeddings or vector]",
    )(function)


def rerank_id_column_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--rerank-id-column, read by ``rerank_table``."""
    return click.option(
        "--rerank-id-column",
        help="Column of the ids in the table of --rerank, a .parquet.  "
        "[default: row numbers are ids]",
    )(function)


def rerank_table(
    path: Path | None, id_column: str | None, catalogue: "CatalogueReader"
) -> "Embeddings | RerankTable | None":
    """Open the embeddings of --rerank, by the ids of --rerank-id-column where it is given.

    Raises:
        InputError: rows of the catalogue are named by texts, and there is no such column.
    """
    if path is None:
        if id_column is not None:
            raise click.UsageError("--rerank-id-column is of --rerank, which is missing")
        return None
    if id_column is None:
        if catalogue.has_text_ids:
            raise InputError(
                f"--rerank {path}: rows of the index are named by texts; give the column of the "
                "table's ids, --rerank-id-column"
            )
        return open_table(path)

    from compressae.retrieval.store import RerankTable

    return RerankTable(open_table(path), load_ids(path, id_column))


def open_table(path: Path | RemotePath) -> Embeddings:
    """Open a table of embeddings; of a .parquet the column that --column says."""
    return open_embeddings(path, chosen_column())


def chosen_column() -> str | None:
    """The column that --column says."""
    column: str | None = click.get_current_context().meta.get(_COLUMN)
    return column


def output_option(what: str) -> Callable[..., Any]:
    """-o, the path of the result, and --overwrite."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        output = click.option("-o", "--output", required=True, type=PATH, help=what)
        overwrite = click.option(
            "--overwrite", is_flag=True, help="Replace an older result at the output."
        )
        return output(overwrite(function))

    return add


def check_output(output: Path, kind: str, overwrite: bool) -> None:
    """Refuse an output that cannot be written, or an older result without --overwrite.

    Raises:
        InputError: see above; nothing was changed.
    """
    check_destination(output, kind)
    if not overwrite and output.is_dir() and any(output.iterdir()):
        raise InputError(
            f"{output}: an older {kind} is there; give --overwrite to replace it, or another name"
        )


def model_option(required: bool, what: str) -> Callable[..., Any]:
    """-m, a trained model."""
    return click.option("-m", "--model", required=required, type=TABLE, help=what)


#: Options of the codes, read by ``encode_rows``.
_CODE_OPTIONS = (
    click.option(
        "--values",
        "value_type",
        type=click.Choice(["float32", "float16", "int8", "int4", "int3", "int2"]),
        help="Type of the stored values; int4, int3 and int2 pack ids into bits too.  "
        "[default: int2]",
    ),
    click.option(
        "--nonzeros",
        "code_nonzeros",
        type=click.IntRange(min=1),
        help="Nonzeros a row.  [default: the model's]",
    ),
    click.option(
        "--residual-bytes",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Bytes of a row's residual code (packed values).",
    ),
    click.option(
        "--bytes",
        "code_bytes",
        type=click.IntRange(min=1),
        help="Bytes of a row's code: nonzeros and residual bytes are chosen by the recall that "
        "they have on 8,192 rows.",
    ),
    click.option(
        "--budget",
        help="Bytes of all codes, such as '4 GB' or '48 B/row': rows then differ in nonzeros.",
    ),
    click.option(
        "--similarity",
        type=click.Choice(SIMILARITIES),
        help="How queries are compared with rows; with dot, the dot product, rows keep their "
        "lengths.  [default: the model's]",
    ),
    click.option(
        "--queries",
        type=TABLE,
        help="A table of queries like those to come, by which errors are weighted: users, "
        "say.  [default: the rows themselves]",
    ),
    click.option(
        "--beam",
        type=click.IntRange(min=1),
        help="Supports of a row that the choice of its latents keeps (packed values, CPU).  "
        "[default: 1]",
    ),
)
#: Those that only rows have, and not the quantiser that they share.
_ROW_OPTIONS = (
    click.option(
        "--importance",
        type=PATH,
        help="A .npy of one number a row: its weight in the budget.  [default: equal]",
    ),
    click.option(
        "--like",
        type=TABLE,
        help="A quantiser of fit-quantizer, or packed codes whose quantiser to use.",
    ),
    click.option(
        "--no-refit",
        is_flag=True,
        help="Use the encoder's values, as the paper does (float32, float16 or int8).",
    ),
)


def code_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the codes, read by ``encode_rows``."""
    for option in reversed(_CODE_OPTIONS + _ROW_OPTIONS):
        function = option(function)
    return function


def quantizer_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the codes that all rows share: those of a quantiser."""
    for option in reversed(_CODE_OPTIONS):
        function = option(function)
    return function


def threads_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--threads: processors to use."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Processors to use; of shards, for each.  [default: all that the process may use; of "
        "shards 1]",
    )(function)


class QueriesType(click.ParamType):
    """A number of rows to hold out as queries, or a table of queries."""

    name = "rows|table"

    def convert(self, value: Any, parameter: Any, context: Any) -> int | Path | RemotePath:
        text = str(value)
        if not text.removeprefix("-").isdecimal():
            return as_path(text)
        if int(text) < 1:
            self.fail(f"{text}: expected at least 1 row, or a table", parameter, context)
        return int(text)


def device_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--device: the device that encodes."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Device that encodes: cpu, cuda or auto, a GPU if there is one.",
    )(function)


def encode_rows(
    model: "CompresSAE",
    items: Any,
    options: dict[str, Any],
    device: str,
    show: Any,
    threads: int | None = None,
) -> "Codes":
    """Encode a table with the code options.

    Raises:
        InputError: options exclude each other; or a file among them is missing or no array.
    """
    from compressae.coding.compress import compress, encode
    from compressae.coding.plan import choose_form
    from compressae.kernels.threads import limited
    from compressae.retrieval.codes import load_like
    from compressae.retrieval.codes.size import PACKED_TYPES

    value_type, nonzeros = options["value_type"], options["code_nonzeros"]
    residual_bytes = options["residual_bytes"]
    queries = None if options["queries"] is None else open_table(options["queries"])
    if options["code_bytes"] is not None:
        check_bytes_alone(options)
        with limited(threads):
            form = choose_form(
                model, items, options["code_bytes"], queries, options["similarity"], show
            )
        value_type, nonzeros = form["value_type"], form["nonzeros"]
        residual_bytes = form["residual_bytes"]
    packed_only = {
        "--residual-bytes": options["residual_bytes"],
        "--budget": options["budget"],
        "--importance": options["importance"],
        "--like": options["like"],
        "--queries": options["queries"],
        "--beam": options["beam"],
    }
    if value_type not in (None, *PACKED_TYPES):
        for name, value in packed_only.items():
            if value:
                raise InputError(
                    f"{name} with values {value_type!r}: it is for packed values; expected int4, "
                    "int3 or int2"
                )
        refit = False if options["no_refit"] else None
        return encode(
            model, items, value_type, nonzeros, refit, show, device, options["similarity"], threads
        )
    if options["no_refit"]:
        raise InputError(
            f"values {value_type!r} without refit: packed values are always fitted; expected "
            "float32, float16 or int8"
        )
    importance, like = options["importance"], options["like"]
    if importance is not None:
        importance = load_numbers(importance, "one number a row", "fiub")
    return compress(
        model,
        items,
        value_type,
        nonzeros,
        residual_bytes,
        options["budget"],
        importance,
        None if like is None else load_like(like),
        show,
        device,
        options["similarity"],
        queries,
        options["beam"] or 1,
        threads,
    )


def check_bytes_alone(options: dict[str, Any]) -> None:
    """Refuse options that --bytes chooses.

    Raises:
        InputError: see above.
    """
    taken = ("value_type", "code_nonzeros", "residual_bytes", "budget", "like", "no_refit")
    if any(options.get(name) for name in taken):
        raise InputError(
            "--bytes chooses values, nonzeros and residual bytes: leave out --values, --nonzeros, "
            "--residual-bytes, --budget, --like and --no-refit"
        )


def load_numbers(path: Path, what: str, kinds: str) -> np.ndarray:
    """Load a .npy file whose dtype is of certain kinds.

    Args:
        path: the file.
        what: its expected content, for the error message.
        kinds: allowed kinds of ``numpy.dtype.kind``.

    Raises:
        InputError: there is no such file, or its dtype is of another kind.
    """
    path = local_path(path, f"a .npy of {what} is read whole")
    check_plain(path, f"expected a .npy of {what}")
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: expected a .npy of {what} ({error})") from error
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in kinds:
        raise InputError(f"{path}: expected a .npy of {what}")
    return loaded


def load_ids(path: Path, column: str | None = None) -> np.ndarray:
    """Load ids (m,): whole numbers or texts from a .npy file or a column of a .parquet, texts from
    the lines of a .txt."""
    if column is not None:
        return id_values(columns_of(path, [column])[column], f"{path}: column {column!r}")
    if path.suffix == ".parquet":
        raise InputError(f"{path}: which column holds the ids? Give --id-column")
    if path.suffix == ".txt":
        return np.array(read_labels(path), dtype=str)
    what = "ids, whole numbers or texts (m,)"
    ids = load_numbers(path, what, "iuU")
    if ids.ndim != 1:
        raise InputError(f"{path}: shape {ids.shape}; expected a .npy of {what}")
    return ids


def columns_of(path: Path, columns: Sequence[str]) -> Any:
    """Read columns of a .parquet file, or of a folder of them, as an Arrow table; of codes in
    shards those of the files that they were made of.

    Raises:
        InputError: it is something else, or has no such column.
    """
    from compressae.retrieval.store.shards import is_sharded, source_files

    files = source_files(path) if is_sharded(path) else table_files(path)
    odd = [file for file in files if file.suffix != ".parquet"]
    if odd:
        raise InputError(f"{odd[0]}: no .parquet file, which has columns; expected one")
    return read_columns(files, columns)


def metadata_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--metadata, --metadata-columns and --id-column, read by ``ids_and_metadata``."""
    options = (
        click.option(
            "--metadata",
            type=TABLE,
            help="A .parquet of a row for each item: its columns, by which 'search --where' "
            "filters.",
        ),
        click.option(
            "--metadata-columns",
            help="Columns of the table of embeddings, a .parquet, that are metadata, "
            "comma-separated: in place of --metadata.",
        ),
        click.option(
            "--id-column",
            help="Column that holds the ids, whole numbers or texts: of --ids, or else of "
            "--metadata or the table of embeddings.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def ids_and_metadata(
    ids: Path | None,
    metadata: Path | None,
    metadata_columns: str | None,
    id_column: str | None,
    table: Path | None,
) -> tuple[np.ndarray | None, Any]:
    """Ids (m,) and the table of metadata, as the options give them; None without.

    Args:
        ids, metadata, metadata_columns, id_column: values of the options.
        table: of embeddings; None where there is none.
    """
    from compressae.retrieval.store.metadata import as_table

    if metadata is not None and metadata_columns is not None:
        raise click.UsageError("--metadata and --metadata-columns: give one of them")
    if table is None and metadata_columns is not None:
        raise click.UsageError("--metadata-columns are of a table of embeddings, which is missing")
    source = metadata or table if ids is None and id_column is not None else ids
    if source is None and id_column is not None:
        raise click.UsageError("--id-column is of --ids, --metadata or a table, which are missing")
    names = None if source is None else load_ids(source, id_column)
    if metadata_columns is not None:
        assert table is not None
        columns = [column.strip() for column in metadata_columns.split(",")]
        return names, as_table(columns_of(table, columns), None)
    return names, None if metadata is None else as_table(metadata, None)


def sparse_rows(path: Path) -> Any:
    """Load sparse rows: saved codes, or a scipy .npz.

    Raises:
        InputError: the file is neither.
    """
    from scipy import sparse

    from compressae.retrieval.codes import SparseCodes, load_codes

    if path.is_dir():
        return load_codes(path)
    path = local_path(path, "a scipy .npz is read whole")
    check_plain(path, "expected codes or a scipy sparse .npz")
    try:
        return SparseCodes.from_scipy(sparse.load_npz(path))
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, OSError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: no sparse rows ({error}); expected codes or a scipy sparse .npz; an index "
            "made with -m MODEL takes dense ones"
        ) from error


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a training run, read by ``make_config``."""
    options = (
        click.option("--latents", default=4096, show_default=True, help="h, the latents."),
        click.option(
            "--nonzeros",
            type=int,
            help="k, the nonzeros of a code.  [default: 8 of recipe pursuit, else 32]",
        ),
        click.option("--steps", type=int, help="Training steps.  [default: the recipe's]"),
        click.option("--batch", type=int, help="Rows a step.  [default: the recipe's]"),
        click.option(
            "--learning-rate", type=float, help="Adam's learning rate.  [default: the recipe's]"
        ),
        click.option(
            "--recipe",
            type=click.Choice(["pursuit", "autoencoder", "paper"]),
            default="pursuit",
            show_default=True,
            help="Dictionary learning; a trained encoder; the encoder of arXiv 2505.11388.",
        ),
        click.option(
            "--similarity",
            type=click.Choice(SIMILARITIES),
            help="How queries are compared with rows; dot, the dot product, for a recommender.  "
            "[default: cosine]",
        ),
        click.option(
            "--decoder-bits",
            type=int,
            help="Bits of an entry of the trained matrix.  [default: 4 of recipe pursuit, else 32]",
        ),
        click.option(
            "--latent-dropout",
            default=0.0,
            show_default=True,
            help="Share of the latents left out of each training step. .15 codes rows that were "
            "not trained on better, where fewer than ten were for each latent.",
        ),
        click.option("--seed", default=0, show_default=True, help="Seed of every random choice."),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="cpu, cuda or auto, a GPU if there is one.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def make_config(hold_out: int, settings: dict[str, Any]) -> Any:
    """Make the TrainConfig of the training options.

    Raises:
        click.UsageError: a setting is out of its range.
    """
    from compressae.training.config import TrainConfig

    try:
        return TrainConfig(
            latents=settings["latents"],
            nonzeros=settings["nonzeros"],
            recipe=settings["recipe"],
            steps=settings["steps"],
            batch=settings["batch"],
            learning_rate=settings["learning_rate"],
            hold_out=hold_out,
            seed=settings["seed"],
            similarity=settings["similarity"] or "cosine",
            decoder_bits=settings["decoder_bits"],
            latent_dropout=settings["latent_dropout"],
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def say(result: dict[str, Any], as_json: bool) -> None:
    """Print a result on stdout: as JSON, or one line per entry."""
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}")
