"""Command fit-quantizer: fit what the codes of a table share, before rows are coded."""

from pathlib import Path
from typing import Any

import click

from compressae.cli import coding, common
from compressae.retrieval.codes.fitted import KIND
from compressae.retrieval.io.embeddings import Similarity


@click.command(
    cls=common.Command,
    examples=(
        "fit-quantizer items/ -m model -o quantizer --residual-bytes 32",
        "fit-quantizer sample.npy -m model -o quantizer --budget '48 B/row'",
    ),
)
@common.EMBEDDINGS
@common.model_option(True, "Folder of a trained model.")
@common.output_option("Folder of the quantiser.")
@coding.quantizer_options
@common.device_option
@common.threads_option
@common.column_option
@common.json_option
def fit_quantizer(
    embeddings: Path,
    model: Path,
    output: Path,
    overwrite: bool,
    device: str,
    threads: int | None,
    as_json: bool,
    value_type: str | None,
    code_nonzeros: int | None,
    residual_bytes: int,
    code_bytes: int | None,
    budget: str | None,
    similarity: Similarity | None,
    queries: Path | None,
    beam: int | None,
) -> None:
    """Fit the quantiser of codes to EMBEDDINGS, a whole table or a sample of all its parts.

    'encode --like QUANTIZER' then gives a row the same bytes in whatever part it comes, so that
    processes and machines may encode parts of one index.
    """
    common.check_output(output, KIND, overwrite)
    items = common.open_table(embeddings)
    from compressae.coding.fit import fit_quantizer as fit
    from compressae.coding.plan import choose_form
    from compressae.kernels.threads import limited
    from compressae.model import CompresSAE

    own = CompresSAE.load(model)
    users = None if queries is None else common.open_table(queries)
    form: dict[str, Any] = {
        "value_type": value_type,
        "nonzeros": code_nonzeros,
        "residual_bytes": residual_bytes,
    }
    if code_bytes is not None:
        coding.check_bytes_alone({**form, "code_nonzeros": code_nonzeros, "budget": budget})
        with limited(threads):
            form = choose_form(own, items, code_bytes, users, similarity)
    quantizer = fit(
        own,
        items,
        budget=budget,
        device=device,
        similarity=similarity,
        queries=users,
        beam=beam or 1,
        threads=threads,
        **form,
    )
    quantizer.save(output)
    common.say(
        {
            "quantizer": str(output),
            "nonzeros": quantizer.quantizer.nonzeros,
            "residual_bytes": quantizer.quantizer.residual_bytes,
            "most_bytes_an_item": int(quantizer.quantizer.layout.lengths[-1]),
        },
        as_json,
    )
