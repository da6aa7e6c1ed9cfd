"""The group of commands; a command's module is imported when it is called."""

from importlib import import_module

import click

from compressae.cli.common import Command

_COMMANDS = {
    "train": "Train a sparse autoencoder on a table of embeddings.",
    "encode": "Compress a table to sparse codes.",
    "index": "Build a search index from codes or embeddings.",
    "search": "Find the nearest items of queries.",
    "tune": "Set the fastest search that reaches a recall.",
    "update": "Add, replace and remove rows of an index.",
    "inspect": "Write a page of what each latent of an index means.",
    "evaluate": "Compare compressed search with dense search on a table.",
    "check": "Say whether a model still fits new embeddings.",
    "plan": "Say which codes fit a memory and what recall to expect.",
    "info": "Say what an artifact or a table is.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: Command = getattr(import_module(f"compressae.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # Without importing torch for each.
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Lazy)
@click.version_option(package_name="compressae")
def main() -> None:
    """Sparse codes for dense embeddings: train, compress, search, judge."""
