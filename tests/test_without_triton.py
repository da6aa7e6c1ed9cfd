"""Everything a CPU does, where Triton is not installed; a GPU asks for it by its extra."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]

#: Runs before anything else in a process: ``import triton`` raises, and nothing finds it.
WITHOUT = "import sys; sys.modules['triton'] = None\n"

#: Training, compression and search in Python, then what a GPU would be told.
WORK = """
import json, sys
import numpy as np
from unittest import mock
from compressae import InputError, TrainConfig, compress, encode, train
from compressae.retrieval import Catalogue, CompressedIndex, GpuIndex

folder = sys.argv[1]
table = np.load(f"{folder}/table.npy")
answers = {}
for recipe in ("pursuit", "autoencoder"):
    model = train(table, TrainConfig(latents=64, nonzeros=4, steps=6, batch=64, recipe=recipe))
    for form, codes in (("packed", compress(model, table, residual_bytes=4)),
                        ("plain", encode(model, table))):
        index = CompressedIndex(model.projection, codes)
        answers[f"{recipe} {form}"] = index.search(table[:20], 5).ids.tolist()
refusals = []
with mock.patch("torch.cuda.is_available", lambda: True), \\
     mock.patch("torch.cuda.device_count", lambda: 1):
    train(table[:40], TrainConfig(latents=16, nonzeros=1, steps=1), device="auto")
    for work in (
        lambda: train(table, device="cuda"),
        lambda: compress(model, table, device="cuda"),
        lambda: GpuIndex(index, "cuda"),
    ):
        try:
            work()
        except InputError as error:
            refusals.append(str(error))
print(json.dumps([answers, refusals]))
"""

#: The command line, as a console script calls it.
COMMAND = "from compressae.cli import main; main(sys.argv[1:])"


def run(code, *arguments):
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_triton")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 16))[rng.integers(0, 30, 400)]
    rows = (rows + 0.3 * rng.standard_normal((400, 16))).astype(np.float32)
    np.save(folder / "table.npy", rows)
    np.save(folder / "queries.npy", rows[:5])
    return folder


@pytest.mark.slow
def test_training_codes_and_search_need_no_triton(folder):
    done = run(WORK, folder)
    assert done.returncode == 0, done.stderr
    answers, refusals = json.loads(done.stdout)
    assert len(answers) == 4
    for name in ("pursuit packed", "autoencoder packed"):
        nearest = np.array(answers[name])[:, 0]
        assert (nearest == np.arange(20)).mean() >= 0.8, name
    cure = "device 'cuda' (on Linux) needs triton; pip install 'compressae[gpu]'"
    assert refusals == [cure] * 3


@pytest.mark.slow
def test_the_command_line_needs_no_triton(folder):
    table, model, index = folder / "table.npy", folder / "model", folder / "index"
    small = ["--latents", 64, "--nonzeros", 4, "--steps", 6, "--batch", 64]
    for arguments in (
        ["train", table, "-o", model, *small],
        ["index", table, "-m", model, "-o", index, "--residual-bytes", 4],
        ["search", index, folder / "queries.npy", "-k", 3, "--json"],
    ):
        done = run(COMMAND, *arguments)
        assert done.returncode == 0, done.stderr
    hits = [json.loads(line)["ids"] for line in done.stdout.splitlines()]
    assert (np.array(hits) == np.arange(5)[:, None]).any(axis=1).mean() >= 0.8


def test_triton_is_asked_for_by_the_extras_that_run_its_kernels():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert not [line for line in project["dependencies"] if "triton" in line]
    assert [line for line in extras["test"] if "triton" in line] == extras["gpu"]
    assert len(extras["gpu"]) == 1 and "linux" in extras["gpu"][0]
