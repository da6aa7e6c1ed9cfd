"""The command: log loss and AUC of click models over every kind of table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from benchmarks.clicks import cells
from benchmarks.clicks.methods import METHODS
from benchmarks.clicks.report import grouped, markdown
from benchmarks.clicks.workbench import Setting
from benchmarks.gowalla.files import write, write_json
from clicks import movielens, readers
from clicks.examples import Examples
from clicks.metrics import auc, log_loss
from clicks.models import MODELS
from clicks.planted import planted
from clicks.training import Recipe

from compressae.cli.progress import progress
from compressae.retrieval.errors import InputError

DATA = ("criteo", "avazu", "movielens", "planted")
#: Defaults by data set: of the public files as the paper trains, of the small ones for a CPU.
_PUBLIC = dict(batch=128, learning_rate=None, epochs=1, checks=4, patience=2, small=False)
DEFAULTS: dict[str, dict[str, Any]] = {
    "criteo": _PUBLIC,
    "avazu": _PUBLIC,
    "movielens": dict(batch=512, learning_rate=0.02, epochs=3, checks=2, patience=2, small=True),
    "planted": dict(batch=1024, learning_rate=0.02, epochs=2, checks=2, patience=1, small=True),
}
SMOKE_METHODS = ("full", "qr-product-4", "hashing-4", "int8", "pruned-4", "codes-4")


class Command(click.Command):
    """A command whose library errors become one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.command(cls=Command, context_settings={"show_default": True})
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--data", type=click.Choice(DATA), required=True)
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=("dlrm",))
@click.option("--optimizer", type=click.Choice(["adagrad", "amsgrad"]), default="adagrad")
@click.option("--method", "names", multiple=True, type=click.Choice(list(METHODS)), help="All.")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), default=(0, 1, 2))
@click.option("--dim", type=click.IntRange(1), default=16, help="Entries of a row.")
@click.option("--batch", type=click.IntRange(1), help="Examples a step.")
@click.option("--learning-rate", type=float, help="Of public files: torch's, as the paper.")
@click.option("--epochs", type=click.IntRange(1), help="At most.")
@click.option("--checks", type=click.IntRange(1), help="Validations an epoch.")
@click.option("--patience", type=click.IntRange(1), help="Validations without a gain.")
@click.option("--std", type=float, default=0.05, help="Spread of a row's initial entries.")
@click.option("--min-count", type=click.IntRange(1), default=2, help="Rarer values share an id.")
@click.option("--examples", type=click.IntRange(20), help="At most; planted: 200,000.")
@click.option(
    "--rows", type=float, default=0.3, help="Million values of the largest planted feature."
)
@click.option("--smoke", is_flag=True, help="Few examples, few methods, one seed: does it run?")
@click.option("--report-only", is_flag=True, help="Only write the report of the cells in OUT.")
def main(
    path: Path | None,
    data: str,
    out: Path,
    models: tuple[str, ...],
    optimizer: Any,
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    report_only: bool,
    **options: Any,
) -> None:
    """Log loss and AUC of DLRM and DCN v2 over every kind of table (arXiv 1909.02107).

    PATH is Criteo's or Avazu's training file (text or .gz), or for movielens a folder: RecBole's
    wheel, which holds MovieLens-100k, is downloaded into it through pip. The data are GroupLens's:
    for research only, not to be redistributed. "planted" examples are made up.

    OUT gets

    \b
      cells/*.json   one a data set, model, optimiser, method and seed; one that exists is kept
      full/          trained full models, which some methods start from
      data/          Criteo and Avazu as arrays
      clicks.md      tables of all cells in OUT
      clicks.json    all cells

    Batch, learning rate, epochs, checks and patience have defaults for each data set.
    """
    if report_only:
        _write_report(out)
        return
    if options.pop("smoke"):
        names, seeds = names or SMOKE_METHODS, seeds[:1]
        options = {**options, "rows": 0.002, "dim": 8}
        options["examples"] = options["examples"] or 6000
    chosen = {name: value for name, value in options.items() if value is not None}
    chosen = {**DEFAULTS[data], **chosen}
    shape = {name: chosen[name] for name in ("batch", "learning_rate", "epochs")}
    recipe = Recipe(optimizer, checks=chosen["checks"], patience=chosen["patience"], **shape)
    examples = _read(data, path, out, chosen)
    for model in models:
        setting = Setting(model, chosen["dim"], chosen["std"], chosen["small"], recipe)
        cells.check(out, examples, setting)
        for seed in seeds:
            for name in names or METHODS:
                method = METHODS[name]
                place = cells.cell_path(out, examples.name, setting, name, seed)
                if place.exists():
                    continue
                record = cells.make(place, method, examples, setting, seed, out / "full")
                _write_report(out)
                _tell(place.stem, record)
    _write_report(out)


def _read(data: str, path: Path | None, out: Path, options: dict[str, Any]) -> Examples:
    """The examples, with the losses that need no model among their facts."""
    min_count, limit = options["min_count"], options.get("examples")
    if data == "planted":
        if not 3 <= options["rows"] * 1e6 <= 1e8:
            raise InputError(f"--rows {options['rows']}: expected 0.000003 to 100 (millions)")
        examples = planted(limit or 200_000, round(options["rows"] * 1e6), min_count)
    elif path is None:
        raise InputError(f"--data {data} without PATH; expected a file, or a folder for movielens")
    elif data == "movielens":
        movielens.fetch(path)
        examples = movielens.read(path, min_count)
    else:
        form = readers.CRITEO if data == "criteo" else readers.AVAZU
        with progress(f"read {path.name}") as report:
            examples = readers.read(path, form, out / "data", min_count, limit, report=report)
    test = examples.parts["test"]
    labels, mean = examples.labels[test], float(examples.labels[examples.parts["train"]].mean())
    facts = {"base_log_loss": log_loss(np.full(len(test), mean), labels)}
    if examples.probabilities is not None:
        true = examples.probabilities[test]
        facts |= {"true_log_loss": log_loss(true, labels), "true_auc": auc(true, labels)}
    return replace(examples, facts={**examples.facts, **facts})


def _write_report(out: Path) -> None:
    records = cells.records(out)
    if not records:
        raise InputError(f"{out}: no cells; expected some: run the command without --report-only")
    write(out / "clicks.md", markdown(records))
    write_json(out / "clicks.json", grouped(records))


def _tell(name: str, record: dict[str, Any]) -> None:
    if record["does_not_fit"]:
        click.echo(f"{name}: does not fit: {record['does_not_fit']}")
        return
    click.echo(
        f"{name}: {record['bytes']:,} bytes, log loss {record['test_log_loss']:.4f}, "
        f"AUC {record['test_auc']:.4f}"
    )
