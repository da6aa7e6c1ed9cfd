"""The commands that encode, index and search in shards."""

import json

import numpy as np
import pytest
from commands import refused, succeed

pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")


@pytest.fixture(scope="module")
def home(made, tmp_path_factory):
    """Parquet files with ids and metadata, their codes in shards, and the model."""
    folder = tmp_path_factory.mktemp("commands")
    n, d = made.rows.shape
    table = pa.table(
        {
            "sku": [f"s{i}" for i in range(n)],
            "price": np.arange(n) / 2,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(made.rows.ravel()), d),
        }
    )
    (folder / "items").mkdir()
    pq.write_table(table.slice(0, 400), folder / "items" / "1.parquet", row_group_size=100)
    pq.write_table(table.slice(400), folder / "items" / "2.parquet")
    np.save(folder / "queries.npy", made.rows[:5])
    succeed(
        *("fit-quantizer", folder / "items", "-m", made.folder / "model"),
        *("-o", folder / "quantizer", "--residual-bytes", 3),
    )
    out = succeed(
        *("encode", folder / "items", "-m", made.folder / "model", "-o", folder / "coded"),
        *("--like", folder / "quantizer", "--shards", "--shard-rows", 250, "--workers", 1),
        *("--id-column", "sku", "--json"),
    )
    assert json.loads(out) == {"shards": 3, "codes": str(folder / "coded"), "rows": n}
    return folder


def ids_of(*arguments):
    lines = succeed("search", *arguments, "-k", 4, "--candidates", "all", "--json").splitlines()
    return [json.loads(line)["ids"] for line in lines]


def test_shards_are_indexed_as_one_or_each(made, home, tmp_path):
    model = ("-m", made.folder / "model")
    succeed("index", home / "coded", *model, "-o", tmp_path / "one")
    succeed(
        *("index", home / "coded", *model, "-o", tmp_path / "each", "--shards"),
        *("--metadata-columns", "price"),
    )
    found = ids_of(tmp_path / "one", home / "queries.npy")
    assert [ids[0] for ids in found] == [f"s{i}" for i in range(5)]
    assert ids_of(tmp_path / "each", home / "queries.npy") == found
    cheap = ids_of(tmp_path / "each", home / "queries.npy", "--where", "price >= 300")
    assert all(int(name[1:]) >= 600 for ids in cheap for name in ids)
    assert "shards: 3" in succeed("info", tmp_path / "each")
    assert "ids: texts" in succeed("info", home / "coded")
    assert "kind: quantizer" in succeed("info", home / "quantizer")


def test_ids_travel_with_codes(made, home, tmp_path):
    model = ("-m", made.folder / "model")
    codes = ("encode", home / "items", *model, "--like", home / "quantizer", "--id-column", "sku")
    succeed(*codes, "-o", tmp_path / "codes")
    succeed("index", tmp_path / "codes", *model, "-o", tmp_path / "index")
    assert ids_of(tmp_path / "index", home / "queries.npy")[0][0] == "s0"


def test_metadata_of_files_that_changed_is_refused(made, home, tmp_path):
    table = pq.read_table(home / "items" / "1.parquet")
    pq.write_table(table, tmp_path / "items.parquet")
    model = ("-m", made.folder / "model")
    succeed(
        *("encode", tmp_path / "items.parquet", *model, "-o", tmp_path / "coded", "--shards"),
        *("--like", home / "quantizer", "--workers", 1),
    )
    pq.write_table(table.take(np.arange(len(table))[::-1]), tmp_path / "items.parquet")
    refused(
        tmp_path,
        "items.parquet: missing, or changed since it was encoded",
        *("index", tmp_path / "coded", *model, "-o", tmp_path / "index"),
        *("--metadata-columns", "price"),
    )


def test_an_address_of_the_environment_gives_way_to_workers(made, home, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    model = ("-m", made.folder / "model")
    encode = ("encode", home / "items", *model, "--like", home / "quantizer")
    succeed(*encode, "-o", tmp_path / "coded", "--shards", "--workers", 1)
    succeed(*encode, "-o", tmp_path / "codes")


def test_an_id_in_two_shards_is_refused(made, home, tmp_path):
    items = tmp_path / "items"
    items.mkdir()
    table = pq.read_table(home / "items" / "1.parquet")
    pq.write_table(table.slice(0, 50), items / "a.parquet")
    pq.write_table(table.slice(49, 20), items / "b.parquet")
    model = ("-m", made.folder / "model")
    succeed(
        *("encode", items, *model, "-o", tmp_path / "coded", "--like", home / "quantizer"),
        *("--shards", "--id-column", "sku", "--workers", 1),
    )
    for kind in ((), ("--shards",)):
        refused(
            tmp_path,
            "id 's49' is given more than once, in part-00000 and part-00001",
            *("index", tmp_path / "coded", *model, "-o", tmp_path / "index", *kind),
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shards",), "shards share a quantiser: give --like"),
        (("--shards", "--like", "q", "--nonzeros", 3), "shards are coded as their quantiser says"),
        (("--shards", "--like", "q", "--workers", 2, "--ray", "auto"), "give one of them"),
        (("--workers", 2), "give --shards"),
        (("--ray", "local"), "give --shards"),
    ],
)
def test_refuses(made, home, tmp_path, options, said):
    model = ("-m", made.folder / "model")
    refused(tmp_path, said, "encode", home / "items", *model, "-o", tmp_path / "coded", *options)


def test_warm_compiles(capsys):
    assert json.loads(succeed("warm", "--json"))["seconds"] > 0
