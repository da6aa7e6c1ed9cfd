"""compressae evaluate, as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import call, refused, succeed

from compressae.evaluation.methods import METHODS
from compressae.training.config import held_out_rows

SMALL = ["--latents", 64, "--nonzeros", 4, "--steps", 12, "--batch", 64]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """table.npy (600, 16), queries.npy (20, 16), and a model that 120 rows were held out of."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 16))
    rows = centres[rng.integers(0, 30, 620)] + 0.3 * rng.standard_normal((620, 16))
    np.save(folder / "table.npy", rows[:600].astype(np.float32))
    np.save(folder / "queries.npy", rows[600:].astype(np.float32))
    succeed("train", folder / "table.npy", "-o", folder / "model", "--hold-out", 120, *SMALL)
    return folder


def methods_of(folder):
    return json.loads((folder / "report.json").read_text())["methods"]


def test_every_method_is_a_line_of_the_table(made, tmp_path, open_page):
    quick = {
        "opq": "opq:iterations=2",
        "rq": "rq:beam=1",
        "prq": "prq:beam=1",
        "lsq": "lsq:code_bytes=2",
    }
    quickly = ",".join(quick.get(method, method) for method in METHODS)
    out = succeed(
        "evaluate",
        made / "table.npy",
        "-m",
        made / "model",
        "-o",
        tmp_path / "report",
        "--queries",
        120,
        "--bytes",
        "6,12",
        "--methods",
        quickly,
    )
    for method in METHODS:
        assert f"│ {method} " in out or f"{method} B=6 failed" in out, method
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert names == ["hits.npz", "report.html", "report.json", "report.md", "report.png"]
    found = methods_of(tmp_path / "report")
    failed = {m["label"] for m in found if m["error"] and "[baselines]" not in m["error"]}
    assert failed == set()
    by_label = {m["label"]: m for m in found}
    assert by_label["dense"]["metrics"]["recall@100"]["mean"] == 1
    assert by_label["pq B=6"]["code_bytes"] == 4 and by_label["pq B=12"]["code_bytes"] == 8
    ours = by_label["asymmetric-all k=5"]
    assert ours["code_bytes"] == pytest.approx(6, abs=0.01)  # 5 nonzeros of 8 bits and a gain.
    assert 0.3 < ours["metrics"]["recall@10"]["mean"] <= 1
    with np.load(tmp_path / "report" / "hits.npz") as held:
        held_out, kept = held_out_rows(600, 120)
        np.testing.assert_array_equal(held["queries"], held_out)
        assert set(np.unique(held["truth_ids"])) <= set(kept.tolist())  # By row of the table.
    page = open_page(tmp_path / "report" / "report.html")
    assert page.locator("tbody tr").count() == len(found)


def test_without_a_model_one_is_trained_if_it_is_needed(made, tmp_path):
    command = ["evaluate", made / "table.npy", "-o", tmp_path / "report", "--queries", 120]
    code, out, err = call(*command, "--methods", "dense,asymmetric:nonzeros=4", "--json", *SMALL)
    assert code == 0 and "training" in err and "warning" not in err
    entries = json.loads(out)["methods"]
    assert [m["method"] for m in entries] == ["dense", "asymmetric", "asymmetric"]
    _, _, err = call(*command, "--overwrite", "--methods", "dense,binary")
    assert "training" not in err


def test_an_older_report_is_replaced_with_overwrite_alone(made, tmp_path):
    command = ["evaluate", made / "table.npy", "-o", tmp_path / "report", "--queries", 120]
    succeed(*command, "--methods", "dense")
    refused(tmp_path, "give --overwrite to replace it", *command, "--methods", "binary")
    succeed(*command, "--methods", "binary", "--overwrite")
    assert [m["method"] for m in methods_of(tmp_path / "report")] == ["binary"]


def test_everything_learns_from_the_same_rows(made, tmp_path):
    """Rows outside the sample are replaced by noise: no quantiser and no weight may change."""
    command = [
        "--queries",
        120,
        "--train-rows",
        300,
        "--bytes",
        8,
        *SMALL,
        "--methods",
        "dense,int8,pca,pca-int8,pq,rq,rabitq,ivf-pq:nprobe=8,hnsw:ef=100,asymmetric-all,"
        "asymmetric-all:values=float16:nonzeros=3",
    ]
    table = np.load(made / "table.npy")
    kept = np.sort(held_out_rows(600, 120)[1])
    sample = kept[np.sort(np.random.default_rng(0).permutation(480)[:300])]
    others = np.setdiff1d(kept, sample)
    other = table.copy()
    other[others] = np.random.default_rng(1).standard_normal((len(others), 16))
    np.save(tmp_path / "other.npy", other)
    scores = []
    for name, place in (("a", made / "table.npy"), ("b", tmp_path / "other.npy")):
        out = succeed("evaluate", place, "-o", tmp_path / name, *command)
        assert "Trained on 300 rows: int8, pca, pca-int8, pq, rq, rabitq, ivf-pq" in out
        assert "Not trained: dense, hnsw." in out
        with np.load(tmp_path / name / "hits.npz") as held:
            scores.append(
                [
                    dict(zip(ids.tolist(), row.tolist(), strict=True))
                    for i in range(11)
                    for ids, row in zip(held[f"{i}_ids"], held[f"{i}_scores"], strict=True)
                ]
            )
    compared = 0
    for a, b in zip(*scores, strict=True):
        for row in set(a) & set(b) & set(sample.tolist()):
            assert a[row] == pytest.approx(b[row], abs=1e-6)
            compared += 1
    assert compared > 11 * 120 * 10
    found = methods_of(tmp_path / "a")
    assert {m["trained_rows"] for m in found} == {0, 300}
    about = json.loads((tmp_path / "a" / "report.json").read_text())["about"]
    assert about["train_rows"] == about["model"]["training"]["rows"] == 300
    assert "learned from the same 300 of these rows" in (tmp_path / "a" / "report.md").read_text()


def test_rows_to_train_on_are_checked(made, tmp_path):
    command = ["evaluate", made / "table.npy", "-o", tmp_path / "report", "--queries", 120]
    refused(tmp_path, "expected at most 480", *command, "--train-rows", 481)
    refused(tmp_path, "leave out -m", *command, "--train-rows", 300, "-m", made / "model")


def test_a_table_of_queries_and_labels(made, tmp_path):
    queries = np.load(made / "queries.npy")
    items = np.load(made / "table.npy")
    cosine = queries @ items.T / np.linalg.norm(items, axis=1)
    second = np.argsort(-cosine, axis=1)[:, 1]
    lines = [f"{q}\t{item}\t1" for q, item in enumerate(second)]
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))
    out = succeed(
        "evaluate",
        made / "table.npy",
        "-o",
        tmp_path / "report",
        "--methods",
        "dense",
        "--queries",
        made / "queries.npy",
        "--qrels",
        tmp_path / "qrels.tsv",
    )
    assert "nDCG@10" in out and "MRR@10" in out
    metrics = methods_of(tmp_path / "report")[0]["metrics"]
    assert metrics["MRR@10"]["mean"] == 0.5
    assert metrics["nDCG@10"]["mean"] == pytest.approx(1 / np.log2(3))
    about = json.loads((tmp_path / "report" / "report.json").read_text())["about"]
    assert (about["items"], about["queries"]) == (600, 20)


def test_labels_of_held_out_rows_are_counted(made, tmp_path):
    held, kept = held_out_rows(600, 120)
    (tmp_path / "qrels").write_text(f"{held[0]} 0 {kept[0]} 1\n{held[0]} 0 {held[1]} 1\n")
    succeed(
        "evaluate",
        made / "table.npy",
        "-o",
        tmp_path / "report",
        "--methods",
        "dense",
        "--queries",
        120,
        "--qrels",
        tmp_path / "qrels",
    )
    about = json.loads((tmp_path / "report" / "report.json").read_text())["about"]
    assert about["labels_left_out"] == "1 of items that cannot be found"


def test_settings_come_from_a_file_and_the_command_line_wins(made, tmp_path):
    (tmp_path / "settings.yaml").write_text(
        f"embeddings: {made / 'table.npy'}\nmodel: {made / 'model'}\nqueries: 120\nbytes: [8, 12]\n"
        "methods:\n  - dense\n  - pq\n  - asymmetric: {candidates: [50, 150], nonzeros: 3}\n"
    )
    command = ["evaluate", "--settings", tmp_path / "settings.yaml", "-o", tmp_path / "report"]
    succeed(*command)
    assert [m["label"] for m in methods_of(tmp_path / "report")] == [
        "dense",
        "pq B=8",
        "pq B=12",
        "asymmetric k=3 C=50",
        "asymmetric k=3 C=150",
    ]
    few, many = methods_of(tmp_path / "report")[3:]
    assert "50 candidates for 100 results" in few["error"] and many["error"] is None
    succeed(*command, "--overwrite", "--methods", "pq,binary", "--bytes", "16")
    assert [m["label"] for m in methods_of(tmp_path / "report")] == ["pq B=16", "binary"]
    (tmp_path / "null.yaml").write_text("methods: [dense]\nbytes:\nlatents:\nqueries: 120\n")
    null = ("--settings", tmp_path / "null.yaml", "--overwrite")
    succeed("evaluate", made / "table.npy", *null, *command[-2:])
    wrong = tmp_path / "wrong.yaml"
    for text, said in (
        ("querys: 3", "no option 'querys'; expected some of batch, bytes"),
        ("- 3", "expected options by name"),
        ("a: [", "no YAML"),
        ("methods: 3", "expected names, separated by commas, or a list"),
        ("bytes: few", "expected bytes a row, such as 32,64"),
        ("latents: 64.9", "64.9' is not a valid integer"),
        ("queries: [3]", "queries: [3]; expected one value"),
        ("a: 2026-13-45", "no YAML"),
    ):
        wrong.write_text(text)
        refused(
            tmp_path,
            said,
            "evaluate",
            made / "table.npy",
            "--settings",
            wrong,
            "-o",
            tmp_path / "other",
        )
    refused(
        tmp_path,
        "does not exist",
        "evaluate",
        made / "table.npy",
        "--settings",
        tmp_path / "none.yaml",
        "-o",
        tmp_path / "other",
    )


def test_queries_that_may_have_been_trained_on_are_warned_of(made, tmp_path):
    code, _, err = call(
        "evaluate",
        made / "table.npy",
        "-m",
        made / "model",
        "-o",
        tmp_path / "report",
        "--queries",
        130,
        "--methods",
        "dense,asymmetric",
    )
    assert code == 0 and "may have seen the 130 queries" in err
    assert "Warning: the model was trained" in (
        tmp_path / "report" / "report.html"
    ).read_text() or ("may have seen" in (tmp_path / "report" / "report.json").read_text())


def test_failures_are_lines_and_the_others_are_reported(made, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "annoy", None)
    command = ["evaluate", made / "table.npy", "-o", tmp_path / "report", "--queries", 120]
    out = succeed(*command, "--methods", "dense,magic,annoy,qr-add,opq:train_rows=9", "--bytes", 4)
    assert "magic failed: unknown method; expected one of dense" in out.replace("\n", " ")
    assert "pip install 'compressae[baselines]'" in out.replace("\n", " ")
    assert "tell 480 rows apart" in out.replace("\n", " ")
    assert [m["error"] is None for m in methods_of(tmp_path / "report")] == [True] + [False] * 4
    before = methods_of(tmp_path / "report")
    code, _, err = call(*command, "--overwrite", "--methods", "magic")
    assert code == 1 and "every method failed: unknown method" in err
    assert methods_of(tmp_path / "report") == before  # Nothing is not written over something.


def test_bad_arguments_are_refused(made, tmp_path):
    command = ["evaluate", made / "table.npy", "-o", tmp_path / "report", "--methods"]
    refused(tmp_path, "expected NAME:SETTING=VALUE", *command, "pq:m", "--queries", 120)
    refused(tmp_path, "expected bytes a row", *command, "pq", "--queries", 120, "--bytes", "0")
    refused(tmp_path, "expected at least 1 row, or a table", *command, "dense", "--queries", "-3")
    refused(tmp_path, "no such file", *command, "dense", "--queries", tmp_path / "none.npy")
    refused(tmp_path, "lower --queries", *command, "dense")
    (tmp_path / "qrels").write_text("1 2 3 4 5\n")
    qrels = ["--queries", 120, "--qrels", tmp_path / "qrels"]
    refused(tmp_path, "line 1: '1 2 3 4 5'", *command, "dense", *qrels)
    refused(tmp_path, "No such file", *command, "dense", *qrels[:-1], tmp_path / "none")
    np.save(tmp_path / "narrow.npy", np.ones((3, 15), np.float32))
    refused(tmp_path, "15 columns", *command, "dense", "--queries", tmp_path / "narrow.npy")


def test_another_programs_report_is_left_alone(made, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "report.json").write_text("{}")
    (tmp_path / "project" / "notes.txt").write_text("mine")
    refused(
        tmp_path,
        "left as it is",
        "evaluate",
        made / "table.npy",
        "-m",
        made / "model",
        "-o",
        tmp_path / "project",
        "--queries",
        120,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("any_table", ["--bytes", "16"]),
        ("wordnet", ["--bytes", "16"]),
        ("quantisers", ["--bytes", "4", "--train-rows", 400]),
    ],
)
def test_the_settings_that_ship_measure_every_method(name, sizes, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100, 32))[rng.integers(0, 100, 500)]
    np.save(tmp_path / "table.npy", (rows + 0.5 * rng.standard_normal((500, 32))).astype("f4"))
    settings = Path(__file__).parents[2] / "scripts" / "examples" / f"{name}.yaml"
    succeed(
        "evaluate",
        tmp_path / "table.npy",
        "--settings",
        settings,
        "-o",
        tmp_path / "report",
        "--latents",
        128,
        "--steps",
        6,
        "--queries",
        30,
        *sizes,
    )
    failed = {m["label"]: m["error"] for m in methods_of(tmp_path / "report") if m["error"]}
    few = "too few"  # Of the tables that are shared, at 470 rows.
    assert all(few in error or "[baselines]" in error for error in failed.values()), failed
