import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compressae import InputError, open_embeddings
from compressae.retrieval.io.embeddings import as_embeddings, unit_rows


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_npy_of_each_dtype(rows, dtype, tmp_path):
    stored = rows.astype(dtype)
    np.save(tmp_path / "e.npy", stored)
    table = open_embeddings(tmp_path / "e.npy")
    assert (table.shape, table.dtype_name, table.nbytes) == ((23, 5), dtype, stored.nbytes)
    np.testing.assert_array_equal(table.to_array(), stored.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_safetensors_of_each_dtype(rows, dtype, tmp_path):
    stored = torch.from_numpy(rows).to(getattr(torch, dtype))
    save_file({"table": stored}, tmp_path / "e.safetensors")
    table = open_embeddings(tmp_path / "e.safetensors")
    assert table.dtype_name == dtype
    np.testing.assert_array_equal(table.to_array(), stored.float().numpy())


def test_shards_come_in_natural_order_and_read_as_one(rows, tmp_path):
    for number, part in ((10, rows[15:]), (2, rows[4:15]), (1, rows[:4])):
        np.save(tmp_path / f"part-{number}.npy", part)
    table = open_embeddings(tmp_path)
    np.testing.assert_array_equal(table.to_array(), rows)
    for size in (1, 3, 7, 100):
        batches = list(table.batches(size))
        assert [start for start, _ in batches] == list(range(0, 23, size))
        np.testing.assert_array_equal(np.concatenate([b for _, b in batches]), rows)
    picked = np.array([22, 0, 14, 15, 3, 0])
    np.testing.assert_array_equal(table.take(picked), rows[picked])
    half = table.subset(np.arange(0, 23, 2))
    np.testing.assert_array_equal(half.to_array(), rows[::2])
    np.testing.assert_array_equal(half.subset(np.array([3, 1])).to_array(), rows[[6, 2]])


def test_arrays_and_tensors_are_tables(rows):
    np.testing.assert_array_equal(as_embeddings(rows).to_array(), rows)
    np.testing.assert_array_equal(as_embeddings(torch.from_numpy(rows)).to_array(), rows)
    table = as_embeddings(rows)
    assert as_embeddings(table) is table


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_rows_beyond_float32_are_named(rows, value, tmp_path):
    stored = rows.astype(np.float64)
    stored[7, 2] = value
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", stored)
    table = open_embeddings(tmp_path)
    with pytest.raises(InputError, match=r"b\.npy: row 7 holds NaN or infinity"):
        table.check()
    with pytest.raises(InputError, match=r"b\.npy: row 7 holds NaN or infinity"):
        table.take(np.array([2, 30]))


def test_zero_rows_are_named(rows):
    rows[11] = 0
    with pytest.raises(InputError, match="array: row 11 is all zeros"):
        as_embeddings(rows).check()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(5, np.float32), r"1-d, shape \(5,\)"),
        (np.ones((2, 3, 4), np.float32), "3-d"),
        (np.ones((0, 4), np.float32), r"empty, shape \(0, 4\)"),
        (np.ones((4, 0), np.float32), "empty"),
        (np.ones((4, 4), np.int64), "int64 numbers; expected a 2-d table of float16"),
        (np.array([["a", "b"]]), "numbers; expected a 2-d table"),
    ],
)
def test_what_is_no_table_is_refused(array, message, tmp_path):
    with pytest.raises(InputError, match=message):
        as_embeddings(array)
    np.save(tmp_path / "e.npy", array)
    with pytest.raises(InputError, match=rf"e\.npy: .*{message}"):
        open_embeddings(tmp_path / "e.npy")


def test_files_that_cannot_be_read_are_named_with_the_cure(rows, tmp_path):
    def refused(name, message):
        with pytest.raises(InputError, match=message):
            open_embeddings(tmp_path / name)

    np.save(tmp_path / "f.npy", np.asfortranarray(rows))
    refused("f.npy", "ascontiguousarray")
    np.save(tmp_path / "cut.npy", rows)
    whole = (tmp_path / "cut.npy").read_bytes()
    for length in (0, 5, 70, len(whole) - 1):
        (tmp_path / "cut.npy").write_bytes(whole[:length])
        refused("cut.npy", r"cut\.npy: not a whole \.npy file")
    np.savez(tmp_path / "e.npz", rows)
    refused("e.npz", "unknown kind of file; expected .npy")
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    refused("objects.npy", r"objects\.npy")
    save_file({"x": torch.ones(2, 2), "y": torch.ones(2, 2)}, tmp_path / "two.safetensors")
    refused("two.safetensors", "expected one 2-d tensor, or one named 'embeddings'")
    save_file({"x": torch.ones(2, 2)}, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    for length in (0, 4, 20, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        refused("cut.safetensors", "write or copy it again")
    (tmp_path / "cut.safetensors").write_bytes(whole.replace(b"F32", b"Q32"))
    refused("cut.safetensors", "dtype Q32")
    with pytest.raises(FileNotFoundError, match="nothing"):
        open_embeddings(tmp_path / "nothing.npy")


def test_shards_of_different_widths_and_empty_folders(rows, tmp_path):
    with pytest.raises(InputError, match="no .npy, .safetensors or .parquet file"):
        open_embeddings(tmp_path)
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", rows[:, :4])
    with pytest.raises(InputError, match=r"b\.npy: 4 columns, but .*a\.npy has 5"):
        open_embeddings(tmp_path)


def test_unit_rows_of_huge_and_tiny_rows():
    x = np.array([[3e38, 3e38], [1e-38, 0], [3, 4], [1e-45, 0]], np.float32)
    expected = [[0.5**0.5, 0.5**0.5], [1, 0], [0.6, 0.8], [1, 0]]
    np.testing.assert_allclose(unit_rows(x), expected, rtol=1e-6)
