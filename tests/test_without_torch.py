"""Serving without torch: a search runs where ``import torch`` raises."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from compressae import CompresSAE, compress, encode, encode_like
from compressae.retrieval import Catalogue, CompressedIndex, InvertedIndex

ROOT = Path(__file__).parents[1]
N, D, H = 400, 16, 64

#: Everything from a saved index to Hits, in a process that cannot import torch.
SEARCH = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton"):
            raise ImportError(f"{name} is refused here")

sys.meta_path.insert(0, Refuse())
import numpy as np
from compressae.retrieval import Catalogue, CompressedIndex, Projection, load_codes, tune

folder, answers = sys.argv[1], {}
queries, table = np.load(f"{folder}/queries.npy"), f"{folder}/table.npy"
for name in ("packed", "plain"):
    index = Catalogue.open(f"{folder}/{name}").index
    for scoring in ("asymmetric", "sparse", "reconstructed"):
        answers[f"{name} {scoring}"] = index.search(queries, 5, scoring).ids
    answers[f"{name} all"] = index.search(queries, 5, candidates="all").ids
    answers[f"{name} allowed"] = index.search(queries, 5, allowed=np.arange(0, 400, 3)).ids
    answers[f"{name} reranked"] = index.search(queries, 5, rerank=table).ids
    codes = load_codes(f"{folder}/codes-{name}")
    built = CompressedIndex(Projection.load(f"{folder}/model"), codes)
    answers[f"{name} built"] = built.search(queries, 5).ids
    index.remove(np.arange(50))
    index.add(load_codes(f"{folder}/more-{name}"))
    index.update([60, 61], load_codes(f"{folder}/more-{name}").take(np.arange(2)))
    answers[f"{name} changed"] = index.search(queries, 5, candidates="all").ids
    index.compact()
    Catalogue.write(f"{folder}/{name}-saved", index)
    tune(index, queries, 5, 0.9)
lists = Catalogue.open(f"{folder}/lists").index
answers["lists"] = lists.search(lists.codes.take(np.arange(3)), 5).ids
assert not {"torch", "triton"} & set(sys.modules)
print(json.dumps({name: ids.tolist() for name, ids in answers.items()}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(0)
    table = rng.standard_normal((N, D)).astype(np.float32)
    np.save(folder / "table.npy", np.concatenate([table, table[:9] + 0.1]))
    np.save(folder / "queries.npy", table[:7] + 0.1)
    model = CompresSAE(D, H, 4, seed=0)
    model.save(folder / "model")
    for name, codes in (
        ("packed", compress(model, table, residual_bytes=4)),
        ("plain", encode(model, table)),
    ):
        codes.save(folder / f"codes-{name}")
        encode_like(model, table[:9] + 0.1, codes).save(folder / f"more-{name}")
        Catalogue.write(folder / name, CompressedIndex(model.projection, codes))
    Catalogue.write(
        folder / "lists", InvertedIndex(scipy.sparse.random_array((N, H), density=0.2, rng=rng))
    )
    return folder


def test_a_search_needs_no_torch(folder):
    command = [sys.executable, "-c", SEARCH, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 17
    queries = np.load(folder / "queries.npy")
    for name in ("packed", "plain"):
        index = Catalogue.open(folder / name).index
        for scoring in ("asymmetric", "sparse", "reconstructed"):
            ids = index.search(queries, 5, scoring).ids
            np.testing.assert_array_equal(answers[f"{name} {scoring}"], ids)
        assert answers[f"{name} built"] == answers[f"{name} asymmetric"]
        assert (np.array(answers[f"{name} allowed"]) % 3 == 0).all()
        reranked = index.search(queries, 5, rerank=folder / "table.npy").ids
        np.testing.assert_array_equal(answers[f"{name} reranked"], reranked)
        changed = np.array(answers[f"{name} changed"])
        assert not np.isin(changed, np.arange(50)).any() and (changed >= 400).any()


@pytest.mark.parametrize("command", ["info", "search", "export", "--help"])
def test_commands_that_serve_start_without_torch(folder, tmp_path, command):
    arguments = {
        "info": ["info", folder / "packed"],
        "search": ["search", folder / "packed", folder / "queries.npy", "-k", 3],
        "export": ["export", folder / "packed", "--to", "scipy", "-o", tmp_path / "rows.npz"],
        "--help": ["--help"],
    }[command]
    code = (
        "import sys; from compressae.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "sys.exit('torch' in sys.modules and 'torch was imported')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize("command", ["train", "encode", "index", "evaluate", "check", "search"])
def test_a_wrong_path_is_named_before_anything_heavy_is_imported(tmp_path, command):
    code = (
        "import sys\n"
        "from compressae.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    assert not {'torch', 'numba', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(tmp_path / "none.npy"), "-o", "out"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"Error: {tmp_path / 'none.npy'}: no such f")
    assert len(done.stderr.splitlines()) == 1
