"""The comparison of methods as a command: what it makes, what it skips, what it refuses."""

import json
import struct
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.gowalla import methods, report
from benchmarks.gowalla.command import main
from benchmarks.gowalla.methods import METHODS
from benchmarks.gowalla.workbench import Setting, Workbench
from click.testing import CliRunner
from recommender_data import blocks, write
from recommenders.interactions import bet_split, read_split
from recommenders.ranking import evaluate, evaluate_all
from recommenders.training import Recipe, Run

from compressae.retrieval.errors import InputError
from compressae.tables import FullTable

#: What is made where no method is named.
USUAL = sorted(name for name, method in METHODS.items() if not method.on_request)
EVERY = {(name, 80) for name in USUAL if name != "dense"} | {("dense", 0)}
#: Made at a second budget too; test_methods goes through budgets of every method.
TWICE = ("dense", "int8", "codes", "codes-items", "pq")
BUDGETS = ["--removed", 80, "--removed", 95]


@pytest.fixture
def epochs(monkeypatch):
    """Counts epochs that were trained."""
    count, epoch = Counter(), Run._epoch

    def counted(run):
        if count["epochs"] == count["stop"]:
            raise KeyboardInterrupt
        count["epochs"] += 1
        return epoch(run)

    count["stop"] = -1
    monkeypatch.setattr(Run, "_epoch", counted)
    return count


def script(*arguments):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def small(data, out, *more, removed=50):
    """A run of few cells."""
    return script(data, "-o", out, "--dim", 8, "--epochs", 6, "--protocol", "lightgcn",
                  "--removed", removed, *more)  # fmt: skip


def cells(out):
    return {path.stem: json.loads(path.read_text()) for path in (out / "cells").glob("*.json")}


@pytest.mark.slow
def test_the_short_form_makes_every_cell_and_nothing_twice(tmp_path, epochs):
    out = tmp_path / "out"
    done = script("--smoke", "-o", out, *BUDGETS[:2])
    assert done.exit_code == 0, done.output
    first, more = cells(out), [part for name in TWICE for part in ("--method", name)]
    assert script("--smoke", "-o", out, *BUDGETS, *more).exit_code == 0
    found = cells(out)
    assert {name: found[name] for name in first} == first
    every = EVERY | {(name, 95) for name in TWICE if name != "dense"}
    for protocol in ("lightgcn", "bet"):
        mine = [record for record in found.values() if record["protocol"] == protocol]
        assert {(record["method"], record["removed"]) for record in mine} == every
        for record in mine:
            if record["does_not_fit"] is None:
                assert record["bytes"] > 0 and 0 <= record["unused"] < 1
                counts = METHODS[record["method"]].counts
                assert record["bytes"] <= record["budget"] or counts == "numbers"
                assert 0 < record["recall20"] < 1 and record["failed"] is None
                assert record["threads"] == 1
        assert sum(record["does_not_fit"] is None for record in mine) > 0.6 * len(mine)
    whole = read_split(out / "planted.npz")
    for protocol, split in (("lightgcn", whole), ("bet", bet_split(whole, 0))):
        popular = split.train.sum(axis=0)
        floor = evaluate(lambda users: np.tile(popular, (len(users), 1)), split.test, split.train)
        dense = found[f"{protocol}-lightgcn-dense-0-0"]
        assert dense["recall20"] > 1.5 * floor.recall and dense["ndcg20"] > 1.5 * floor.ndcg
        for name in {*USUAL} - {"dense", "pq-items", "opq-items", "rq-items", "neq-items"}:
            # Codebooks of 256 entries are more than so few items may have.
            record = found[f"{protocol}-lightgcn-{name}-80-0"]
            assert record["does_not_fit"] is None and record["recall20"] > 1.5 * floor.recall, name
        hidden = "recall20_hidden" in dense
        assert hidden == (protocol == "bet") and (not hidden or dense["recall20_hidden"] > 0)
    assert (out / "gowalla.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((out / "gowalla.json").read_text())) == len(found)
    text = (out / "gowalla.md").read_text()
    assert all(METHODS[name].label in text for name in USUAL if name != "dense")
    assert "published" not in text and "Dense, nothing removed: .3" in text

    times = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    before = epochs["epochs"]
    assert script("--smoke", "-o", out, *BUDGETS[:2]).exit_code == 0
    assert script("--smoke", "-o", out, *BUDGETS, *more).exit_code == 0
    assert epochs["epochs"] == before > 100
    assert times == {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    (out / "gowalla.md").unlink()
    again = script("--report-only", "-o", out)
    assert again.exit_code == 0 and (out / "gowalla.md").read_text() == text


def test_an_interrupted_run_goes_on(tmp_path, data, epochs):
    names = ("--method", "dense", "--method", "uniform", "--method", "int8")
    assert small(data, tmp_path / "whole", *names, removed=80).exit_code == 0
    wanted, total = cells(tmp_path / "whole"), epochs["epochs"]
    assert total == 6 + 6 + 6 + 2  # int8: its own dense table, then a quarter of the epochs.
    # Stopped in the dense table, in uniform's, in int8's own, and in its tuning.
    before = 0
    for stop, there in ((3, 0), (9, 1), (15, 2), (19, 2)):
        epochs["epochs"], epochs["stop"] = 0, stop - before
        assert small(data, tmp_path / "out", *names, removed=80).exit_code == 1
        assert epochs["epochs"] == stop - before and len(cells(tmp_path / "out")) == there
        before = stop
    epochs["epochs"], epochs["stop"] = 0, -1
    done = small(data, tmp_path / "out", *names, removed=80)
    assert done.exit_code == 0 and epochs["epochs"] == total - 19
    for name, record in cells(tmp_path / "out").items():
        for figure in ("recall20", "ndcg20", "bytes", "epochs"):
            assert record[figure] == wanted[name][figure], (name, figure)
    assert not list((tmp_path / "out" / "work").iterdir())


def test_cells_tell_what_they_are(tmp_path, data):
    out = tmp_path / "out"
    done = small(data, out, "--method", "dense", "--method", "uniform", "--method", "qr-product")
    assert done.exit_code == 0, done.output
    found = cells(out)
    dense, uniform = (found[f"lightgcn-lightgcn-{x}-0"] for x in ("dense-0", "uniform-50"))
    assert (dense["bytes"], dense["bytes_a_row"], dense["numbers"]) == (6400, 32, 1600)
    assert dense["budget"] == 6400 and dense["unused"] == 0 and uniform["budget"] == 3200
    assert (uniform["bytes_a_row"], uniform["numbers"], uniform["epochs"]) == (16, 800, 6)
    assert dense["seconds"] == dense["dense_seconds"] > 0 and uniform["dense_seconds"] == 0
    assert uniform["settings"]["recipe"]["epochs"] == 6 and uniform["settings"]["dim"] == 8
    assert uniform["machine"]["processors"] and uniform["version"]
    assert uniform["commit"] is not None and uniform["command"] == (
        "python scripts/benchmarks/gowalla compare DATA -o OUT --protocol lightgcn --method dense "
        "--method uniform --method qr-product --removed 50.0 --dim 8 --epochs 6"
    )
    assert found["lightgcn-lightgcn-qr-product-50-0"]["facts"]["classes"]
    split = read_split(data)
    setting = Setting("lightgcn", "lightgcn", 8, Recipe(epochs=6))
    bench = Workbench(setting, split, 0, out / "none", out / "dense" / "lightgcn-lightgcn-0")
    scores = bench.recommender(FullTable.from_dense(bench.dense_rows())).scorer()
    assert evaluate(scores, split.test, split.train).recall == dense["recall20"]


def test_bpr_has_the_batch_and_the_l2_of_bets_code(tmp_path, data):
    done = small(data, tmp_path, "--method", "uniform", "--loss", "bpr", "--model", "ngcf")
    assert done.exit_code == 0, done.output
    settings = cells(tmp_path)["lightgcn-ngcf-uniform-50-0"]["settings"]
    recipe = settings["recipe"]
    assert (recipe["loss"], recipe["batch"], recipe["l2"], recipe["decay"]) == (
        "bpr", 10_000, 1e-4, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "protocol, model, temperature, rate, batch",
    [
        ("bet", "ngcf", 0.2, 0.01, 65536),
        ("bet", "ncf", 0.2, 0.01, 32768),
        ("lightgcn", "ngcf", 0.07, 0.03, 65536),
    ],
)
def test_models_have_settings_of_their_own(
    tmp_path, data, protocol, model, temperature, rate, batch
):
    done = script(data, "-o", tmp_path, "--dim", 8, "--epochs", 1, "--protocol", protocol,
                  "--model", model, "--loss", "softmax", "--method", "uniform",
                  "--removed", 50)  # fmt: skip
    assert done.exit_code == 0, done.output
    recipe = cells(tmp_path)[f"{protocol}-{model}-uniform-50-0"]["settings"]["recipe"]
    assert [recipe[name] for name in ("temperature", "learning_rate", "batch")] == [
        temperature, rate, batch,
    ]  # fmt: skip


def test_without_test_pairs_validation_judges(tmp_path, data, monkeypatch):
    out = tmp_path / "out"
    looked = []

    def watched(scores, cases, K=20):
        looked.extend(relevant for relevant, _ in cases)
        return evaluate_all(scores, cases, K)

    monkeypatch.setattr("benchmarks.gowalla.cells.evaluate_all", watched)
    done = script(data, "-o", out, "--dim", 8, "--epochs", 2, "--removed", 50, "--no-test",
                  "--method", "uniform")  # fmt: skip
    assert done.exit_code == 0, done.output
    whole = read_split(data)
    tested = whole.test, bet_split(whole, 0).test
    for relevant, test in zip(looked, tested, strict=True):
        assert relevant.nnz and not relevant.multiply(test).nnz
    for record in cells(out).values():
        assert "recall20" not in record and 0 < record["valid_recall20"] < 1
        assert record["trainings"][0]["epochs"] == 2
    assert "of the validation pairs" in (out / "gowalla.md").read_text()


def test_what_does_not_fit_and_what_fails(tmp_path, data, monkeypatch):
    out = tmp_path / "out"

    def broken(bench, budget):
        raise InputError("loss nan: training diverged")

    def large(bench, budget):
        return FullTable(bench.n, bench.dim)

    for name, function in (("broken", broken), ("large", large)):
        monkeypatch.setitem(METHODS, name, methods.Method(name, name, function))
    asked = ("--method", "broken", "--method", "large", "--method", "pq", "--method", "uniform")
    done = small(data, out, *asked)
    assert done.exit_code == 1 and "2 cells failed" in done.stderr
    assert "lightgcn-lightgcn-broken-50-0: loss nan" in done.stderr
    assert "large: 6400 bytes, over its budget of 3200" in done.stderr
    found = cells(out)
    assert "codebooks" in found["lightgcn-lightgcn-pq-50-0"]["does_not_fit"]
    assert found["lightgcn-lightgcn-uniform-50-0"]["recall20"] > 0
    text = (out / "gowalla.md").read_text()
    assert "| PQ | does not fit |" in text and "| broken | failed |" in text
    counted = methods.Method("large", "large", lambda b, _: FullTable(b.n, 1), counts="numbers")
    monkeypatch.setitem(METHODS, "large", counted)
    monkeypatch.setitem(METHODS, "broken", replace(METHODS["uniform"], name="broken"))
    assert small(data, out, *asked).exit_code == 0  # Failed cells are tried again.
    assert cells(out)["lightgcn-lightgcn-large-50-0"]["unused"] == 1 - 800 / 3200


def test_cells_of_other_settings_are_never_mixed(tmp_path, data, monkeypatch):
    out = tmp_path / "out"
    assert small(data, out, "--method", "uniform").exit_code == 0
    for more, said in (
        (("--epochs", 7), "made with epochs = 6, but 7 was asked for"),
        (("--dim", 16), "made with dim = 8, but 16"),
        (("--no-test",), "made with test = True, but False"),
    ):
        refused = small(data, out, "--method", "hashing", *more)
        assert refused.exit_code == 1 and said in refused.stderr, refused.output
    other = write(tmp_path / "other.npz", blocks(seed=1))
    refused = small(other, out, "--method", "hashing")
    assert refused.exit_code == 1 and "made with pairs" in refused.stderr
    changed = replace(METHODS["uniform"], settings={"rules": 0})
    monkeypatch.setitem(METHODS, "uniform", changed)
    refused = small(data, out, "--method", "uniform")
    assert refused.exit_code == 1 and "which now has {'rules': 0}" in refused.stderr
    assert len(cells(out)) == 1


def test_errors_are_one_line(tmp_path, data):
    for arguments, said in (
        ((data, "-o", tmp_path / "out", "--method", "qr"), "method qr; expected some of dense,"),
        ((data, "-o", data / "out"), "cannot be written"),
        ((tmp_path / "none.npz", "-o", tmp_path / "out"), "no such file"),
        (("-o", tmp_path / "out"), "no DATA; expected an .npz of pairs, or --smoke"),
        (("-o", tmp_path / "out", "--report-only"), "holds no cells"),
        (("-o", tmp_path, "--report-only"), "holds no cells"),
        ((tmp_path / "none.npz", "-o", tmp_path / "out", "--smoke"), "no such file"),
        ((data, "-o", tmp_path / "out", "--epochs", 0), "epochs 0; expected 1 or more"),
    ):
        refused = script(*arguments)
        assert refused.exit_code == 1 and said in refused.stderr, (arguments, refused.output)
        assert "Traceback" not in refused.stderr and not (tmp_path / "out" / "cells").exists()
    (tmp_path / "out" / "cells").mkdir(parents=True)
    for text in ("{", "[]", '{"settings": {}}'):
        (tmp_path / "out" / "cells" / "x.json").write_text(text)
        refused = script("-o", tmp_path / "out", "--report-only")
        assert refused.exit_code == 1 and "damaged, or no cell" in refused.stderr


def record(method, removed, seed, recall, **more):
    settings = dict(dim=128, test=True, users=29858, items=40981, recipe={"epochs": 28})
    return {
        "protocol": "bet", "model": "lightgcn", "method": method, "removed": removed, "seed": seed,
        "recall20": recall, "ndcg20": recall / 2, "recall20_hidden": recall + 0.01,
        "bytes_a_row": 512 * (100 - removed) / 100, "seconds": 10.0, "dense_seconds": 0.0,
        "does_not_fit": None, "failed": None, "settings": settings, "machine": {"processors": 2},
        **more,
    }  # fmt: skip


def size(png):
    """(width, height) of a PNG, from its header."""
    return struct.unpack(">II", png.read_bytes()[16:24])


def test_the_report_of_several_seeds_beside_published_rows(tmp_path):
    found = [record("uniform", 80, seed, 0.16 + 0.002 * seed) for seed in (0, 1, 2)]
    found += [record("uniform", 95, 0, 0.12), record("dense", 0, 0, 0.19)]
    text = report.markdown(found)
    assert "| uniform, fewer dimensions | .1620 ± .0020 / .0810 ± .0010 | 102.4 | 10 |" in text
    assert "| BET, published | .1753 |  |  | .1374 |" in text
    assert "seeds 0, 1, 2 (mean ± standard deviation, where" in text
    assert "Dense, nothing removed: .1900 / .0950, 512.0 B, 10 s." in text
    assert "- uniform, fewer dimensions: .1720 ± .0020 (80 %), .1300 (95 %)" in text
    assert report.draw(found, tmp_path / "p.png") and (tmp_path / "p.png").stat().st_size > 10000
    ngcf = report.markdown([record("uniform", 90, 0, 0.1, model="ngcf")])
    assert "| BET, published | .1426 |" in ngcf and "| uniform, published | .1380 |" in ngcf
    assert "published" not in report.markdown([record("uniform", 90, 0, 0.1, model="mf")])
    more = [record("uniform", 80, 0, 0.1, model=model) for model in ("mf", "ncf", "ngcf")]
    assert report.draw(found + more, tmp_path / "four.png")
    assert size(tmp_path / "four.png") == (2250, 1100)  # Three panels, and one below.
    assert report.draw([], tmp_path / "none.png")
    other = [record("uniform", 80, 0, 0.1, settings={**found[0]["settings"], "users": 9})]
    assert "published" not in report.markdown(other)
