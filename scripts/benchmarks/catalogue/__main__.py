#!/usr/bin/env python3
"""A catalogue on disk: opening, adding, searching; as it grows, and beside other engines."""

import os
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click

from benchmarks.catalogue.cache import cache
from benchmarks.catalogue.engines import engines
from benchmarks.catalogue.filters import filters
from benchmarks.catalogue.growth import growth
from benchmarks.catalogue.memory import memory
from benchmarks.catalogue.serve import serve


@click.group(help=__doc__)
def main() -> None:
    pass


for command in (growth, memory, engines, filters, cache, serve):
    main.add_command(command)

if __name__ == "__main__":
    main()
