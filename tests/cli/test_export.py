"""The command that exports an index."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import call, refused, succeed
from exported import columns_of
from scipy import sparse

from compressae import CompresSAE, compress
from compressae.retrieval import Catalogue

N = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Indexes with residual codes, and without, of two versions."""
    folder = tmp_path_factory.mktemp("indexes")
    model = CompresSAE(10, 32, 4, seed=1)
    table = np.random.default_rng(0).standard_normal((N, 10)).astype(np.float32)
    for name, residual_bytes in (("plain", 0), ("residual", 4)):
        codes = compress(model, table, residual_bytes=residual_bytes)
        index = Catalogue.create(folder / name, model.projection, codes, metadata=columns_of(N))
        index.remove(np.arange(10))
    return folder


@pytest.mark.parametrize("form", ["parquet", "arrow", "scipy"])
def test_it_says_what_it_wrote(folder, tmp_path, form):
    path = tmp_path / "out.npz"
    said = json.loads(succeed("export", folder / "plain", "--to", form, "-o", path, "--json"))
    assert said == {
        "export": str(path), "index": str(folder / "plain"), "version": 2, "rows": N - 10,
    }  # fmt: skip
    assert path.stat().st_size > 0


def test_an_older_version_is_written_if_told(folder, tmp_path):
    path = tmp_path / "out.npz"
    succeed("export", folder / "plain", "--to", "scipy", "-o", path, "--version", 1)
    assert sparse.load_npz(path).shape == (N, 32) and np.load(path)["version"] == 1


def test_options_of_parquet(folder, tmp_path):
    place = ["export", folder / "plain", "--to", "parquet", "-o", tmp_path / "out"]
    succeed(*place, "--columns", "price,Brand name", "--packed")
    names = pq.read_schema(tmp_path / "out").names
    assert names == ["id", "indices", "values", "packed", "price", "Brand name"]
    succeed(*place, "--columns", "", "--overwrite")
    assert pq.read_schema(tmp_path / "out").names == ["id", "indices", "values"]
    out = succeed(*place, "--postings", "--overwrite")
    assert pq.read_schema(tmp_path / "out").names == ["latent", "id", "value"]
    assert f"postings: {pq.read_metadata(tmp_path / 'out').num_rows}\n" in out
    succeed(*place[:-1], tmp_path / "shards", "--shard-rows", 100)
    assert len(list((tmp_path / "shards").iterdir())) == 3


def test_signs_may_be_halves(folder, tmp_path):
    place = ["export", folder / "plain", "--signs", "halves"]
    succeed(*place, "--to", "scipy", "-o", tmp_path / "out.npz")
    matrix = sparse.load_npz(tmp_path / "out.npz")
    assert matrix.shape == (N - 10, 64) and (matrix.data > 0).all() and (matrix.indices > 31).any()
    succeed(*place, "--to", "arrow", "-o", tmp_path / "out.arrow")
    succeed(*place, "--to", "parquet", "-o", tmp_path / "out.parquet")
    values = pq.read_table(tmp_path / "out.parquet")["values"].combine_chunks().flatten()
    assert (values.to_numpy() > 0).all()


def test_elastics_file(folder, tmp_path):
    place = ["--to", "elastic", "-o", tmp_path / "out.ndjson"]
    succeed("export", folder / "plain", *place, "--columns", "price")
    lines = (tmp_path / "out.ndjson").read_text().splitlines()
    assert len(lines) == 2 * (N - 10) and json.loads(lines[0]) == {"index": {"_id": "10"}}


def test_a_database_of_milvus_lite(folder, tmp_path):
    pytest.importorskip("milvus_lite", reason="milvus-lite, Milvus' engine, is not installed")
    pymilvus = pytest.importorskip("pymilvus", reason="needs pip install 'compressae[milvus]'")
    place = ["--to", "milvus", "--uri", tmp_path / "items.db", "--collection", "items"]
    place += ["--columns", "price"]
    said = json.loads(succeed("export", folder / "plain", *place, "--json"))
    assert said["export"] == "items" and said["rows"] == N - 10
    client = pymilvus.MilvusClient(str(tmp_path / "items.db"))
    assert client.query("items", filter="", output_fields=["count(*)"]) == [{"count(*)": N - 10}]
    client.close()
    refused(tmp_path, "an older export is there", "export", folder / "plain", *place)


def test_residual_codes_are_warned_of_in_a_line(folder, tmp_path):
    place = ["--to", "scipy", "-o", tmp_path / "out.npz"]
    code, out, err = call("export", folder / "residual", *place)
    (warning,) = [line for line in err.splitlines() if "warning" in line.lower()]
    assert code == 0 and "residual codes of 4 bytes, which are left out" in warning
    assert "warning" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "parquet"], "Give --output"),
        (["--to", "postgres", "--dsn", ""], "Give --table"),
        (["--to", "qdrant", "--collection", "items"], "Give --url"),
        (["--to", "milvus", "--collection", "items"], "Give --uri"),
        (["--to", "milvus", "--uri", "x.db", "--collection", "a-b"], "collection 'a-b' in Milvus"),
        (["--to", "elastic", "-o", "x", "--signs", "both"], "--signs does not go with"),
        (["--to", "parquet", "-o", "x", "--postings", "--signs", "halves"], "--signs does not go"),
        (["--to", "scipy", "-o", "x", "--table", "items"], "--table does not go with --to scipy"),
        (["--to", "scipy", "-o", "x", "--postings"], "--postings does not go with --to scipy"),
        (["--to", "arrow", "-o", "x", "--shard-rows", "9"], "does not go with --to arrow"),
        (["--to", "parquet", "-o", "x", "--postings", "--packed"], "--to parquet --postings"),
        (["--to", "parquet", "-o", "x", "--columns", "size"], "no column 'size'"),
        (["--to", "parquet", "-o", "x", "--version", "9"], "no version 9"),
        (["--to", "parquet", "-o", "none/x"], "create it first"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, said, "export", folder / "plain", *arguments)
