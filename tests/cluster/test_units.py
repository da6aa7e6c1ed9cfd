"""Units of work: every row once, in order, whatever the files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressae import InputError
from compressae.cluster.units import _grouped, plan_units

pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), most=st.integers(1, 20))
def test_row_groups_are_in_one_run_each(sizes, most):
    runs = _grouped(sizes, most)
    assert [g for a, b in runs for g in range(a, b)] == list(range(len(sizes)))
    for a, b in runs:
        assert b == a + 1 or sum(sizes[a:b]) <= most


def test_parquet_is_cut_between_row_groups(tmp_path):
    table = pa.table({"vector": [[1.0, float(i)] for i in range(10)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    pq.write_table(table.slice(0, 3), tmp_path / "b.parquet")
    units = plan_units(tmp_path, most=8)
    assert [(u.name, u.first_row, u.rows, u.row_groups) for u in units] == [
        ("part-00000", 0, 8, (0, 2)), ("part-00001", 8, 2, (2, 3)), ("part-00002", 0, 3, (0, 1)),
    ]  # fmt: skip


def test_a_file_without_rows_has_no_unit(tmp_path):
    table = pa.table({"vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})
    pq.write_table(table.slice(0, 0), tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "b.parquet")
    assert [unit.source for unit in plan_units(tmp_path)] == [str(tmp_path / "b.parquet")]


def test_refuses(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2), np.float32))
    with pytest.raises(InputError, match="0 rows a shard: expected 1 or more"):
        plan_units(tmp_path, most=0)
    with pytest.raises(FileNotFoundError):
        plan_units(tmp_path / "none")


def test_a_footer_is_read_once(tmp_path, monkeypatch):
    from compressae.retrieval.io import parquet

    table = pa.table(
        {"vector": pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)), "id": [*"abcd"]}
    )
    for name in "ab":
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=2)
    opened, source = [], parquet.parquet_source

    def counted(path, *settings):
        opened.append(path.name)
        return source(path, *settings)

    monkeypatch.setattr(parquet, "parquet_source", counted)
    assert len(plan_units(tmp_path, most=2, id_column="id")) == 4
    assert opened == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("name", ["a.parquet", "a.npy"])
def test_a_file_without_the_ids_column_is_named(tmp_path, name):
    if name == "a.npy":
        np.save(tmp_path / name, np.ones((3, 2), np.float32))
    else:
        pq.write_table(pa.table({"vector": [[1.0, 2.0]]}), tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: no column 'sku'; expected ids in each .parquet"):
        plan_units(tmp_path, id_column="sku")
