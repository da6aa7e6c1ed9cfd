"""The Python of README and guide runs, and the commands that they show exist."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compressae import load_sample
from compressae.cli import main

ROOT = Path(__file__).parents[1]
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"
EXPORT = ROOT / "docs" / "export.md"
CLUSTER = ROOT / "docs" / "cluster.md"
RECOMMENDER = ROOT / "docs" / "recommender.md"
FACTORS = ROOT / "docs" / "factors.md"


@pytest.fixture
def small_sample(monkeypatch):
    """A sample of 3,000 rows: enough for what the page shows, in a fraction of the time."""
    sample = load_sample()
    few = replace(sample, embeddings=sample.embeddings.subset(np.arange(3000)))
    monkeypatch.setattr("compressae.load_sample", lambda: few)


def run(page):
    """Execute a page's Python blocks in order: the names they leave."""
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    return names


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys, small_sample):
    monkeypatch.chdir(tmp_path)
    names = run(README)
    recall = re.search(r"recall ([\d.]+)", capsys.readouterr().out)
    assert float(recall[1]) > 0.8
    codes = names["codes"]
    assert codes.nbytes / len(codes) == pytest.approx(8 * 12 / 8 + 1 + 16, abs=0.01)
    assert names["hits"].ids[:, 0].tolist() == [0, 1, 2]
    assert names["rows"].shape == (2, 2, 64) and names["table"].num_parameters == 6400
    assert names["best"].widths.sum() == 6400 and len(names["search"].trials) == 10


def test_the_guides_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run(GUIDE)
    assert names["hits"].ids.shape[1] > 0 and (tmp_path / "model" / "config.json").exists()


def test_the_recommender_guides_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run(RECOMMENDER)
    overlap = re.search(r"top 20: ([\d.]+)", capsys.readouterr().out)
    assert float(overlap[1]) > 0.75
    assert names["index"].similarity == "dot" and len(names["new"]) == 5
    assert names["codes"].nbytes <= 24 * 3000 and names["hits"].ids.shape == (800, 20)


def test_the_export_pages_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(EXPORT)
    exact = names["catalogue"].search(names["x"], 10, candidates="all").ids[0].tolist()
    assert len(set(exact) & {id for id, _ in names["by_sql"]}) >= 9
    assert len(set(exact) & set(names["by_scipy"].tolist())) >= 9
    for name in ("reranked", "by_codes"):
        assert len(set(exact) & set(names[name].ids[0].tolist())) >= 9
    assert names["halves"].shape == (1, 512) and names["by_vectors"].ids[0, 0] == 7


def test_sparks_workers_run_the_cluster_pages_function(tmp_path, monkeypatch):
    """Four partitions give the bytes of one process."""
    sql = pytest.importorskip("pyspark.sql", reason="needs pyspark (pip install pyspark pandas)")
    if shutil.which("java") is None:
        pytest.skip("needs Java 17, which Spark runs in")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    names = run(CLUSTER)
    table = [(f"sku {i}", row.tolist()) for i, row in enumerate(names["items"].take(range(200)))]
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.host", "127.0.0.1").getOrCreate()
    try:
        rows = spark.createDataFrame(table, "sku string, embedding array<float>").repartition(4)
        coded = rows.mapInArrow(names["encoded"], "id string, packed binary").collect()
    finally:
        spark.stop()
    packed = {row.id: bytes(row.packed) for row in coded}
    whole = names["whole"].take(range(200)).data[:-4].tobytes()
    assert len(packed) == 200
    assert b"".join(packed[f"sku {i}"] for i in range(200)) == whole


def test_the_cluster_pages_python_runs():
    """Its Spark function too, fed with batches as Spark would."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
    names = run(CLUSTER)
    rows = names["items"].take(range(30))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    batch = pa.RecordBatch.from_arrays(
        [pa.array([str(i) for i in range(30)]), vectors], ["sku", "embedding"]
    )
    (coded,) = names["encoded"](iter([batch]))
    assert (
        b"".join(coded["packed"].to_pylist()) == names["whole"].take(range(30)).data[:-4].tobytes()
    )


def shown_commands(page):
    """(command, the rest of its line) of a page's indented blocks."""
    return re.findall(r"^    compressae ([\w-]+) (.*)$", page.read_text(encoding="utf-8"), re.M)


PAGES = [README, GUIDE, RECOMMENDER, EXPORT, CLUSTER, FACTORS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    commands = shown_commands(page)
    usual = {"train", "evaluate", "index", "search", "update", "check"}
    fewer = {EXPORT: {"export"}, FACTORS: {"train", "index", "evaluate"}}
    fewer[CLUSTER] = {"fit-quantizer", "encode", "index", "search"}
    assert fewer.get(page, usual) <= {name for name, _ in commands}
    for name, rest in commands:
        options = {o for parameter in main.get_command(None, name).params for o in parameter.opts}
        for option in re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", rest.split("#")[0]):
            assert option in options, f"{name} {option}"


def test_every_command_is_shown_and_has_examples_that_parse():
    shown = {name for name, _ in shown_commands(README)}
    for name in main.list_commands(None):
        command = main.get_command(None, name)
        assert command.help and command.examples, name
        options = {o for parameter in command.params for o in parameter.opts}
        for example in command.examples:
            assert example.split()[0] == name
            for option in re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", example):
                assert option in options, example
    assert shown | {"info", "warm"} == set(main.list_commands(None))


@pytest.mark.parametrize("script", ["demo", "test", "gpu"])
def test_the_commands_are_executable(script):
    path = ROOT / "scripts" / script
    assert path.stat().st_mode & 0o111 and f"scripts/{script}" in README.read_text()


def test_the_tree_names_every_module():
    """The README's annotated tree has a line for each file of the package, and no other."""
    tree = README.read_text(encoding="utf-8").split("## The house")[1].split("```")[1]
    named = set(re.findall(r"([\w]+\.py)\b", tree))
    files = {path.name for path in (ROOT / "compressae").rglob("*.py")}
    assert files - {"__init__.py", "cpu.py", "gpu.py", "reference.py"} <= named
