"""A recommender's commands: dot products, exclusion, ids, evaluation by interactions."""

import json

import numpy as np
import pytest
import scipy.sparse
from commands import call, refused, succeed
from factor_tables import USERS, N, factors, seen_by

from compressae.retrieval import Catalogue, exact_search, recall_at


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables, pairs, a model and an index made by commands."""
    folder = tmp_path_factory.mktemp("recommender")
    items, users = factors()
    np.save(folder / "items.npy", items)
    np.save(folder / "users.npy", users)
    np.save(folder / "ids.npy", np.arange(N) * 5)
    seen = seen_by()
    scipy.sparse.save_npz(folder / "seen.npz", seen)
    scores = np.where(seen.toarray() > 0, -np.inf, users @ items.T)
    best = np.argsort(-scores, axis=1)[:, [1, 3, 40]]
    pairs = np.stack([np.repeat(np.arange(USERS), 3), best.ravel()])
    np.savez(folder / "test.npz", user=pairs[0], item=pairs[1])
    succeed(
        "train", folder / "items.npy", "-o", folder / "model", "--similarity", "dot",
        "--latents", 64, "--nonzeros", 4, "--steps", 4,
    )  # fmt: skip
    succeed(
        "index", folder / "items.npy", "-m", folder / "model", "-o", folder / "index",
        "--residual-bytes", 8, "--queries", folder / "users.npy", "--ids", folder / "ids.npy",
    )  # fmt: skip
    return folder


def test_a_table_with_rows_of_zeros_is_served(folder):
    """As exported from nn.Embedding(padding_idx=0)."""
    index = Catalogue.open(folder / "index").index
    items, users = factors()
    assert index.similarity == "dot" and len(index) == N
    truth = exact_search(items, users, 10, "dot").ids * 5
    assert recall_at(index.search(users, 10).ids, truth, 10) > 0.7
    assert "similarity dot" in succeed("info", folder / "index")
    text = succeed("info", folder / "index", "--json")
    assert json.loads(text)["settings"]["codes"]["made"]["similarity"] == "dot"


def test_cosine_refuses_them(folder):
    refused(
        folder, "row 0 is all zeros", "train", folder / "items.npy", "-o", folder / "other",
        "--latents", 64, "--nonzeros", 4,
    )  # fmt: skip


def test_search_leaves_out_what_was_seen(folder, tmp_path):
    pairs = scipy.sparse.load_npz(folder / "seen.npz").tocoo()
    np.savez(tmp_path / "seen.npz", user=pairs.row, item=pairs.col * 5)  # By id.
    out = tmp_path / "hits.npz"
    succeed(
        "search", folder / "index", folder / "users.npy", "-k", 15, "--exclude",
        tmp_path / "seen.npz", "-o", out,
    )  # fmt: skip
    ids = np.load(out)["ids"]
    seen = seen_by()
    assert ids.shape == (USERS, 15) and (ids % 5 == 0).all()
    assert not any(np.isin(row // 5, seen[[i]].indices).any() for i, row in enumerate(ids))


def test_users_may_be_codes(folder, tmp_path):
    succeed(
        "encode", folder / "users.npy", "-m", folder / "model", "-o", tmp_path / "users",
        "--values", "float32", "--nonzeros", 16,
    )  # fmt: skip
    found = succeed("search", folder / "index", tmp_path / "users", "-k", 5, "--json")
    exact = succeed("search", folder / "index", folder / "users.npy", "-k", 5, "--json")
    first, second = ([json.loads(line)["ids"] for line in t.splitlines()] for t in (found, exact))
    assert recall_at(np.array(first), np.array(second), 5) > 0.8


def test_more_users_than_queries_are_refused(folder, tmp_path):
    np.savez(tmp_path / "more.npz", user=np.array([USERS]), item=np.array([0]))
    refused(
        tmp_path, f"{USERS + 1} users, but {USERS} queries", "search", folder / "index",
        folder / "users.npy", "--exclude", tmp_path / "more.npz",
    )  # fmt: skip


def test_ids_that_do_not_fit_are_refused_before_rows_are_coded(folder, tmp_path):
    np.save(tmp_path / "few.npy", np.arange(3))
    refused(
        tmp_path, f"3 ids for {N} rows", "index", folder / "items.npy", "-m", folder / "model",
        "-o", tmp_path / "index", "--ids", tmp_path / "few.npy",
    )  # fmt: skip


def test_evaluate_by_interactions(folder, tmp_path):
    out = succeed(
        "evaluate", folder / "items.npy", "-m", folder / "model", "--queries",
        folder / "users.npy", "--interactions", folder / "seen.npz", "--test", folder / "test.npz",
        "--users", 40, "--bytes", 14, "-o", tmp_path / "report", "--json",
        "--methods", "dense,asymmetric-all,asymmetric-all:budget=16:residual_bytes=6",
    )  # fmt: skip
    methods = json.loads(out)["methods"]
    assert [m["error"] for m in methods] == [None] * 3
    figures = [m["metrics"] for m in methods]
    assert figures[0]["recall@20"]["mean"] == 1
    assert figures[0]["held-out recall@20"]["mean"] == pytest.approx(2 / 3, abs=0.01)
    assert all(f["recall@20"]["mean"] > 0.6 for f in figures)
    assert all(0 < f["coverage@20"]["mean"] <= 1 for f in figures)
    assert methods[2]["code_bytes"] <= 16
    about = json.loads((tmp_path / "report" / "report.json").read_text())["about"]
    assert about["similarity"] == "dot" and about["held_out_pairs"] == 120
    page = (tmp_path / "report" / "report.html").read_text()
    assert "coverage@20" in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--interactions", "seen.npz"], "--interactions and --test go together"),
        (["--interactions", "seen.npz", "--test", "test.npz"], "need --queries TABLE"),
    ],
)
def test_options_that_do_not_go_together(folder, tmp_path, options, said):
    paths = [folder / o if o.endswith(".npz") else o for o in options]
    code, _, err = call("evaluate", folder / "items.npy", "-o", tmp_path / "report", *paths)
    assert code == 2 and said in err


def test_check_takes_a_table_with_rows_of_zeros(folder):
    code, out, err = call("check", folder / "model", folder / "items.npy", "--json")
    assert code == 0, err
    assert json.loads(out)["verdict"] == "fits"


def test_update_adds_rows_of_zeros_too(folder, tmp_path):
    import shutil

    shutil.copytree(folder / "index", tmp_path / "index")
    np.save(tmp_path / "new.npy", np.stack([np.zeros(16), np.ones(16)]).astype(np.float32))
    out = succeed("update", tmp_path / "index", "--add", tmp_path / "new.npy", "--json")
    assert json.loads(out)["added"] == 2
    assert len(Catalogue.open(tmp_path / "index").index) == N + 2
