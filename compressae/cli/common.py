"""Shared by the commands: one-line errors, options of most of them, printed results."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import check_destination
from compressae.retrieval.io.embeddings import Embeddings, open_embeddings
from compressae.retrieval.io.remote import RemotePath, as_path, is_url


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


def option_group(*each: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator, in their order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(each):
            function = option(function)
        return function

    return add


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


def say(result: dict[str, Any], as_json: bool) -> None:
    """Print a result on stdout: as JSON, or one line per entry."""
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}")
