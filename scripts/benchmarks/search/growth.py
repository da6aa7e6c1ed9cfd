"""The time of one query against the number of rows."""

import time
from pathlib import Path

import click
from benchmarks.search.engines import inverted
from benchmarks.search.measure import Rounds, write
from benchmarks.search.sparse_search import TOP, as_csr
from benchmarks.search.synthetic_codes import QUERIES, SETS, make_codes

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000, 4_000_000)
TIMED = 300


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rounds", default=3, show_default=True)
@click.option("--most", default=SIZES[-1], show_default=True, help="Rows.")
def growth(output: Path, rounds: int, most: int) -> None:
    """The time of one query of ours against the number of rows."""
    points = []
    for name, settings in SETS.items():
        sizes = [n for n in SIZES if n <= most]
        documents, queries = map(as_csr, make_codes(sizes[-1], QUERIES, **settings))
        queries = queries[:TIMED]
        for n in sizes:
            started = time.perf_counter()
            engine = inverted.build(documents[:n])
            seconds = time.perf_counter() - started
            (setting,) = engine.settings
            turns = Rounds(queries, setting.search(queries, TOP), TIMED, rounds)
            turns.add("compressae int8", engine, setting, n, seconds, name)
            points += turns.run()
            click.echo(f"{name} {n:,}: {points[-1].p50_ms:.3f} ms", err=True)
    write(output, "growth", points, [], {"rounds": rounds})
