"""Pairs of users and items from files."""

import numpy as np
import pytest
import scipy.sparse

from compressae import InputError
from compressae.retrieval.io.interactions import read_interactions

USER, ITEM = np.array([2, 0, 2, 2]), np.array([1, 4, 3, 1])  # One pair is there twice.
EXPECTED = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]], np.float32)


def arrays(path):
    np.savez(path.with_suffix(".npz"), user=USER, item=ITEM)
    return path.with_suffix(".npz")


def matrix(path):
    pairs = scipy.sparse.coo_array((np.array([5.0, 1, 2, 3]), (USER, ITEM)), shape=(3, 5))
    scipy.sparse.save_npz(path, pairs)
    return path.with_suffix(".npz")


def parquet(path):
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install)")
    from pyarrow import parquet as file

    file.write_table(arrow.table({"item": ITEM, "user": USER}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("write", [arrays, matrix, parquet])
def test_every_form_gives_ones(tmp_path, write):
    pairs = read_interactions(write(tmp_path / "pairs"))
    assert pairs.dtype == np.float32
    np.testing.assert_array_equal(pairs.toarray(), EXPECTED)


@pytest.mark.parametrize("write", [arrays, matrix, parquet])
def test_numbers_of_users_and_items_may_be_given(tmp_path, write):
    path = write(tmp_path / "pairs")
    assert read_interactions(path, users=10, items=7).shape == (10, 7)
    with pytest.raises(InputError, match="5 items; expected at most 4"):
        read_interactions(path, items=4)
    with pytest.raises(InputError, match="3 users; expected at most 2"):
        read_interactions(path, users=2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (dict(user=USER), "no interactions"),
        (dict(user=USER, item=ITEM[:2]), "as many users as items"),
        (dict(user=USER, item=ITEM / 2), "item is float64"),
        (dict(user=USER - 1, item=ITEM), "users from -1 to 1"),
        (dict(user=USER, item=ITEM.astype(object)), "no interactions"),
    ],
)
def test_damaged_arrays_are_refused(tmp_path, content, said):
    np.savez(tmp_path / "pairs.npz", **content)
    with pytest.raises(InputError, match=said):
        read_interactions(tmp_path / "pairs.npz")


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".txt"])
def test_other_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"pairs{suffix}"
    with pytest.raises(InputError, match="no such file"):
        read_interactions(path)
    path.write_bytes(b"user,item\n0,1\n")
    with pytest.raises(InputError, match="no interactions"):
        read_interactions(path)


def test_parquet_with_nulls_or_without_a_column_is_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install)")
    from pyarrow import parquet as file

    file.write_table(arrow.table({"user": [1, None], "item": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="nulls in column user"):
        read_interactions(tmp_path / "a.parquet")
    file.write_table(arrow.table({"user": [1, 2]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="column item|no interactions"):
        read_interactions(tmp_path / "b.parquet")
