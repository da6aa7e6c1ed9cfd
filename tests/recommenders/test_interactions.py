"""Reading pairs, and splitting them."""

import numpy as np
import pytest
from recommender_data import blocks, write
from recommenders.interactions import bet_split, fingerprint, hold_out, read_split
from scipy.sparse import csr_array

from compressae.retrieval.errors import InputError


def pairs(matrix):
    found = matrix.tocoo()
    return set(zip(found.row.tolist(), found.col.tolist(), strict=True))


def named(arrays, part):
    users, items = arrays[f"{part}_user"], arrays[f"{part}_item"]
    return set(zip(users.tolist(), items.tolist(), strict=True))


@pytest.fixture
def arrays():
    return blocks()


@pytest.fixture
def split(arrays, tmp_path):
    return read_split(write(tmp_path / "pairs.npz", arrays))


def test_the_split_is_as_in_the_file_in_any_order(arrays, split, tmp_path):
    assert pairs(split.train) == named(arrays, "train")
    assert pairs(split.test) == named(arrays, "test")
    assert (split.n_users, split.n_items, split.valid.nnz) == (120, 80, 0)
    order = np.random.default_rng(0).permutation(len(arrays["train_user"]))
    for name in ("train_user", "train_item"):
        arrays[name] = arrays[name][order].astype(np.uint64)
    again = read_split(write(tmp_path / "mixed.npz", arrays))
    np.testing.assert_array_equal(again.train.indices, split.train.indices)
    np.testing.assert_array_equal(again.train.indptr, split.train.indptr)
    assert again.train.data.dtype == np.float32 and set(again.train.data) == {1.0}


def test_users_without_test_pairs_are_allowed(arrays, tmp_path):
    kept = arrays["test_user"] > 9
    arrays["test_user"], arrays["test_item"] = arrays["test_user"][kept], arrays["test_item"][kept]
    found = read_split(write(tmp_path / "pairs.npz", arrays)).test
    assert np.diff(found.indptr)[:10].sum() == 0 and found.nnz == kept.sum()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda a: a.pop("test_item"), "no array test_item; expected n_users, n_items, train_user"),
        (lambda a: a.update(train_user=a["train_user"] - 1), "train_user holds -1"),
        (lambda a: a.update(n_items=np.int64(79)), "item holds 79; expected ids from 0 to n_items"),
        (lambda a: a.update(n_users=np.int64(121)), "1 users have no training pair, the first 120"),
        (lambda a: a.update(test_user=a["test_user"][1:]), "test_user has 359 entries and test_i"),
        (lambda a: a.update(train_user=a["train_user"] * 1.0), "train_user is float64 of shape"),
        (lambda a: a.update(n_users=np.arange(2)), "n_users is int64 of shape (2,)"),
    ],
)
def test_bad_files_get_one_clear_line(arrays, tmp_path, change, said):
    change(arrays)
    path = write(tmp_path / "bad.npz", arrays)
    with pytest.raises(InputError) as error:
        read_split(path)
    assert said in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_copies_and_test_pairs_in_training_are_named(arrays, tmp_path):
    user, item = arrays["train_user"][17], arrays["train_item"][17]
    for part, said in (
        ("train", "1 train pairs are there twice"),
        ("test", "1 test pairs are tra"),
    ):
        bad = dict(arrays)
        bad[f"{part}_user"] = np.append(bad[f"{part}_user"], user)
        bad[f"{part}_item"] = np.append(bad[f"{part}_item"], item)
        with pytest.raises(InputError, match=f"{said}.*user {user} with item {item};"):
            read_split(write(tmp_path / "bad.npz", bad))


def test_no_file_and_another_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_split(tmp_path / "none.npz")
    for name, content in (("text.npz", b"user item\n"), ("cut.npz", b"PK\x03\x04 cut")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not an .npz of plain arrays"):
            read_split(tmp_path / name)
    np.save(tmp_path / "one.npy", np.arange(3))
    with pytest.raises(InputError, match="not an .npz of plain arrays"):
        read_split(tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", **{**blocks(), "train_user": np.array([{}], object)})
    with pytest.raises(InputError, match="not an .npz of plain arrays"):
        read_split(tmp_path / "objects.npz")


def lines(arrays, part):
    """A part as LightGCN's files have it, users without pairs too."""
    users, items = arrays[f"{part}_user"], arrays[f"{part}_item"]
    return [" ".join(map(str, [u, *items[users == u]])) for u in range(int(arrays["n_users"]))]


def test_a_folder_of_text_is_the_same_as_its_arrays(arrays, split, tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("\n".join(lines(arrays, part)) + " \n\n")
    found = read_split(tmp_path)
    for part in ("train", "test"):
        assert (getattr(found, part) != getattr(split, part)).nnz == 0
    assert fingerprint(found.train) == fingerprint(split.train)


def test_text_of_yelp2018s_form_is_read(tmp_path):
    """As LightGCN's code has it: items in any order, users without test items, no last newline."""
    (tmp_path / "train.txt").write_text("0 4 0 2\n1 3\n2 1 0")
    (tmp_path / "test.txt").write_text("0 1\n1 \n2 5 4")
    split = read_split(tmp_path)
    assert (split.n_users, split.n_items) == (3, 6)
    assert pairs(split.train) == {(0, 0), (0, 2), (0, 4), (1, 3), (2, 0), (2, 1)}
    assert pairs(split.test) == {(0, 1), (2, 4), (2, 5)}
    whole = bet_split(split, 0)
    assert [part.nnz for part in (whole.train, whole.valid, whole.test)] == [5, 2, 2]


def test_bad_text_gets_one_clear_line(arrays, tmp_path):
    with pytest.raises(InputError, match="no train.txt; expected train.txt and test.txt"):
        read_split(tmp_path)
    (tmp_path / "train.txt").write_text("0 1 2\n1 x 3\n")
    with pytest.raises(InputError, match=r"train.txt: .*'x'.*; expected a line a user, its id"):
        read_split(tmp_path)
    (tmp_path / "train.txt").write_text("0 1 2\n1 3\n")
    with pytest.raises(InputError, match="no test.txt"):
        read_split(tmp_path)
    (tmp_path / "test.txt").write_text("0 3\n1 -3\n")
    with pytest.raises(InputError, match="test_item holds -3"):
        read_split(tmp_path)
    (tmp_path / "test.txt").write_text("")
    assert read_split(tmp_path).test.nnz == 0


def test_a_fingerprint_tells_who_has_what(split):
    pairs = split.train
    turned = csr_array(pairs[np.arange(pairs.shape[0])[::-1]])
    assert turned.nnz == pairs.nnz and turned.indices.sum() == pairs.indices.sum()
    assert fingerprint(turned) != fingerprint(pairs) == fingerprint(csr_array(pairs.copy()))


@pytest.mark.parametrize("share", [0, 0.04, 0.1, 0.5, 0.99])
def test_hold_out_takes_its_share_of_each_user(split, share):
    held = hold_out(split, share, 3)
    counts = np.diff(split.train.indptr)
    expected = np.minimum(np.floor(share * counts + 0.5), counts - 1)
    np.testing.assert_array_equal(np.diff(held.valid.indptr), expected)
    assert pairs(held.train) | pairs(held.valid) == pairs(split.train)
    assert held.train.nnz + held.valid.nnz == split.train.nnz
    assert pairs(held.whole().train) == pairs(split.train) and held.whole().valid.nnz == 0
    assert pairs(held.test) == pairs(split.test)
    assert pairs(hold_out(split, share, 3).valid) == pairs(held.valid)


def test_a_share_has_to_be_one(split):
    for share in (-0.1, 1, float("nan")):
        with pytest.raises(InputError, match="expected 0 ≤ share < 1"):
            hold_out(split, share, 0)


def test_bet_split_is_50_25_25_of_all_pairs_of_each_user(split):
    found = bet_split(split, 1)
    parts = [pairs(part) for part in (found.train, found.valid, found.test)]
    assert set.union(*parts) == pairs(split.train) | pairs(split.test)
    assert sum(map(len, parts)) == split.train.nnz + split.test.nnz
    counts = np.diff(split.train.indptr) + np.diff(split.test.indptr)  # 13 of every user.
    assert set(counts) == {13}
    for part, expected in zip((found.train, found.valid, found.test), (7, 3, 3), strict=True):
        assert set(np.diff(part.indptr)) == {expected}
        assert part.has_sorted_indices
    assert pairs(bet_split(split, 1).train) == parts[0] != pairs(bet_split(split, 2).train)
