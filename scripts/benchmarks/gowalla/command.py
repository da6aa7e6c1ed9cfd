"""The command: train a recommender, search widths for one, compare tables, judge served items."""

from typing import Any

import click
from benchmarks.gowalla.compare import compare
from benchmarks.gowalla.hot import hot
from benchmarks.gowalla.served import served
from benchmarks.gowalla.sides import sides
from benchmarks.gowalla.train import train
from benchmarks.gowalla.widths import widths

from compressae.retrieval.errors import InputError


class Group(click.Group):
    """A group whose library errors become one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Group, context_settings={"show_default": True})
def main() -> None:
    """Recommenders on Gowalla.

    DATA is an .npz of pairs (see scripts/recommenders/interactions.py for its arrays), or a folder
    with LightGCN's train.txt and test.txt.
    """


for command in (train, widths, compare, served, hot, sides):
    main.add_command(command)
