"""Commands that read their table, ids and metadata from parquet."""

import json

import numpy as np
import pytest
from commands import refused, succeed

from compressae.retrieval import Catalogue

pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")

N, D = 700, 8


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The same rows as items.npy and as a folder of parquet files, and models trained on each."""
    folder = tmp_path_factory.mktemp("parquet")
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((N, D)).astype(np.float32)
    np.save(folder / "items.npy", rows)
    table = pa.table(
        {
            "sku": [f"s{i}" for i in range(N)],
            "price": np.arange(N) / 2,
            "text": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), D),
            "image": pa.FixedSizeListArray.from_arrays(pa.array(2 - rows.ravel()), D),
        }
    )
    (folder / "shards").mkdir()
    pq.write_table(table.slice(0, 300), folder / "shards" / "1.parquet", row_group_size=64)
    pq.write_table(table.slice(300), folder / "shards" / "2.parquet")
    pq.write_table(table.slice(0, 40), folder / "queries.parquet")
    options = ("--latents", 32, "--nonzeros", 4, "--steps", 4)
    succeed("train", folder / "items.npy", "-o", folder / "model", *options)
    succeed("train", folder / "shards", "--column", "text", "-o", folder / "same", *options)
    return folder


def test_a_model_is_the_same_from_either_form(home):
    arrays = [(home / name / "model.safetensors").read_bytes() for name in ("model", "same")]
    assert arrays[0] == arrays[1]


def test_ids_and_metadata_travel_to_the_index(home, tmp_path):
    made = ("-m", home / "model", "--column", "text")
    out = succeed(
        *("index", home / "shards", *made, "-o", tmp_path / "index", "--id-column", "sku"),
        *("--metadata-columns", "price", "--json"),
    )
    assert json.loads(out)["rows"] == N
    lines = succeed(
        *("search", tmp_path / "index", home / "queries.parquet", "--column", "text"),
        *("-k", 3, "--where", "price < 10", "--json"),
    ).splitlines()
    found = np.array([json.loads(line)["ids"] for line in lines])
    assert found.shape == (40, 3) and set(found.ravel()) <= {f"s{i}" for i in range(20)}
    assert (found[:20, 0] == [f"s{i}" for i in range(20)]).mean() > 0.7
    succeed(
        *("update", tmp_path / "index", "--add", home / "queries.parquet", "--column", "image"),
        *("--id-column", "sku", "--metadata-columns", "price"),
    )
    catalogue = Catalogue.open(tmp_path / "index")
    assert len(catalogue) == N and len(catalogue.versions()) == 2  # All 40 were replaced.
    codes = succeed(*("encode", home / "shards", *made, "-o", tmp_path / "codes"))
    assert f"rows: {N}" in codes


def test_what_is_missing_is_named(home, tmp_path):
    made = ("-m", home / "model", "-o", tmp_path / "index")
    index = ("index", home / "shards", *made)
    refused(tmp_path, "or its name (column)", *index)
    refused(tmp_path, "no column 'texts'", *index, "--column", "texts")
    refused(tmp_path, "no column 'isbn'", *index, "--column", "text", "--id-column", "isbn")
    metadata = ("--metadata-columns", "weight")
    refused(tmp_path, "no column 'weight'", *index, "--column", "text", *metadata)
    metadata = ("--metadata-columns", "price")
    refused(tmp_path, "items.npy: no .parquet", "index", home / "items.npy", *made, *metadata)
    both = ("--metadata", home / "queries.parquet", *metadata)
    refused(tmp_path, "give one of them", *index, "--column", "text", *both)


def test_a_table_with_ids_reranks_an_index_of_text_ids(home, tmp_path):
    made = ("-m", home / "model", "--column", "text")
    succeed("index", home / "shards", *made, "-o", tmp_path / "c", "--id-column", "sku")
    search = ("search", tmp_path / "c", home / "queries.parquet", "--column", "text", "-k", 3)
    by_id = ("--rerank", home / "shards", "--rerank-id-column", "sku", "--rerank-candidates", N)
    succeed(*search, *by_id, "-o", tmp_path / "hits.npz")
    found = np.load(tmp_path / "hits.npz")["ids"].tolist()
    rows = np.load(home / "items.npy")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    best = np.argsort(-(unit[:40] @ unit.T), axis=1)[:, :3]
    assert found == [[f"s{i}" for i in row] for row in best.tolist()]
    said = "named by texts; give the column of the table's ids, --rerank-id-column"
    refused(tmp_path, said, *search, "--rerank", home / "shards")
    refused(tmp_path, "--rerank, which is missing", *search, "--rerank-id-column", "sku")
