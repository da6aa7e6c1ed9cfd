"""Options of codes, and the codes that they make."""

from typing import TYPE_CHECKING, Any

import click

from compressae.cli.common import PATH, TABLE, open_table, option_group
from compressae.cli.inputs import load_numbers
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import SIMILARITIES

if TYPE_CHECKING:
    from compressae.model import CompresSAE
    from compressae.retrieval.codes import Codes

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


#: Options of the codes, and those that all rows share: of a quantiser.
code_options = option_group(*_CODE_OPTIONS, *_ROW_OPTIONS)
quantizer_options = option_group(*_CODE_OPTIONS)


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
