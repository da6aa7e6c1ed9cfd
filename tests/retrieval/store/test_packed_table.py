"""Packed codes in parquet: read back to the byte; what is no row of the quantiser is refused."""

import json

import numpy as np
import pytest
from commands import refused, succeed

from compressae import CompresSAE, InputError, compress, fit_quantizer
from compressae.retrieval.store.packed_table import (
    is_packed_table,
    read_packed_table,
    write_packed_table,
)

pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")

N, D, H = 300, 10, 32
FORMS = {"even": {"residual_bytes": 3}, "ragged": {"budget": "7 B/row"}}


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, 4, seed=1)


@pytest.fixture(scope="module", params=FORMS)
def coded(request, model, table):
    fitted = fit_quantizer(model, table, **FORMS[request.param])
    return fitted, compress(model, table, like=fitted)


@pytest.mark.parametrize("ids", [None, np.arange(N) * 3, np.array([f"é{i}" for i in range(N)])])
def test_read_back_to_the_byte(coded, tmp_path, ids):
    fitted, codes = coded
    write_packed_table(tmp_path / "codes.parquet", codes, ids)
    assert is_packed_table(tmp_path / "codes.parquet")
    again, names = read_packed_table(tmp_path / "codes.parquet", fitted)
    assert np.array_equal(again.data, codes.data) and np.array_equal(again.counts, codes.counts)
    assert again.model_id == codes.model_id and again.settings == codes.settings
    assert np.array_equal(names, np.arange(N) if ids is None else ids)


def test_a_folder_of_files_in_their_order(coded, tmp_path):
    fitted, codes = coded
    for number, (start, stop) in enumerate(((0, 120), (120, 120), (120, N))):
        if start < stop:
            part = codes.take(np.arange(start, stop))
            write_packed_table(tmp_path / f"{number}.parquet", part, np.arange(start, stop))
    empty = pq.read_table(tmp_path / "0.parquet").slice(0, 0)
    pq.write_table(empty, tmp_path / "1.parquet")
    again, ids = read_packed_table(tmp_path, fitted)
    assert np.array_equal(again.data, codes.data) and np.array_equal(ids, np.arange(N))


def test_a_slice_of_an_engines_table(coded, tmp_path):
    fitted, codes = coded
    write_packed_table(tmp_path / "codes.parquet", codes, None)
    part = pq.read_table(tmp_path / "codes.parquet").slice(7, 40).replace_schema_metadata(None)
    pq.write_table(part, tmp_path / "part.parquet")
    again, _ = read_packed_table(tmp_path / "part.parquet", fitted)
    assert np.array_equal(again.data, codes.take(np.arange(7, 47)).data)


def test_refuses(model, table, tmp_path):
    fitted = fit_quantizer(model, table, residual_bytes=3)
    codes = compress(model, table, like=fitted)
    path = tmp_path / "codes.parquet"
    write_packed_table(path, codes, None)
    with pytest.raises(InputError, match="codes of another quantiser"):
        read_packed_table(path, fit_quantizer(model, table, residual_bytes=2))
    whole = pq.read_table(path).replace_schema_metadata(None)

    def written(rows):
        column = pa.array(rows, pa.binary())
        pq.write_table(pa.table({"packed": column}), tmp_path / "own.parquet")
        return tmp_path / "own.parquet"

    rows = whole["packed"].to_pylist()
    with pytest.raises(InputError, match="row 2 has no packed bytes"):
        read_packed_table(written([*rows[:2], None]), fitted)
    with pytest.raises(InputError, match="row 1 has 3 bytes, which are no row of this quantiser"):
        read_packed_table(written([rows[0], b"abc"]), fitted)
    with pytest.raises(InputError, match="no rows; expected packed codes"):
        read_packed_table(written([]), fitted)
    pq.write_table(pa.table({"vector": [[1.0, 2.0]]}), tmp_path / "vectors.parquet")
    assert not is_packed_table(tmp_path / "vectors.parquet")


def test_rows_of_an_unsure_number_of_nonzeros_need_it_said(model, table, tmp_path):
    """Seven bits a nonzero: rows of seven and of eight nonzeros may have equal bytes."""
    fitted = fit_quantizer(model, table, budget="8 B/row")
    codes = compress(model, table, like=fitted)
    lengths = fitted.quantizer.layout.lengths
    assert len(set(lengths.tolist())) < len(lengths) and len(set(codes.counts.tolist())) > 2
    write_packed_table(tmp_path / "codes.parquet", codes, None)
    bare = pq.read_table(tmp_path / "codes.parquet").drop(["nonzeros"])
    pq.write_table(bare, tmp_path / "bare.parquet")
    with pytest.raises(InputError, match="may have several numbers of nonzeros"):
        read_packed_table(tmp_path / "bare.parquet", fitted)
    wrong = pq.read_table(tmp_path / "codes.parquet")
    counts = pa.array(np.full(N, 255, np.uint8))
    pq.write_table(wrong.set_column(2, "nonzeros", counts), tmp_path / "wrong.parquet")
    with pytest.raises(InputError, match="row 0 has .* bytes, which are no row"):
        read_packed_table(tmp_path / "wrong.parquet", fitted)


def test_the_commands(model, table, tmp_path):
    model.save(tmp_path / "model")
    rows = pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), D)
    items = pa.table({"sku": [f"s{i}" for i in range(N)], "price": np.arange(N), "vector": rows})
    pq.write_table(items, tmp_path / "items.parquet")
    own = ("-m", tmp_path / "model")
    out = ("-o", tmp_path / "codes.parquet")
    encode = ("encode", tmp_path / "items.parquet", *own, "--id-column", "sku")
    refused(tmp_path, "give --like; fit-quantizer fits one", *encode, *out)
    quantizer = ("--like", tmp_path / "quantizer")
    succeed("fit-quantizer", tmp_path / "items.parquet", *own, "-o", quantizer[1])
    succeed(*encode, *out, *quantizer)
    refused(tmp_path, "an older file is there; overwrite it", *encode, *out, *quantizer)
    index = ("index", tmp_path / "codes.parquet", *own, "-o", tmp_path / "index")
    refused(tmp_path, "needs their quantiser: give --like", *index)
    assert json.loads(succeed(*index, *quantizer, "--json"))["rows"] == N
    np.save(tmp_path / "queries.npy", table[:3])
    found = succeed("search", tmp_path / "index", tmp_path / "queries.npy", "-k", 1, "--json")
    names = [json.loads(line)["ids"][0] for line in found.splitlines()]
    assert len(names) == 3 and all(name.startswith("s") for name in names)
