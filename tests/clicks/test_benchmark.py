"""The benchmark of click models: a smoke run, a second one that goes on, errors."""

import json
import re
from dataclasses import replace

import pytest
import torch
from benchmarks.clicks import command
from benchmarks.clicks.methods import METHODS
from benchmarks.clicks.workbench import Setting, Workbench
from click.testing import CliRunner
from click_files import CRITEO_TEXT
from clicks.training import Recipe

from compressae.tables import TableCollection


def run(*arguments):
    return CliRunner().invoke(command.main, [*map(str, arguments)])


def test_a_smoke_run_makes_the_table(tmp_path, monkeypatch):
    out = tmp_path / "out"
    smoke = ("--data", "planted", "--smoke", "--examples", 2000, "--epochs", 1, "-o", out)
    done = run(*smoke, "--method", "full", "--method", "hashing-4", "--method", "pruned-2")
    assert done.exit_code == 0, done.stderr
    paths = sorted(path.stem for path in (out / "cells").iterdir())
    assert paths == [f"planted-dlrm-adagrad-{name}-0" for name in ("full", "hashing-4", "pruned-2")]
    (group,) = json.loads((out / "clicks.json").read_text())["groups"]
    cells = {cell["method"]: cell for cell in group["cells"]}
    budgets = {name: cell["bytes"] for name, cell in cells.items()}
    assert budgets["hashing-4"] < budgets["pruned-2"] < budgets["full"]
    assert all(0.4 < c["test_log_loss"] < 0.8 for c in cells.values())
    assert group["settings"]["made_up"] and group["machine"]["torch"]
    page = (out / "clicks.md").read_text()
    assert "## planted, made up: DLRM, Adagrad" in page
    assert f"| full tables | {budgets['full'] // 4:,} | {budgets['full']:,} | 100.0 % |" in page
    assert "Not run: `python scripts/benchmarks/clicks --data planted" in page
    assert "--method qr-product-4 " in page and "the true probabilities" in page

    # A second run makes the cells that are not there, and no other.
    times = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    monkeypatch.setattr("benchmarks.clicks.workbench.fit", None)  # Nothing is trained.
    done = run(*smoke, "--method", "full", "--method", "int4-rounded")
    assert done.exit_code == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "int4, trained tables rounded" in (out / "clicks.md").read_text()
    done = run(*smoke, "--batch", 9)
    assert done.exit_code == 1 and "cells made with" in done.stderr and "batch" in done.stderr


@pytest.mark.parametrize("name", METHODS)
def test_methods_make_tables_within_their_bytes(clicks, name, tmp_path):
    method = METHODS[name]
    setting = Setting("dlrm", 8, 0.05, True, Recipe(batch=512, epochs=1, checks=1))
    rows = dict(C3=4000, C4=1500, C5=150, C6=15)
    few = replace(clicks, rows=rows, features=tuple(rows), ids=clicks.ids[:, 2:6] % 15)
    bench = Workbench(few, setting, 0, tmp_path)
    torch.manual_seed(0)
    bench.keep_full(bench.model(bench.collection("full")), 1.5)
    tables = method.make(bench)
    full = TableCollection(rows, 8, "full").nbytes
    collisions = re.search(r"-(\d+)$", name)
    stored = tables.export().nbytes
    if name.startswith("full"):
        assert stored == full
    elif "above" in name:
        assert bench.budget(4) < stored < full
    elif collisions:
        assert stored <= bench.budget(int(collisions[1])) < full
    else:
        assert stored < 0.6 * full
    if method.origin != "start":
        assert bench.full_seconds == 1.5
        model = bench.model_of_trained(tables)
        trained = bench.full_model()
        assert torch.equal(model.top[0].weight, trained.top[0].weight)
        assert model.tables is tables


def test_a_public_file_is_read_and_trained_on(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(CRITEO_TEXT)
    arguments = (path, "--data", "criteo", "--smoke", "-o", tmp_path / "out", "--method", "full")
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    assert "## criteo: DLRM, Adagrad" in (tmp_path / "out" / "clicks.md").read_text()
    assert (tmp_path / "out" / "data" / "ids.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "criteo"), "--data criteo without PATH; expected a file"),
        (("none.txt", "--data", "avazu"), "none.txt: no such file; expected avazu's"),
        (("--data", "planted", "--report-only"), "no cells; expected some"),
        (("--data", "planted", "--rows", "1e9"), "--rows 1000000000.0: expected"),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, message):
    done = run(*arguments, "-o", tmp_path / "out")
    assert done.exit_code == 1 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
