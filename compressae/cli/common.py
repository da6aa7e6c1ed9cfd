"""What the commands share: errors as one line, and the options that several take."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import click
import numpy as np

from compressae.retrieval.errors import InputError

EMBEDDINGS = click.argument("embeddings", type=click.Path(path_type=Path))


class Command(click.Command):
    """A command whose library errors become one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.ClickException(_one_line(error)) from error
        except BrokenPipeError:
            raise  # The reader has enough ("| head"): click ends without a word.
        except OSError as error:
            named = error.strerror and error.filename is not None
            what = f"{error.filename}: {error.strerror}" if named else error.strerror or error
            raise click.ClickException(_one_line(what)) from error
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


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--json, for programs that read the answer."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        function
    )


def output_option(what: str) -> Callable[..., Any]:
    """-o, the place of the result."""
    return click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help=what)


def model_option(required: bool, what: str) -> Callable[..., Any]:
    """-m, a trained model."""
    return click.option(
        "-m", "--model", required=required, type=click.Path(path_type=Path), help=what
    )


def values_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--values, how codes keep their values."""
    return click.option(
        "--values",
        type=click.Choice(["float32", "float16", "int8", "int4", "int3", "int2"]),
        help="How codes keep their values, int2 if not given; int4, int3 and int2 pack ids into "
        "bits too.",
    )(function)


def code_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How rows become codes, gathered by ``make_codes``."""
    options = (
        values_option,
        click.option(
            "--nnz", "codes_nnz", type=click.IntRange(min=1),
            help="Nonzeros a row; the model's if not given.",
        ),
        residual_option,
        click.option(
            "--budget",
            help="Bytes of all codes, such as '4 GB' or '48 B/row': rows then differ in nonzeros.",
        ),
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            help="A .npy of one number a row: its importance for the budget.",
        ),
        click.option(
            "--like",
            type=click.Path(path_type=Path),
            help="Packed codes to share the quantiser of, for rows added to their table.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def residual_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--residual-bytes, of packed codes."""
    return click.option(
        "--residual-bytes",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Bytes a row for what the nonzeros leave (packed values).",
    )(function)


def device_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--device, where rows are coded."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Where rows are coded: cpu, cuda or auto, a GPU where there is one.",
    )(function)


def make_codes(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``CompresSAE.compress`` that the code options say.

    Raises:
        InputError: a file among them is missing or no array of numbers.
    """
    from compressae.retrieval.packed import PackedCodes

    weights, like = options["weights"], options["like"]
    if weights is not None:
        weights = load_numbers(weights, "one number a row", "fiub")
    return {
        "values": options["values"],
        "nonzeros": options["codes_nnz"],
        "residual_bytes": options["residual_bytes"],
        "budget": options["budget"],
        "weights": weights,
        "like": None if like is None else PackedCodes.load(like),
    }


def load_numbers(path: Path, what: str, kinds: str) -> np.ndarray:
    """An array of a .npy file whose dtype is of the given kinds.

    Raises:
        InputError: there is none, or another.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: expected a .npy of {what} ({error})") from error
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in kinds:
        raise InputError(f"{path}: expected a .npy of {what}")
    return loaded


def load_ids(path: Path) -> np.ndarray:
    """Ids (m,) of a .npy file."""
    what = "ids, whole numbers (m,)"
    ids = load_numbers(path, what, "iu")
    if ids.ndim != 1:
        raise InputError(f"{path}: shape {ids.shape}; expected a .npy of {what}")
    return ids


def sparse_rows(path: Path) -> Any:
    """Sparse rows: saved codes, or a scipy .npz.

    Raises:
        InputError: the file is neither.
    """
    from scipy import sparse

    from compressae.retrieval.codes import SparseCodes
    from compressae.retrieval.packed import load_codes

    if path.is_dir():
        return load_codes(path)
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
    """The settings of a training run, gathered by ``make_config``."""
    options = (
        click.option("--latents", default=4096, show_default=True, help="h, the latents."),
        click.option("--nnz", default=32, show_default=True, help="k, the nonzeros of a code."),
        click.option("--steps", type=int, help="Steps; the recipe's where not given."),
        click.option("--batch", type=int, help="Rows a step; the recipe's where not given."),
        click.option("--learning-rate", type=float, help="Adam's; the recipe's where not given."),
        click.option(
            "--recipe",
            type=click.Choice(["pursuit", "autoencoder", "paper"]),
            default="pursuit",
            show_default=True,
            help="Dictionary learning; a trained encoder; the encoder of arXiv 2505.11388.",
        ),
        click.option("--seed", default=0, show_default=True, help="Of every random choice."),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="cpu, cuda or auto, a GPU where there is one.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def make_config(hold_out: int, settings: dict[str, Any]) -> Any:
    """The TrainConfig of the training options.

    Raises:
        click.UsageError: a setting is out of its range.
    """
    from compressae.config import TrainConfig

    try:
        return TrainConfig(
            latents=settings["latents"],
            nonzeros=settings["nnz"],
            recipe=settings["recipe"],
            steps=settings["steps"],
            batch=settings["batch"],
            learning_rate=settings["learning_rate"],
            hold_out=hold_out,
            seed=settings["seed"],
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def say(result: dict[str, Any], as_json: bool) -> None:
    """Print a result on stdout: JSON, or a line an entry."""
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}")
