"""The benchmarks of a catalogue, on a few rows."""

import importlib.util
import json
from importlib import import_module

import pytest
from click.testing import CliRunner
from recommender_data import SCRIPTS  # Puts scripts/ on the path.

from compressae import CompresSAE

ROWS, PARTS = 1500, ("cache", "engines", "filters", "growth", "memory", "serve")
#: Rivals and their modules; faiss is left out, whose training did not end in a test process.
RIVALS = {"LanceDB": "lancedb", "Qdrant": "qdrant_edge"}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command over few rows, queries and latents; returns what it wrote, or its error."""
    rows = import_module("benchmarks.catalogue.rows")
    planted, model = rows.planted, CompresSAE(rows.DIM, 64, rows.NONZEROS, seed=0)
    model.settings = {"recipe": "pursuit"}
    small = {
        "planted": lambda count, seed: planted(min(count, ROWS), seed),
        "dictionary": lambda: model,
        "DISTINCT": 50,
        "QUERIES": 5,
        "SINGLE": 3,
        "BATCH": 5,
        "LIMITS": {"all": 10_000, "50 %": 5_000, "1 %": 100},
    }
    for part in PARTS:
        # By its name: the package has commands of the same ones.
        module = import_module(f"benchmarks.catalogue.{part}")
        for name, value in small.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)

    def call(name, *arguments):
        main = import_module("benchmarks.catalogue.__main__").main
        result = CliRunner().invoke(main, [name, str(tmp_path), *map(str, arguments)])
        if result.exit_code:
            return result.output + repr(result.exception)
        return json.loads((tmp_path / f"{name}.json").read_text())

    return call


@pytest.mark.slow
def test_growth_is_measured(run):
    record = run("growth", "--rows", ROWS)
    (point,) = record["points"]
    assert point["rows"] == ROWS and point["add_1000_bytes"] > 0 and point["open_ms"] > 0


def test_the_cache_is_measured(run):
    points = run("cache", "--rows", ROWS, "--requests", 40)["points"]
    assert len(points) == 12
    assert {p["hit_share"] for p in points if p["entries"] == 0} == {0}
    assert all(p["hit_share"] > 0 and p["held_mb"] > 0 for p in points if p["entries"] == 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["engines", "filters"])
def test_the_catalogue_is_measured_beside_no_rival(run, command):
    points = run(command, "--rows", ROWS, "--without", ",".join(["faiss", *RIVALS]))["points"]
    assert [point["engine"] for point in points] == [
        "compressae",
        "compressae, reranked from float32 on disk",
    ]
    for point in points:
        assert "failed" not in point
        assert all(0 <= search["recall@10"] <= 1 for search in point["searches"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "rival"),
    [("engines", "LanceDB"), ("engines", "Qdrant"), ("filters", "LanceDB")],
)
def test_rivals_are_measured_where_they_are_installed(run, command, rival):
    if importlib.util.find_spec(RIVALS[rival]) is None:
        pytest.skip(f"{RIVALS[rival]} is not installed")
    others = ",".join(name for name in ("compressae", "faiss", *RIVALS) if name != rival)
    points = run(command, "--rows", ROWS, "--without", others)["points"]
    assert [point["engine"].split()[0] for point in points] == [rival]
    assert "failed" not in points[0], points


@pytest.mark.slow
def test_memory_is_measured_where_a_cgroup_can_be_made(run):
    record = run("memory", "--rows", ROWS, "--limit-mb", 512)
    if isinstance(record, str):
        assert "no memory cgroup can be made here" in record
        pytest.skip("no memory cgroup can be made here")
    assert record["same_answers"] and record["rows"] == ROWS


def test_serving_is_measured_with_wrk_alone(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "wrk is not installed" in run("serve")


def test_the_command_has_each_part():
    main = import_module("benchmarks.catalogue.__main__").main
    assert sorted(main.commands) == sorted(PARTS)
    assert (SCRIPTS / "benchmarks" / "catalogue").is_dir()
