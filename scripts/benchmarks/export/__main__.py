#!/usr/bin/env python3
"""Exported rows in other stores: what halves of signs lose, and stores beside one another."""

import os
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click
from benchmarks.export.signs import signs
from benchmarks.export.stores import stores


@click.group(help=__doc__)
def main() -> None:
    pass


main.add_command(signs)
main.add_command(stores)

if __name__ == "__main__":
    main()
