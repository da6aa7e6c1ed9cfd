"""Command line: one file per command; library errors become one line."""

from compressae.cli.commands import main

__all__ = ["main"]
