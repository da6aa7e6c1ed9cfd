"""Vectors of parquet files and Arrow tables, against the array that they were written from."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from compressae import InputError, open_embeddings
from compressae.retrieval.io.embeddings import as_embeddings
from compressae.retrieval.io.parquet import KeptGroups, ParquetColumn, read_columns

pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")

N, D = 1000, 6
KINDS = {
    "fixed": lambda numbers: pa.FixedSizeListArray.from_arrays(numbers, D),
    "lists": lambda numbers: pa.ListArray.from_arrays(
        pa.array(np.arange(0, len(numbers) + 1, D, dtype=np.int32)), numbers
    ),
    "large lists": lambda numbers: pa.LargeListArray.from_arrays(
        pa.array(np.arange(0, len(numbers) + 1, D)), numbers
    ),
}


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


def column(rows, kind="fixed"):
    return KINDS[kind](pa.array(rows.ravel()))


def write(path, rows, kind="fixed", group=300, **others):
    table = pa.table({"id": np.arange(len(rows)), "embedding": column(rows, kind), **others})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_come_back(tmp_path, rows, kind, dtype):
    stored = rows.astype(dtype)
    items = open_embeddings(write(tmp_path / "a.parquet", stored, kind))
    assert items.shape == (N, D) and items.dtype_name == dtype
    assert items.nbytes == stored.nbytes
    expected = stored.astype(np.float32)
    np.testing.assert_array_equal(items.to_array(), expected)
    for start, batch in items.batches(70, 5, 701):
        np.testing.assert_array_equal(batch, expected[start : min(start + 70, 701)])
    some = np.random.default_rng(1).integers(0, N, 400)
    np.testing.assert_array_equal(items.take(some), expected[some])
    assert items.take(np.empty(0, np.int64)).shape == (0, D)
    np.testing.assert_array_equal(items.subset(some).to_array(), expected[some])


@pytest.mark.parametrize("kept", [0, 300 * D * 4, 1 << 20], ids=["none", "one group", "all"])
def test_rows_by_number_whatever_is_kept(tmp_path, rows, kept):
    vectors = ParquetColumn(write(tmp_path / "a.parquet", rows), kept=KeptGroups(kept))
    rng = np.random.default_rng(2)
    for count in (1, 7, 999):
        some = rng.integers(0, N, count)
        np.testing.assert_array_equal(vectors.read(some), rows[some])
    ascending = np.sort(rng.permutation(N)[:500])
    for part in np.array_split(ascending, 9):
        np.testing.assert_array_equal(vectors.read(part), rows[part])
        np.testing.assert_array_equal(vectors.read(slice(int(part[0]), N)), rows[part[0] :])


def test_files_of_a_table_share_what_is_kept(tmp_path, rows):
    """Three files of three groups, of which two groups are kept; those used last."""
    kept, decoded = KeptGroups(2 * 300 * D * 4), []
    columns = [ParquetColumn(write(tmp_path / f"{i}.parquet", rows), kept=kept) for i in range(3)]
    for column in columns:
        column._slice = lambda a, b, own=column._slice: decoded.append((a, b)) or own(a, b)
    for number, count in ((0, 1), (0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        np.testing.assert_array_equal(columns[number].read(np.array([5, 1])), rows[[5, 1]])
        assert len(decoded) == count


def test_threads_read_at_once(tmp_path, rows):
    vectors = ParquetColumn(write(tmp_path / "a.parquet", rows, group=64))

    def read(share):
        for start in range(share * 125, share * 125 + 125, 25):
            np.testing.assert_array_equal(
                vectors.read(slice(start, start + 25)), rows[start : start + 25]
            )
            np.testing.assert_array_equal(vectors.read(np.array([start, 3])), rows[[start, 3]])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))


def test_a_folder_of_files_in_natural_order(tmp_path, rows):
    for name, part in (("part-10", rows[600:]), ("part-2", rows[100:600]), ("part-3", rows[:0])):
        write(tmp_path / f"{name}.parquet", part, "lists")
    np.save(tmp_path / "part-1.npy", rows[:100])
    items = open_embeddings(tmp_path)
    np.testing.assert_array_equal(items.to_array(), rows)
    with pytest.raises(InputError, match="part-3.parquet: empty"):
        open_embeddings(tmp_path / "part-3.parquet")


def test_the_column_is_found_or_named(tmp_path, rows):
    path = write(tmp_path / "a.parquet", rows, text=column(2 * rows, "lists"))
    np.testing.assert_array_equal(open_embeddings(path).to_array(), rows)  # Named embedding.
    np.testing.assert_array_equal(open_embeddings(path, "text").to_array(), 2 * rows)
    with pytest.raises(InputError, match="no column 'texts'; expected one of id, embedding, text"):
        open_embeddings(path, "texts")
    with pytest.raises(InputError, match="column 'id' is int64; expected lists of float16"):
        open_embeddings(path, "id")
    pq.write_table(pa.table({"a": column(rows), "b": column(rows)}), path)
    with pytest.raises(InputError, match="2 columns of lists of floats among a: .*its name"):
        open_embeddings(path)
    pq.write_table(pa.table({"a": [[1, 2], [3, 4]]}), path)
    with pytest.raises(InputError, match="no columns of lists of floats among a: list<"):
        open_embeddings(path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1.0, 2.0], None], "row 701 is null; expected 2 floats"),
        ([[1.0, 2.0], [1.0]], "row 701 has 1 numbers; expected 2"),
        ([[1.0, 2.0], [1.0, 2.0, 3.0]], "row 701 has 3 numbers; expected 2"),
        ([[1.0, 2.0], [None, 2.0]], "row 701 has a null in it"),
        ([[1.0, 2.0], [1.0, float("nan")]], "row 701 holds NaN or infinity"),
        ([[1.0, 2.0], [0.0, 0.0]], "row 701 is all zeros"),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, message):
    good = [[1.0, 2.0]] * 700
    table = pa.table({"v": pa.array(good + bad + good, pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=256)
    items = open_embeddings(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=rf"a\.parquet: {message}"):
        items.check()
    with pytest.raises(InputError, match=rf"a\.parquet: {message}"):
        items.take(np.array([3, 701, 650]))
    with pytest.raises(InputError, match=rf"table: {message}"):
        as_embeddings(table).check()


def test_a_first_row_that_is_null(tmp_path):
    table = pa.table({"v": pa.array([None, [1.0, 2.0]], pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 0 is null"):
        open_embeddings(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 0 is null"):
        as_embeddings(table)


def test_damaged_files_are_refused(tmp_path, rows):
    whole = write(tmp_path / "a.parquet", rows).read_bytes()
    path = tmp_path / "b.parquet"
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged[: rng.integers(1, len(whole))] if rng.random() < 0.3 else damaged)
        try:
            read = open_embeddings(path)
            assert read.to_array().shape == read.shape
        except InputError as error:
            assert "b.parquet" in str(error)
            refused += 1
    assert refused > 15
    path.write_bytes(b"")
    with pytest.raises(InputError, match="no whole parquet file"):
        open_embeddings(path)


def test_tables_of_arrow(rows):
    table = pa.table({"id": np.arange(N), "embedding": column(rows)})
    in_parts = pa.concat_tables([table.slice(0, 400), table.slice(400)])
    reader = pa.RecordBatchReader.from_batches(table.schema, in_parts.to_batches(max_chunksize=90))
    for given in (table, in_parts, reader):
        np.testing.assert_array_equal(as_embeddings(given).to_array(), rows)
    with pytest.raises(InputError, match="items: no rows"):
        as_embeddings(table.slice(0, 0), "items")
    with pytest.raises(InputError, match="items: no column 'x'"):
        as_embeddings(table, "items", "x")


def test_tables_of_duckdb(rows):
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb (pip install 'compressae[sql]')")
    table = pa.table({"id": np.arange(N), "embedding": column(rows)})
    relation = duckdb.from_arrow(table).filter("id < 17")
    np.testing.assert_array_equal(as_embeddings(relation).to_array(), rows[:17])


def test_other_columns_beside_the_vectors(tmp_path, rows):
    paths = [
        write(tmp_path / "a.parquet", rows, sku=[f"a{i}" for i in range(N)]),
        write(tmp_path / "b.parquet", rows[:2], sku=["b0", "b1"]),
    ]
    table = read_columns(paths, ["sku", "id"])
    assert table.column_names == ["sku", "id"]
    assert table["sku"].to_pylist()[-3:] == ["a999", "b0", "b1"]
    with pytest.raises(InputError, match=r"a\.parquet: no column 'price'; expected some of id,"):
        read_columns(paths, ["sku", "price"])
    write(paths[1], rows[:2], sku=[1, 2])
    with pytest.raises(InputError, match="expected columns of one type"):
        read_columns(paths, ["sku"])


def test_a_table_is_opened_again_in_another_process(tmp_path, rows):
    items = open_embeddings(write(tmp_path / "a.parquet", rows)).subset(np.arange(5, 40))
    again = pickle.loads(pickle.dumps(items))
    np.testing.assert_array_equal(again.to_array(), items.to_array())
