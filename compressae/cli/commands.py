"""Command group; it imports the module of a command when the command is called."""

from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from compressae.cli.common import Command
from compressae.retrieval.io.remote import is_url

_COMMANDS = {
    "train": "Train a sparse autoencoder on a table of embeddings.",
    "fit-quantizer": "Fit what the codes of a table share, to encode it in parts.",
    "encode": "Compress a table to sparse codes, whole or in shards.",
    "index": "Build a search index from codes or embeddings.",
    "search": "Find the nearest items of queries.",
    "serve": "Answer searches of an index over HTTP.",
    "tune": "Set the fastest search that reaches a recall.",
    "update": "Add, replace and remove rows of an index.",
    "export": "Write the rows of an index for another engine.",
    "inspect": "Write a page that shows the latents of an index.",
    "evaluate": "Compare compressed search with dense search on a table.",
    "check": "Test whether a model still fits new embeddings.",
    "plan": "List codes that fit a memory size, with their expected recall.",
    "info": "Describe an artifact or a table.",
    "warm": "Compile the kernels, in an image or before workers start.",
}


class _Lazy(click.Group):
    """Group that imports a command on first use."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse a first path that does not exist before a command is imported, which may take
        seconds."""
        name, *rest = args
        is_path = name in _COMMANDS and rest and not rest[0].startswith("-")
        is_run = "--help" not in rest and not ctx.resilient_parsing  # Not of a shell's completion.
        if is_path and is_run and not is_url(rest[0]) and not Path(rest[0]).exists():
            raise click.ClickException(f"{rest[0]}: no such file or folder")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = name.replace("-", "_")
        command: Command = getattr(import_module(f"compressae.cli.{module}"), module)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands without importing one."""
        names = [
            CompletionItem(name, help=text)
            for name, text in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # From the table above, which imports no torch.
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Lazy)
@click.version_option(package_name="compressae")
def main() -> None:
    """Sparse codes for dense embeddings: train, compress, search, evaluate."""
