"""Items as they are served: every method over the item table of a recommender."""

import json

import numpy as np
import pytest
from benchmarks.gowalla.command import main
from click.testing import CliRunner
from recommender_data import preferences, write

METHODS = ("dense", "asymmetric-all:budget=20:residual_bytes=6", "pq:code_bytes=8:weighted=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pairs = preferences(users=300, items=700, each=15)
    return write(tmp_path_factory.mktemp("served") / "pairs.npz", pairs)


def served(data, out, *more, methods=METHODS):
    named = [part for name in methods for part in ("--method", name)]
    arguments = ["served", data, *more, "-o", out, "--latents", 64, "--dim", 16, *named]
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_svd_of_the_pairs_is_judged(data, tmp_path):
    done = served(data, tmp_path)
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "served-svd.json").read_text())
    methods = summary["methods"]
    assert [method["error"] for method in methods] == [None] * 3
    recalls = [method["metrics"]["recall@20"]["mean"] for method in methods]
    assert recalls[0] == 1 and recalls[1] > 0.6 and recalls[2] > 0.4
    assert methods[0]["metrics"]["held-out recall@20"]["mean"] > 0.05  # Chance is .03.
    assert methods[1]["code_bytes"] <= 20
    assert "held-out recall@20" in (tmp_path / "served-svd.md").read_text()


def test_a_trained_recommender_is_judged_by_its_final_rows(data, tmp_path):
    (tmp_path / "mine").mkdir()
    table = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    np.save(tmp_path / "mine" / "final.npy", table)
    done = served(data, tmp_path, tmp_path / "mine", methods=("dense",))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "served-mine.json").read_text())["about"]["items"] == 700
    np.save(tmp_path / "mine" / "final.npy", table[:5])
    done = served(data, tmp_path, tmp_path / "mine", methods=("dense",))
    assert done.exit_code == 1 and "expected 300 users, then 700 items" in done.output


def test_both_sides_are_compressed(data, tmp_path):
    arguments = ["sides", data, "-o", tmp_path, "--latents", 64, "--dim", 32]
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "sides.json").read_text())["svd"]
    overlaps = {name: figures["overlap@20"] for name, figures in record.items()}
    assert overlaps["dense"] == 1 > overlaps["ours, users dense"] >= overlaps["ours, both sides"]
    assert overlaps["ours, both sides"] > 0.4
    assert overlaps["norm-explicit PQ, users dense"] > 0.4
    assert all(0.02 < figures["Recall@20"] < 1 for figures in record.values())
