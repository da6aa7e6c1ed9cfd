"""The benchmark scripts, on a small table."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run(name, *arguments):
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 16))
    rows = centres[rng.integers(0, 200, 12_500)] + 0.5 * rng.standard_normal((12_500, 16))
    path = tmp_path_factory.mktemp("scripts") / "table.npy"
    np.save(path, rows.astype(np.float32))
    return path


@pytest.mark.slow
def test_the_curve_resumes_and_keeps_tables_apart(table, tmp_path):
    out = tmp_path / "curve"
    for only in ("PCA-8*", "ours h=4096 k=5"):
        done = run("reproduce_paper.py", table, out, "--train-rows", 10_000, "--only", only)
        assert done.returncode == 0, done.stderr
    records = {r["method"]: r for r in map(json.loads, map(Path.read_text,
               (out / "records").iterdir()))}  # fmt: skip
    assert set(records) == {"PCA-8 float32", "ours h=4096 k=5"}
    ours = records["ours h=4096 k=5"]
    assert ours["code_bytes"] == pytest.approx(10, abs=0.01)  # 5 · (12 + 2) bits and a gain.
    assert 0.3 < records["PCA-8 float32"]["recall100"] < ours["recall100"] <= 1
    page = (out / "table.md").read_text()
    assert "11,500 rows searched, 10,000 trained on" in page and "| ours h=4096 k=5 |" in page
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    before = (out / "records" / "ours h=4096 k=5.json").stat().st_mtime_ns
    again = run("reproduce_paper.py", table, out, "--train-rows", 10_000, "--only", "ours*k=5")
    assert again.returncode == 0
    assert (out / "records" / "ours h=4096 k=5.json").stat().st_mtime_ns == before
    other = run("reproduce_paper.py", table, out, "--only", "PCA-8*")
    assert other.returncode == 2 and "name another folder" in other.stderr


def test_unknown_methods_are_named(table, tmp_path):
    done = run("reproduce_paper.py", table, tmp_path / "out", "--only", "magic")
    assert done.returncode == 2 and "--list names them" in done.stderr
    listed = run("reproduce_paper.py", table, tmp_path / "out", "--list").stdout.splitlines()
    assert {"OPQ64", "RQ128", "paper sparse k=32", "ours h=16384 k=16+97"} <= set(listed)
    assert not (tmp_path / "out").exists()


def test_rescoring_is_timed_without_an_error():
    done = run("bench_rescore.py", 5000)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| packed")]
    assert len(rows) == 4 and all("| 29.0 |" in r or "| 61.0 |" in r for r in rows)


@pytest.mark.slow
def test_search_is_timed_beside_what_is_installed(table, tmp_path):
    """Peers that are missing (in CI: SINDI, Seismic, hnswlib, usearch, annoy) are named."""
    few = ("--rounds", 1, "--queries", 20)
    done = run("bench_search.py", "sparse", tmp_path, "--rows", 5000, *few)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "sparse.json").read_text())
    exact = [p for p in record["points"] if p["engine"].startswith(("compressae", "scipy"))]
    assert len(exact) == 8 and all(p["recall"] >= 0.9999 for p in exact)
    lists = [p["more"]["bytes_a_posting"] for p in exact if p["engine"] == "compressae int8"]
    assert all(3 < one < 3.2 for one in lists)
    done = run("bench_search.py", "growth", tmp_path, "--most", 30_000, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "growth.json").read_text())["points"]
    assert [p["rows"] for p in points] == [10_000, 30_000] * 2
    for picture in ("sparse.png", "growth.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_dense_search_is_timed_beside_faiss(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 64))[rng.integers(0, 200, 11_000)]
    np.save(tmp_path / "table.npy", (rows + rng.standard_normal(rows.shape)).astype(np.float32))
    done = run(
        "bench_search.py", "dense", tmp_path / "table.npy", tmp_path / "out", "--rounds", 1,
        "--queries", 20, "--codes", "8+48", "--rows", 12_000,
        "--without", "PQ,RaBitQ,SQ,hnswlib,usearch,annoy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "out" / "dense.json").read_text())["points"]
    assert {p["rows"] for p in points} == {12_000}
    by_name = {(p["engine"], p["setting"]): p for p in points}
    assert by_name["faiss Flat", ""]["recall"] == 1
    assert by_name["faiss Flat", ""]["bytes_an_item"] == 256
    scan = by_name["compressae 8+48", "scan"]
    assert scan["bytes_an_item"] == pytest.approx(63, abs=0.01) and 0.5 < scan["recall"] < 1
    disk = by_name["compressae 8+48", "kq 128, C 1000, 80 rows from disk"]
    assert disk["recall"] > scan["recall"] and disk["bytes_an_item"] > 63
    assert not (tmp_path / "out" / "corpus.npy").exists()


@pytest.mark.slow
def test_the_gpu_benchmark_runs_all_its_parts(tmp_path):
    """In Triton's interpreter: every call is made, and its times mean nothing."""
    pytest.importorskip("triton", reason="needs triton, which has wheels for Linux alone")
    done = run("bench_gpu.py", tmp_path / "out", "--smoke")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert report["failed"] == [] and not report["measured"]
    names = {row["name"].split(",")[0] for row in report["rows"]}
    assert {
        "encode",
        "sparse_t_matmul",
        "training",
        "scan",
        "posting lists",
        "GpuIndex.search",
    } <= names
    assert all(row["ms"] > 0 for row in report["rows"])
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "smoke run: times mean nothing" in page and "| scan | 600 rows, 1 queries |" in page


def test_training_with_a_gpus_roundings_is_as_good():
    done = run("train_rounded.py", "--steps", 30, "--latents", 256)
    assert done.returncode == 0, done.stderr
    cosines = dict(line.split() for line in done.stdout.splitlines())
    assert float(cosines["bfloat16"]) == pytest.approx(float(cosines["float32"]), abs=0.005)
    assert float(cosines["float32"]) > 0.5


def test_the_gpu_benchmark_needs_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run("bench_gpu.py", tmp_path / "out")
    assert done.returncode == 1 and "torch finds no GPU here" in done.stderr
    assert run("bench_gpu.py", tmp_path / "out", "--smoke", "--parts", "x").returncode == 2
    assert not (tmp_path / "out").exists()


def test_the_gpu_scripts_need_a_folder_that_they_may_write(tmp_path):
    (tmp_path / "file").write_text("kept")
    done = run("bench_gpu.py", tmp_path / "file" / "out", "--smoke")
    assert done.returncode == 1 and done.stderr.startswith("Error: [Errno"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    for folder, status in (([], 2), ([tmp_path / "file"], 1)):
        done = subprocess.run(["bash", SCRIPTS / "gpu", *folder], capture_output=True, text=True)
        assert done.returncode == status and len(done.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "kept"
