"""Commands that change an index, tune it, or search part of it."""

import json
import shutil

import numpy as np
import pytest
import scipy.sparse
from code_forms import make_codes
from commands import call, succeed

from compressae import CompresSAE
from compressae.retrieval import Catalogue, CompressedIndex, InvertedIndex, exact_search, recall_at


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table, queries, an index of both kinds."""
    folder = tmp_path_factory.mktemp("living")
    rng = np.random.default_rng(0)
    table = rng.standard_normal((30, 16))[rng.integers(0, 30, 400)]
    table = (table + 0.3 * rng.standard_normal((400, 16))).astype(np.float32)
    np.save(folder / "table.npy", table)
    np.save(folder / "queries.npy", table[:5])
    model = CompresSAE(16, 64, 4, seed=0)
    model.settings = {"recipe": "pursuit"}
    codes = make_codes(model, table, nonzeros=6)
    Catalogue.write(folder / "index", CompressedIndex(model.projection, codes))
    Catalogue.write(folder / "lists", InvertedIndex(codes))
    return folder


@pytest.fixture
def own(made, tmp_path):
    """A copy of the indexes, to be changed."""
    for name in ("index", "lists"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def test_tune_writes_the_fastest_setting_into_the_index(made, own):
    out = succeed("tune", own / "index", made / "table.npy", "-k", 5, "--recall", 0.9, "--json")
    said = json.loads(out)
    index = Catalogue.open(own / "index").index
    assert (index.query_nonzeros, index.candidates) == (said["query_nonzeros"], said["candidates"])
    assert said["recall_of_scan"] >= 0.9 and said["tried"][0]["p50_ms"] == said["p50_ms"]
    truth = index.search(np.load(made / "table.npy"), 5, candidates="all").ids
    found = index.search(np.load(made / "table.npy"), 5).ids
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(truth, found, strict=True)]
    assert np.mean(shared) == pytest.approx(said["recall_of_scan"])
    command = ["tune", own / "index", made / "queries.npy", "-k", 5, "--exact", made / "table.npy"]
    text = succeed(*command)
    assert "recall_of_scan: " in text and "recall_of_exact_cosine: " in text
    said = json.loads(succeed(*command, "--json"))
    queries = np.load(made / "queries.npy")
    exact = exact_search(np.load(made / "table.npy"), queries, 5).ids
    ids = Catalogue.open(own / "index").index.search(queries, 5).ids
    assert said["recall_of_exact_cosine"] == pytest.approx(recall_at(ids, exact, 5))
    code, _, err = call("tune", own / "index", made / "queries.npy", "-k", 400)
    assert code == 1 and "nothing to tune" in err
    assert call("tune", own / "lists", made / "queries.npy")[0] == 1


def test_update_removes_replaces_and_adds(made, own):
    table = np.load(made / "table.npy")
    files = {"gone": [1, 2], "ids": [0, 1, 900], "all": range(400), "same": [7, 7], "x": [0.5]}
    for name, ids in files.items():
        np.save(own / f"{name}.npy", np.array(ids))
    np.save(own / "new.npy", table[[5, 6, 7]])
    command = ["update", own / "index", "--remove", own / "gone.npy", "--add", own / "new.npy"]
    said = json.loads(succeed(*command, "--ids", own / "ids.npy", "--json"))
    assert (said["rows"], said["added"], said["replaced"], said["removed"]) == (400, 2, 1, 2)
    index = Catalogue.open(own / "index").index
    hits = index.search(table[[5, 6, 7]], 20)
    assert {0, 5} <= set(hits.ids[0]) and {1, 6} <= set(hits.ids[1]) and 900 in hits.ids[2]
    assert 2 not in hits.ids

    def files():  # The lock may stay.
        found = sorted((own / "index").rglob("*.*"))
        return [path for path in found if path.name != "writer.lock"]

    before = files()
    for wrong, message in [
        (["--remove", own / "gone.npy"], "id 2 is not in the index"),
        (["--remove", own / "same.npy"], "id 7 is given more than once"),
        (["--remove", own / "x.npy"], "whole numbers"),
        (["--add", own / "new.npy", "--ids", own / "gone.npy"], "2 ids for 3 rows"),
        (["--add", own / "none.npy"], "none.npy"),
    ]:
        code, _, err = call("update", own / "index", *wrong)
        assert code == 1 and message in err and err.count("\n") == 1, err
    assert call("update", own / "index")[0] == 2
    assert (
        call("update", own / "index", "--ids", own / "ids.npy", "--remove", own / "x.npy")[0] == 2
    )
    assert files() == before
    np.save(own / "all.npy", np.array([*range(400), 900])[[0, 1, *range(3, 401)]])
    said = json.loads(succeed("update", own / "index", "--remove", own / "all.npy", "--json"))
    assert (said["rows"], said["version"]) == (0, 3)
    assert succeed("search", own / "index", own / "new.npy", "-k", 2).splitlines()[0] == "0: "
    said = json.loads(succeed("update", own / "index", "--rollback", 2, "--prune", 1, "--json"))
    assert (said["rows"], said["version"]) == (400, 4) and said["bytes_freed"] > 0
    np.testing.assert_array_equal(
        Catalogue.open(own / "index").search(table[[5, 6, 7]], 20).ids, hits.ids
    )
    assert json.loads(succeed("update", own / "index", "--compact", "--json"))["version"] == 5
    text = succeed("info", own / "index", "--verify")
    assert "400 rows in 1 segments, 0 removed rows among them" in text and "verified" in text
    for wrong in (["--rollback", 2, "--compact"], ["--rollback", 2, "--add", own / "new.npy"]):
        assert call("update", own / "index", *wrong)[0] == 2
    rows = scipy.sparse.random_array((2, 64), density=0.1, rng=np.random.default_rng(0))
    scipy.sparse.save_npz(own / "rows.npz", scipy.sparse.csr_array(rows))
    code, _, err = call("update", own / "lists", "--add", own / "rows.npz")
    assert code == 1 and "expected packed codes" in err


def test_search_among_allowed_ids_and_with_a_dense_stage(made, tmp_path):
    table = np.load(made / "table.npy")
    np.save(tmp_path / "some.npy", np.arange(0, 400, 7))
    np.save(tmp_path / "flags.npy", np.arange(400) % 7 == 0)
    command = ["search", made / "index", made / "queries.npy", "-k", 4, "--json"]
    for name in ("some.npy", "flags.npy"):
        lines = [
            json.loads(line)
            for line in succeed(*command, "--allowed", tmp_path / name).splitlines()
        ]
        assert all(one % 7 == 0 for line in lines for one in line["ids"])
    out = succeed(*command, "--rerank", made / "table.npy", "--rerank-candidates", 60)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    for query, line in enumerate(map(json.loads, out.splitlines())):
        np.testing.assert_allclose(line["scores"], unit[line["ids"]] @ unit[query], atol=1e-5)
        assert line["ids"][0] == query
    code, _, err = call(*command, "--rerank", made / "queries.npy")
    assert code == 1 and "the embeddings of the indexed items" in err
    code, _, err = call(*command, "--rerank-candidates", 60)
    assert code == 1 and "give the embeddings to read" in err
    code, _, err = call(*command, "--allowed", made / "table.npy")
    assert code == 1 and "expected a .npy of ids or flags" in err


def test_damaged_files_are_one_line(made, own):
    scipy.sparse.save_npz(own / "rows.npz", scipy.sparse.eye_array(64, format="csr"))
    whole = (own / "rows.npz").read_bytes()
    (own / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (own / "bad.npz").write_bytes(whole[:60] + b"damage" + whole[66:])
    np.save(own / "one.npy", np.array(5))
    for command in (
        ["update", own / "lists", "--remove", own / "cut.npz"],
        ["update", own / "lists", "--remove", own / "one.npy"],
        ["update", own / "lists", "--add", own / "cut.npz"],
        ["update", own / "lists", "--add", own / "bad.npz"],
        ["search", own / "index", made / "queries.npy", "--allowed", own / "cut.npz"],
        ["search", own / "lists", own / "bad.npz"],
        ["index", own / "cut.npz", "-o", own / "new"],
    ):
        code, _, err = call(*command)
        assert code == 1 and err.count("\n") == 1, (command, err)
    assert not (own / "new").exists()


def test_a_sparse_matrix_is_indexed_and_changed(own):
    rows = scipy.sparse.random_array((50, 30), density=0.2, rng=np.random.default_rng(0))
    scipy.sparse.save_npz(own / "rows.npz", scipy.sparse.csr_array(rows))
    succeed("index", own / "rows.npz", "-o", own / "matrix")
    lines = succeed("search", own / "matrix", own / "rows.npz", "-k", 1, "--json").splitlines()
    found = InvertedIndex(rows).search(rows, 1)
    assert [json.loads(line)["ids"] for line in lines] == found.ids.tolist()
    said = json.loads(succeed("update", own / "matrix", "--add", own / "rows.npz", "--json"))
    assert said["rows"] == 100
    code, _, err = call("search", own / "matrix", own / "rows.npz", "--candidates", 9)
    assert code == 2 and "made with -m MODEL" in err


def test_rows_named_by_texts_are_indexed_changed_and_found(made, tmp_path):
    matrix = scipy.sparse.random_array((6, 20), density=0.5, rng=np.random.default_rng(0))
    scipy.sparse.save_npz(tmp_path / "rows.npz", matrix.tocsr())
    for name, texts in {"ids": "abcdef", "gone": "ac", "some": "bdx", "new": "uvwxyz"}.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"{text}\n" for text in texts))
    index, rows = tmp_path / "index", tmp_path / "rows.npz"
    succeed("index", rows, "-o", index, "--ids", tmp_path / "ids.txt")
    succeed("update", index, "--remove", tmp_path / "gone.txt")
    lines = succeed("search", index, rows, "-k", 9, "--json").splitlines()
    assert set(json.loads(lines[0])["ids"]) <= set("bdef")
    assert json.loads(lines[1])["ids"][0] == "b"
    some = succeed("search", index, rows, "--allowed", tmp_path / "some.txt", "--json")
    assert {one for line in some.splitlines() for one in json.loads(line)["ids"]} == {"b", "d"}
    said = succeed("update", index, "--add", rows, "--ids", tmp_path / "new.txt", "--json")
    assert json.loads(said)["rows"] == 10
    np.save(tmp_path / "numbers.npy", np.arange(2))
    for command in (
        ["update", index, "--remove", tmp_path / "numbers.npy"],
        ["update", index, "--add", rows],
        ["search", index, rows, "--allowed", tmp_path / "numbers.npy"],
    ):
        code, _, err = call(*command)
        assert code == 1 and err.count("\n") == 1 and "texts" in err, err
