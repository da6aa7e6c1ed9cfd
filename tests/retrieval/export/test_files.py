"""Exports to files, read back by pyarrow, DuckDB and scipy."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from exported import (
    assert_same_answers,
    assert_same_metadata,
    assert_same_rows,
    columns_of,
    rows_of,
)
from scipy import sparse

from compressae import InputError, encode
from compressae.kernels.packed import SPARE
from compressae.retrieval import Catalogue, PackedCodes
from compressae.retrieval.export import (
    ExportRows,
    ResidualWarning,
    postings,
    sparse_query,
    to_arrow,
    to_parquet,
    to_postings,
    to_scipy,
)
from compressae.retrieval.export import rows as rows_module

duckdb = pytest.importorskip("duckdb", reason="needs duckdb, of the development extra")

ROOT = Path(__file__).parents[3]


def rows_in(table):
    """{id: (latents, values)} of a table that pyarrow read."""
    return {
        row["id"]: (row["indices"], row["values"])
        for row in table.select(["id", "indices", "values"]).to_pylist()
    }


def unit_rows(catalogue):
    """{id: row} of unit length."""
    return {id: row / max(np.linalg.norm(row), 1e-9) for id, row in rows_of(catalogue).items()}


@pytest.mark.parametrize("kind", ["numbers", "texts", "plain", "ragged", "lists"])
@pytest.mark.parametrize("form", ["parquet", "arrow", "folder"])
def test_a_table_holds_the_rows_as_they_are(tmp_path, catalogues, kind, form):
    catalogue, path = catalogues[kind], tmp_path / "items"
    if form == "arrow":
        assert to_arrow(catalogue, path) == len(catalogue)
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
    else:
        shard_rows = 70 if form == "folder" else None
        assert to_parquet(catalogue, path, shard_rows=shard_rows) == len(catalogue)
        table = pa.dataset.dataset(path, format="parquet").to_table()
    assert_same_rows(catalogue, rows_in(table))
    own = ["id", "indices", "values"]
    assert table.column_names == [*own, *catalogue.columns]
    assert [str(table.schema.field(name).type) for name in own] == [
        "string" if catalogue.has_text_ids else "int64",
        "list<element: int32>" if form != "arrow" else "list<item: int32>",
        "list<element: float>" if form != "arrow" else "list<item: float>",
    ]
    said = json.loads(table.schema.metadata[b"compressae"])
    assert said["version"] == catalogue.version and said["rows"] == len(catalogue)
    assert said["latents"] == catalogue.like.latents and said["layout"] == "rows"
    if catalogue.columns:
        metadata = table.drop_columns(own).to_pylist()
        assert_same_metadata(catalogue, dict(zip(table["id"].to_pylist(), metadata, strict=True)))


def test_rows_of_lists_for_cosine_have_unit_length(tmp_path, catalogues):
    catalogue = catalogues["cosine lists"]
    to_parquet(catalogue, tmp_path / "items.parquet")
    expected = unit_rows(catalogue)
    for id, (latents, values) in rows_in(pq.read_table(tmp_path / "items.parquet")).items():
        np.testing.assert_allclose(values, expected[id][latents], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_batches_of_any_size_are_the_same_rows(catalogues, size):
    catalogue = catalogues["numbers"]
    batches = list(ExportRows(catalogue, packed=True).batches(size=size))
    assert max(map(len, batches)) <= size
    rows, metadata = {}, {}
    for batch in batches:
        for i, id in enumerate(batch.ids.tolist()):
            part = slice(batch.bounds[i], batch.bounds[i + 1])
            rows[id] = batch.latents[part], batch.values[part]
        metadata |= dict(zip(batch.ids.tolist(), batch.metadata.to_pylist(), strict=True))
    assert_same_rows(catalogue, rows)
    assert_same_metadata(catalogue, metadata)


@pytest.mark.parametrize("kind", ["numbers", "ragged", "residual"])
@pytest.mark.filterwarnings("ignore::compressae.retrieval.export.ResidualWarning")
def test_packed_bytes_are_those_of_the_rows(tmp_path, monkeypatch, catalogues, kind):
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 70)  # Which is no multiple of a block.
    catalogue = catalogues[kind]
    to_parquet(catalogue, tmp_path / "items.parquet", packed=True)
    table = pq.read_table(tmp_path / "items.parquet")
    assert table.column_names[:4] == ["id", "indices", "values", "packed"]
    data = np.frombuffer(b"".join(table["packed"].to_pylist()), np.uint8)
    arrays = {"data": np.concatenate([data, np.zeros(SPARE, np.uint8)])}
    lengths = np.array([len(indices) for indices in table["indices"].to_pylist()], np.uint8)
    if kind == "ragged":
        arrays["counts"] = lengths
    again = catalogue.like.with_rows(len(table), arrays)
    assert isinstance(again, PackedCodes)
    expected = catalogue.index.segments.codes_of(table["id"].to_numpy())
    np.testing.assert_array_equal(again.to_scipy().toarray(), expected.to_scipy().toarray())
    np.testing.assert_array_equal(again.residual_codes(), expected.residual_codes())


def test_plain_codes_have_no_packed_bytes(tmp_path, catalogues):
    with pytest.raises(InputError, match="plain codes"):
        to_parquet(catalogues["plain"], tmp_path / "items.parquet", packed=True)
    assert list(tmp_path.iterdir()) == []


def test_scipy_reads_the_rows_and_numpy_the_ids(tmp_path, catalogues):
    for kind in ("numbers", "texts", "plain", "ragged", "lists"):
        catalogue, path = catalogues[kind], tmp_path / f"{kind}.npz"
        assert to_scipy(catalogue, path) == len(catalogue)
        matrix, file = sparse.load_npz(path), np.load(path)
        assert isinstance(matrix, sparse.csr_array) and matrix.dtype == np.float32
        assert matrix.has_canonical_format and file["version"] == catalogue.version
        expected = rows_of(catalogue)
        assert matrix.shape == (len(expected), catalogue.like.latents)
        for id, row in zip(file["ids"].tolist(), matrix.toarray(), strict=True):
            np.testing.assert_array_equal(row, expected[id])


def test_a_product_with_all_of_the_query_scores_as_a_scan_does(
    tmp_path, catalogues, model, queries
):
    catalogue = catalogues["numbers"]
    to_scipy(catalogue, tmp_path / "items.npz")
    matrix, ids = sparse.load_npz(tmp_path / "items.npz"), np.load(tmp_path / "items.npz")["ids"]
    scores = (sparse_query(model.projection, queries) @ matrix.T).toarray()
    best = np.argsort(-scores, axis=1)[:, :20]
    answers = [
        list(zip(ids[top], own[top], strict=True)) for top, own in zip(best, scores, strict=True)
    ]
    assert_same_answers(catalogue.search(queries, 20, candidates="all"), answers)


def sql_answers(path, queries, K):
    """Search a file of postings by DuckDB."""
    answers = []
    for i in range(queries.shape[0]):
        row = queries[[i]]
        with duckdb.connect() as connection:
            connection.register("query", pa.table({"latent": row.indices, "value": row.data}))
            found = connection.sql(
                f"""SELECT id, sum(p.value * q.value) AS score
                FROM '{path}' p JOIN query q USING (latent)
                GROUP BY id ORDER BY score DESC LIMIT {K}"""
            )
            answers.append(found.fetchall())
    return answers


@pytest.mark.parametrize("kind", ["numbers", "texts", "plain", "ragged"])
@pytest.mark.parametrize("group", [1 << 25, 100, 1])
def test_sql_over_postings_finds_what_a_scan_finds(
    tmp_path, monkeypatch, catalogues, model, queries, kind, group
):
    monkeypatch.setattr(postings, "GROUP_POSTINGS", group)
    catalogue, path = catalogues[kind], tmp_path / "postings.parquet"
    count = to_postings(catalogue, path)
    table = pq.read_table(path)
    assert len(table) == count == sum(np.count_nonzero(row) for row in rows_of(catalogue).values())
    assert (np.diff(table["latent"].to_numpy()) >= 0).all()
    assert json.loads(table.schema.metadata[b"compressae"])["layout"] == "postings"
    answers = sql_answers(path, sparse_query(model.projection, queries), 20)
    assert_same_answers(catalogue.search(queries, 20, candidates="all"), answers)


def test_sql_over_postings_finds_what_lists_find(tmp_path, catalogues):
    rows = sparse.csr_array(np.abs(np.random.default_rng(2).standard_normal((4, 12))))
    rows = rows.astype(np.float32)
    for kind in ("lists", "cosine lists"):
        catalogue = catalogues[kind]
        to_postings(catalogue, tmp_path / "p.parquet", overwrite=True)
        queries = rows
        if kind == "cosine lists":  # Lists bring queries to unit length.
            queries = rows / sparse.csr_array(sparse.linalg.norm(rows, axis=1)[:, None]).toarray()
            queries = sparse.csr_array(queries)
        answers = sql_answers(tmp_path / "p.parquet", queries, 10)
        assert_same_answers(catalogue.search(rows, 10), answers)


def test_residual_codes_are_left_out_with_a_warning(tmp_path, catalogues, model, queries):
    catalogue, path = catalogues["residual"], tmp_path / "items.npz"
    with pytest.warns(ResidualWarning, match="residual codes of 4 bytes, which are left out"):
        to_scipy(catalogue, path)
    # What such a store finds is reranked here, residual codes included.
    matrix, ids = sparse.load_npz(path), np.load(path)["ids"]
    scores = (sparse_query(model.projection, queries) @ matrix.T).toarray()
    everything = catalogue.search(queries, 10, candidates="all")
    for i, own in enumerate(scores):
        candidates = ids[np.argsort(-own)[:100]]
        hits = catalogue.search(queries[[i]], 10, allowed=candidates, candidates="all")
        known = np.isin(everything.ids[i], candidates)
        assert known.mean() >= 0.9
        np.testing.assert_array_equal(hits.ids[0][: known.sum()], everything.ids[i][known])


def test_an_export_stays_at_its_version(tmp_path, model, table):
    catalogue = Catalogue.create(tmp_path / "c", model.projection, encode(model, table[:20]))
    rows = ExportRows(catalogue)
    catalogue.remove([3])
    assert sum(map(len, rows.batches())) == 20
    assert rows.description["version"] == 1 and ExportRows(catalogue).description["version"] == 2


def test_a_catalogue_without_rows_is_exported(tmp_path, model, table):
    catalogue = Catalogue.create(
        tmp_path / "c", model.projection, encode(model, table[:5]), metadata=columns_of(5)
    )
    catalogue.remove(np.arange(5))
    assert to_parquet(catalogue, tmp_path / "a.parquet") == 0
    assert pq.read_table(tmp_path / "a.parquet").column_names[3:] == list(catalogue.columns)
    assert to_parquet(catalogue, tmp_path / "shards", shard_rows=2) == 0
    assert pa.dataset.dataset(tmp_path / "shards", format="parquet").count_rows() == 0
    assert to_postings(catalogue, tmp_path / "b.parquet") == 0
    assert to_scipy(catalogue, tmp_path / "c.npz") == 0
    assert sparse.load_npz(tmp_path / "c.npz").shape == (0, catalogue.like.latents)


def test_chosen_columns_go_along(tmp_path, catalogues):
    to_parquet(catalogues["texts"], tmp_path / "a.parquet", columns=["price"])
    assert pq.read_schema(tmp_path / "a.parquet").names == ["id", "indices", "values", "price"]
    to_parquet(catalogues["texts"], tmp_path / "b.parquet", columns=[])
    assert pq.read_schema(tmp_path / "b.parquet").names == ["id", "indices", "values"]


def test_progress_is_reported(tmp_path, monkeypatch, catalogues):
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 100)
    for write in (to_parquet, to_arrow, to_postings, to_scipy):
        reports = []
        write(
            catalogues["numbers"],
            tmp_path / write.__name__,
            progress=lambda done, total, to=reports: to.append((done, total)),
        )
        assert reports == sorted(reports) and reports[-1][0] == reports[-1][1] > 0


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda c, p: to_parquet(c, p / "none" / "a.parquet"), "create it first"),
        (lambda c, p: to_parquet(c, p), "a folder stands there"),
        (lambda c, p: to_parquet(c, p, shard_rows=5, overwrite=True), "holds mine.txt"),
        (lambda c, p: to_parquet(c, p / "mine.txt"), "overwrite it"),
        (lambda c, p: to_arrow(c, p / "mine.txt"), "overwrite it"),
        (lambda c, p: to_scipy(c, p / "mine.txt"), "overwrite it"),
        (lambda c, p: to_postings(c, p / "mine.txt"), "overwrite it"),
        (lambda c, p: to_parquet(c, p / "mine.txt", shard_rows=5), "a file stands there"),
        (lambda c, p: to_parquet(c, p / "a.parquet", shard_rows=0), "at least 1"),
        (lambda c, p: to_parquet(c, p / "a.parquet", columns=["size"]), "no column 'size'"),
        (lambda c, p: to_scipy(p, p / "a.npz"), "Catalogue.open"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(tmp_path, catalogues, write, said):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=said):
        write(catalogues["numbers"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_column_of_the_exports_own_name_is_refused(tmp_path, model, table):
    columns = {"ID": np.arange(5), "price": np.arange(5)}
    codes = encode(model, table[:5])
    catalogue = Catalogue.create(tmp_path / "c", model.projection, codes, metadata=columns)
    with pytest.raises(InputError, match="'ID' has the name of one of the export's own"):
        to_parquet(catalogue, tmp_path / "a.parquet")
    assert to_parquet(catalogue, tmp_path / "a.parquet", columns=["price"]) == 5


def test_a_failed_export_leaves_the_older_file(tmp_path, monkeypatch, catalogues):
    path = tmp_path / "a.parquet"
    to_parquet(catalogues["numbers"], path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="free some space"):
        to_parquet(catalogues["numbers"], path, overwrite=True, progress=fail)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    to_parquet(catalogues["numbers"], path, overwrite=True)
    shards = tmp_path / "shards"
    to_parquet(catalogues["numbers"], shards, shard_rows=100)
    with pytest.raises(InputError, match="an older export is there"):
        to_parquet(catalogues["numbers"], shards, shard_rows=200)
    to_parquet(catalogues["numbers"], shards, shard_rows=200, overwrite=True)
    assert sorted(file.name for file in shards.iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]


def test_an_export_imports_no_torch(tmp_path, catalogues):
    code = (
        "import sys; from compressae.retrieval import Catalogue, export; import numpy as np; "
        "catalogue = Catalogue.open(sys.argv[1]); "
        "export.to_scipy(catalogue, sys.argv[2]); export.to_parquet(catalogue, sys.argv[3]); "
        "export.sparse_query(catalogue.projection, np.ones((2, 10)), 5); "
        "import compressae.retrieval.export.qdrant, compressae.retrieval.export.postgres; "
        "import compressae.retrieval.export.milvus, compressae.retrieval.export.elastic; "
        "sys.exit('torch' in sys.modules and 'torch was imported')"
    )
    places = [catalogues["numbers"].path, tmp_path / "a.npz", tmp_path / "a.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, places)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
