"""The command line: one file a command, library errors as one line."""

from compressae.cli.commands import main

__all__ = ["main"]
