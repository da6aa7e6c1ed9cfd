#!/usr/bin/env python3
"""Search beside other engines, all on one thread, in one run: `python scripts/benchmarks/search`.

Engines that are not installed are named. Each figure is the median of --rounds rounds, in which
engines take turns; OUTPUT gets the records (JSON), a table (Markdown) and a picture.
"""

import os
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click
from benchmarks.search.dense_search import dense
from benchmarks.search.exclusion import exclusion
from benchmarks.search.growth import growth
from benchmarks.search.projection import projection
from benchmarks.search.sparse_search import sparse


@click.group(help=__doc__)
def main() -> None:
    pass


for command in (sparse, dense, growth, projection, exclusion):
    main.add_command(command)

if __name__ == "__main__":
    main()
