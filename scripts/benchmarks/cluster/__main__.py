#!/usr/bin/env python3
"""A table in many parquet files: encoded by processes and over Ray; searched as it grows."""

import os
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click

from benchmarks.cluster.encode import encode
from benchmarks.cluster.size import size


@click.group(help=__doc__)
def main() -> None:
    pass


main.add_command(encode)
main.add_command(size)

if __name__ == "__main__":
    main()
