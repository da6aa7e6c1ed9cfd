#!/usr/bin/env python3
"""Random operations on a catalogue, and random damage to files, for as long as you like."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from fuzz.files import files
from fuzz.operations import operations


@click.group(help=__doc__)
def main() -> None:
    pass


for command in (operations, files):
    main.add_command(command)

if __name__ == "__main__":
    main()
