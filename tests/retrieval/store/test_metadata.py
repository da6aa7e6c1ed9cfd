"""Metadata of a catalogue's rows: filters, changes, and files that are not trusted."""

import json
import multiprocessing
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from commands import call, succeed
from scipy import sparse

from compressae import CompresSAE, InputError, compress
from compressae.retrieval import Catalogue
from compressae.retrieval.store import metadata as metadata_module
from compressae.retrieval.store.metadata import Engine

duckdb = pytest.importorskip("duckdb", reason="needs duckdb, of the development extra")

N, H = 300, 12


def rows_of(seed, count):
    """Small integers, so that sums are exact and ties abound."""
    dense = np.random.default_rng(seed).choice([0, 0, -1, 1, 2], (count, H))
    return sparse.csr_array(dense.astype(np.float32))


def columns_of(seed, count):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "price": rng.integers(0, 100, count).astype(float),
            "in_stock": pa.array(rng.random(count) < 0.5, mask=rng.random(count) < 0.1),
            "Brand name": [f"brand {i}" for i in rng.integers(0, 20, count)],
        }
    )


CONDITIONS = {
    "half": "price < 50",
    "nulls are not true": "in_stock",
    "nor their opposite": "not in_stock",
    "texts": "\"Brand name\" = 'brand 3'",
    "few": "price = 7 and in_stock",
    "none": "price > 1000",
    "all": "price >= 0",
}


def is_true(table, condition):
    """Rows (n,) bool for which a condition is true, by plain Python."""
    price = table["price"].to_numpy()
    stock = table["in_stock"].to_pylist()
    return {
        "half": price < 50,
        "nulls are not true": np.array([value is True for value in stock]),
        "nor their opposite": np.array([value is False for value in stock]),
        "texts": np.array([name == "brand 3" for name in table["Brand name"].to_pylist()]),
        "few": (price == 7) & np.array([value is True for value in stock]),
        "none": price > 1000,
        "all": price >= 0,
    }[condition]


def assert_same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.fixture
def lists(tmp_path):
    """A catalogue whose ids are in no order."""
    ids = np.random.default_rng(5).permutation(1000)[:N]
    catalogue = Catalogue.create(
        tmp_path / "c", None, rows_of(0, N), ids, metadata=columns_of(0, N)
    )
    return catalogue, ids


@pytest.mark.parametrize("condition", CONDITIONS)
def test_only_rows_for_which_a_condition_is_true_are_found(lists, condition):
    catalogue, ids = lists
    allowed = ids[is_true(columns_of(0, N), condition)]
    for K in (3, N + 5):
        assert_same(
            catalogue.search(rows_of(1, 4), K, where=CONDITIONS[condition]),
            catalogue.search(rows_of(1, 4), K, allowed=allowed),
        )


def test_a_pyarrow_expression_filters_as_its_sql_does(lists):
    catalogue, _ = lists
    expression = (pc.field("price") < 50) & pc.field("in_stock")
    assert_same(
        catalogue.search(rows_of(1, 4), 9, where=expression),
        catalogue.search(rows_of(1, 4), 9, where="price < 50 and in_stock"),
    )


def test_filters_compose(lists):
    catalogue, ids = lists
    left_out = [ids[:100].tolist(), [], [int(ids[5])], []]
    allowed = ids[::2]
    cheap = ids[is_true(columns_of(0, N), "half")]
    assert_same(
        catalogue.search(rows_of(1, 4), 9, where="price < 50", allowed=allowed, exclude=left_out),
        catalogue.search(
            rows_of(1, 4), 9, allowed=np.intersect1d(allowed, cheap), exclude=left_out
        ),
    )


@pytest.mark.parametrize("candidates", [5, 40, "all"])
def test_dense_queries_are_filtered_in_both_stages(tmp_path, candidates):
    table = np.random.default_rng(0).standard_normal((N, 10)).astype(np.float32)
    model = CompresSAE(10, 32, 4, seed=1)
    model.settings = {"recipe": "pursuit"}
    columns = columns_of(2, N)
    catalogue = Catalogue.create(
        tmp_path / "c", model.projection, compress(model, table), metadata=columns
    )
    cheap = np.flatnonzero(is_true(columns, "half"))
    options = {"candidates": candidates}
    hits = catalogue.search(table[:6], 5, where="price < 50", **options)
    assert_same(hits, catalogue.search(table[:6], 5, allowed=cheap, **options))
    assert np.isin(hits.ids, cheap).all()


@pytest.mark.parametrize("ids", ["numbers", "texts"])
def test_columns_follow_their_rows_through_changes(tmp_path, ids):
    names = [f"row {i}" for i in range(2 * N)] if ids == "texts" else list(range(2 * N))
    catalogue = Catalogue.create(
        tmp_path / "c", None, rows_of(0, N), names[:N], metadata=columns_of(0, N)
    )
    expected = dict(zip(names, columns_of(0, N).to_pylist(), strict=False))

    def given(seed, some):
        new = columns_of(seed, len(some))
        expected.update(zip(some, new.to_pylist(), strict=True))
        return new

    # Columns are given in another order, as plain lists or not at all.
    catalogue.add(rows_of(1, 40), names[N : N + 40], given(1, names[N : N + 40]))
    some = names[10:20] + names[N + 5 : N + 8]
    new = given(2, some).select([2, 0, 1])
    catalogue.update(some, rows_of(2, 13), new.to_pydict())
    catalogue.update(names[30:35], rows_of(3, 5))
    catalogue.update([names[N + 1], names[3]], metadata=given(4, [names[N + 1], names[3]]))
    with catalogue.writing() as change:
        change.remove(names[50:60])
        for name in names[50:60]:
            del expected[name]
        some = [*names[50:54], *names[N + 60 : N + 70], names[7]]
        assert change.put(rows_of(5, 15), some, given(5, some)) == 1
        change.update([names[7]], metadata=given(6, [names[7]]))
    for compact in (False, True):
        if compact:
            catalogue.compact()
        opened = Catalogue.open(tmp_path / "c", verify=True)
        kept = sorted(expected)
        assert opened.metadata(kept).to_pylist() == [expected[name] for name in kept]
        for condition, sql in CONDITIONS.items():
            table = pa.Table.from_pylist([expected[name] for name in kept])
            allowed = [kept[i] for i in np.flatnonzero(is_true(table, condition))]
            for one in (catalogue, opened):
                assert_same(
                    one.search(rows_of(9, 3), 400, where=sql),
                    one.search(rows_of(9, 3), 400, allowed=allowed),
                )


def test_metadata_alone_leaves_the_codes_of_its_rows(lists):
    catalogue, ids = lists
    before = catalogue.search(rows_of(1, 4), 50)
    catalogue.update(ids[:30], metadata=columns_of(8, 30))
    assert_same(catalogue.search(rows_of(1, 4), 50), before)
    assert catalogue.metadata(ids[:30]).equals(columns_of(8, 30))


def test_a_reader_keeps_the_columns_of_its_version(lists):
    catalogue, ids = lists
    reader = Catalogue.open(catalogue.path)
    before = reader.search(rows_of(1, 4), 20, where="price < 50")
    everything = columns_of(0, N).set_column(0, "price", pa.array(np.full(N, 99.0)))
    catalogue.update(ids, metadata=everything)
    assert_same(reader.search(rows_of(1, 4), 20, where="price < 50"), before)
    reader.refresh()
    assert (reader.search(rows_of(1, 4), 20, where="price < 50").ids == -1).all()


def test_a_condition_is_evaluated_once_for_each_segment(lists, monkeypatch):
    catalogue, _ = lists
    evaluated = []
    evaluate = Engine.evaluate

    def count(self, table, condition):
        evaluated.append(table.count_rows())
        return evaluate(self, table, condition)

    monkeypatch.setattr(Engine, "evaluate", count)
    for _ in range(3):
        catalogue.search(rows_of(1, 4), 5, where="price < 50")
    assert len(evaluated) == 1
    catalogue.add(rows_of(1, 2), metadata=columns_of(1, 2))
    catalogue.search(rows_of(1, 4), 5, where="price < 50")
    assert evaluated == [N, 2]
    for price in range(20):  # More conditions than are kept.
        catalogue.search(rows_of(1, 4), 5, where=f"price < {price}")
    catalogue.search(rows_of(1, 4), 5, where="price < 50")
    assert len(evaluated) == 2 + 40 + 2


@pytest.mark.parametrize(
    ("where", "message"),
    {
        "no such column": ("prise < 3", "no column 'prise'; expected some of price, in_stock"),
        "no condition": ("price <", "syntax error"),
        "an aggregate": ("count(*) > 3", "aggregates"),
        "two statements": ("price < 3; drop table x", "SELECT|statement"),
        "a way out": ("true) or (select 1", "syntax error"),
        "another file": ("exists (select * from read_text('/etc/passwd'))", "subquery in it"),
        "a window": ("row_number() over () < 5", "window in it"),
        "all columns": ("columns(*) > 3", "star in it"),
        "two conditions": ("price < 3, in_stock", "single expression"),
        "rows to many": ("unnest([true, false])", "UNNEST"),
        "the time": ("now() > '2026-01-01'", "now answers otherwise"),
        "the time, aloud": ("NOW() > '2026-01-01'", "now answers otherwise"),
        "the day": ("current_date > '2026-01-01'", "no column 'current_date'|answers otherwise"),
        "chance": ("random() < 0.5", "random answers otherwise"),
        "the machine": ("current_setting('threads') = 1", "answers otherwise"),
        "long": ("price < 3 or " * 400 + "in_stock", "more than 4096 characters"),
        "no UTF-8": ("price < '\ud800'", "surrogates"),
        "a number": (3, "int; expected an SQL expression"),
        "a wrong field": (pc.field("prise") < 3, "prise"),
    }.values(),
)
def test_what_is_no_condition_of_the_columns_is_refused(lists, where, message):
    catalogue, _ = lists
    with pytest.raises(InputError, match=message) as error:
        catalogue.search(rows_of(1, 4), 5, where=where)
    assert "\n" not in str(error.value)


def test_a_condition_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(metadata_module, "_SLOWEST", 0.2)
    table = pyarrow.dataset.InMemoryDataset(pa.table({"price": np.arange(300_000)}))
    engine = Engine(threads=1)
    with pytest.raises(InputError, match="not done after"):
        engine.evaluate(table, "md5(repeat('x', 20000 + price)) = 'a'")
    assert engine.evaluate(table, "price < 5").sum() == 5


def test_files_cannot_be_read_by_a_condition(tmp_path):
    """Also where a function that reads them passed the check of a condition's form."""
    (tmp_path / "secret.txt").write_text("secret")
    cursor = Engine(threads=1)._cursor()
    for query in (
        f"SELECT * FROM read_text('{tmp_path}/secret.txt')",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        "SET enable_external_access = true",
        "INSTALL spatial",
    ):
        with pytest.raises(duckdb.Error, match="disabled|locked|Permission"):
            cursor.execute(query)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes that fork")
def test_a_forked_process_evaluates_conditions(lists):
    catalogue, _ = lists
    expected = catalogue.search(rows_of(1, 2), 5, where="price < 50").ids
    process = multiprocessing.get_context("fork").Process(
        target=_search_elsewhere, args=(catalogue, expected)
    )
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0


def _search_elsewhere(catalogue, expected):
    found = catalogue.search(rows_of(1, 2), 5, where="price < 50 and price >= 0").ids
    os._exit(0 if np.array_equal(found, expected) else 1)


def test_a_reader_keeps_its_metadata_when_it_is_pruned_or_replaced(lists):
    catalogue, ids = lists
    reader = Catalogue.open(catalogue.path)
    condition, expected = "price < 50", columns_of(0, N)
    hits = catalogue.search(rows_of(1, 2), 20, where=condition)
    catalogue.update(ids, metadata=columns_of(1, N))
    catalogue.compact()
    catalogue.prune()
    assert_same(reader.search(rows_of(1, 2), 20, where=condition), hits)
    assert reader.metadata(ids).equals(expected)
    other = Catalogue.open(catalogue.path)
    now = other.search(rows_of(1, 2), 20, where=condition)
    for _ in range(2):  # The second has as many versions as the first.
        Catalogue.create(
            catalogue.path, None, rows_of(7, N), ids, metadata=columns_of(8, N), overwrite=True
        )
    assert_same(other.search(rows_of(1, 2), 20, where=condition), now)
    first = Catalogue.open(catalogue.path)
    Catalogue.create(
        catalogue.path, None, rows_of(9, N), ids, metadata=columns_of(9, N), overwrite=True
    )
    for stale in (other, first):
        with pytest.raises(InputError, match="replaced by another catalogue"):
            stale.refresh()


def test_a_catalogue_without_metadata_says_so(tmp_path):
    catalogue = Catalogue.create(tmp_path / "c", None, rows_of(0, 9))
    assert catalogue.columns == {}
    for change in (
        lambda: catalogue.search(rows_of(1, 1), 3, where="price < 3"),
        lambda: catalogue.add(rows_of(1, 2), metadata=columns_of(0, 2)),
        lambda: catalogue.metadata([1]),
    ):
        with pytest.raises(InputError, match="without (metadata|columns)"):
            change()
    assert catalogue.version == 1


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "none": (lambda c, ids: c.add(rows_of(1, 2)), "metadata is missing"),
        "too few rows": (
            lambda c, ids: c.add(rows_of(1, 2), metadata=columns_of(0, 1)),
            "1 rows for 2",
        ),
        "a column less": (
            lambda c, ids: c.add(rows_of(1, 2), metadata=columns_of(0, 2).select([0])),
            "expected price, in_stock",
        ),
        "another type": (
            lambda c, ids: c.update(
                ids[:1], metadata={"price": ["dear"], "in_stock": [True], "Brand name": ["b"]}
            ),
            "dear",
        ),
        "nothing": (lambda c, ids: c.update(ids[:1]), "nothing to update"),
        "an unknown id": (
            lambda c, ids: c.update([5000], metadata=columns_of(0, 1)),
            "5000",
        ),
    }.values(),
)
def test_metadata_that_does_not_fit_changes_nothing(lists, change, message):
    catalogue, ids = lists
    with pytest.raises(InputError, match=message):
        change(catalogue, ids)
    assert Catalogue.open(catalogue.path).version == 1
    assert Catalogue.open(catalogue.path).metadata(ids).equals(columns_of(0, N))


@pytest.mark.parametrize(
    ("metadata", "message"),
    {
        "too few rows": ({"a": [1, 2]}, "2 rows for 9"),
        "uneven": ({"a": range(9), "b": [1]}, "length"),
        "one name": (pa.table([range(9), range(9)], ["a", "A"]), "names that differ"),
        "an empty column": ({"a": [None] * 9}, "'a' is empty in all rows"),
        "no name": (pa.table([range(9)], [""]), "names that differ"),
        "no table": (3, "expected a table"),
        "no file": ("missing.parquet", "no .parquet file"),
    }.values(),
)
def test_metadata_of_another_form_makes_no_catalogue(tmp_path, metadata, message):
    with pytest.raises(InputError, match=message):
        Catalogue.create(tmp_path / "c", None, rows_of(0, 9), metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def forge(catalogue, change):
    """Change a segment's metadata as an author would, with checksums that are right."""
    import hashlib

    (segment,) = (catalogue.path / "segments").iterdir()
    change(segment / "metadata.parquet")
    config = json.loads((segment / "config.json").read_text())
    raw = (segment / "metadata.parquet").read_bytes()
    record = config["files"]["metadata.parquet"]
    record["bytes"], record["sha256"] = len(raw), hashlib.sha256(raw).hexdigest()
    config.pop("checksum")
    config["checksum"] = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    (segment / "config.json").write_text(json.dumps(config))
    (file,) = (catalogue.path / "versions").iterdir()
    version = json.loads(file.read_text())
    version["version"]["segments"][0]["config"] = hashlib.sha256(
        (segment / "config.json").read_bytes()
    ).hexdigest()
    text = json.dumps(version["version"], sort_keys=True)
    version["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(version))


@pytest.mark.parametrize(
    "change",
    {
        "fewer rows": lambda file: pq.write_table(columns_of(0, N - 1), file),
        "more rows": lambda file: pq.write_table(columns_of(0, N + 1), file),
        "no parquet": lambda file: file.write_bytes(b"PAR1" * 10),
        "cut": lambda file: file.write_bytes(file.read_bytes()[:-50]),
        "other columns": lambda file: pq.write_table(columns_of(0, N).select([0, 1]), file),
        "other types": lambda file: pq.write_table(
            columns_of(0, N).set_column(0, "price", pa.array(range(N))), file
        ),
    }.values(),
    ids=["fewer rows", "more rows", "no parquet", "cut", "other columns", "other types"],
)
def test_forged_metadata_is_one_line(lists, change):
    catalogue, ids = lists
    forge(catalogue, change)
    opened = Catalogue.open(catalogue.path)
    assert_same(opened.search(rows_of(1, 2), 5), catalogue.search(rows_of(1, 2), 5))
    for use in (
        lambda: opened.search(rows_of(1, 2), 5, where="price < 50"),
        lambda: opened.search(rows_of(1, 2), 5, where=pc.field("price") < 50),
        lambda: opened.metadata(ids[:3]),
    ):
        with pytest.raises(InputError):
            use()


def test_an_empty_file_of_metadata_is_one_line(lists):
    catalogue, _ = lists
    forge(catalogue, lambda file: file.write_bytes(b""))
    with pytest.raises(InputError, match="empty"):
        Catalogue.open(catalogue.path)


def test_texts_of_another_kind_are_taken(tmp_path):
    names = pa.array(["a", "b", "c"]).cast(pa.string_view())
    catalogue = Catalogue.create(
        tmp_path / "c", None, rows_of(0, 3), [7, 3, 5], metadata=pa.table({"name": names})
    )
    assert catalogue.metadata([3, 7])["name"].to_pylist() == ["b", "a"]
    assert catalogue.search(rows_of(0, 3)[[0]], 3, where="name = 'a'").ids.max() == 7


def test_missing_libraries_are_named(lists, monkeypatch):
    catalogue, _ = lists
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(InputError, match=r"needs duckdb; pip install 'compressae\[sql\]'"):
        catalogue.search(rows_of(1, 2), 5, where="price < 3")


def test_commands_take_metadata_and_conditions(tmp_path):
    scipy_rows = rows_of(0, N)
    sparse.save_npz(tmp_path / "rows.npz", scipy_rows)
    sparse.save_npz(tmp_path / "queries.npz", rows_of(1, 2))
    skus = [f"sku {i}" for i in range(N)]
    pq.write_table(columns_of(0, N).append_column("sku", [skus]), tmp_path / "m.parquet")
    options = ("--metadata", tmp_path / "m.parquet", "--id-column", "sku")
    succeed("index", tmp_path / "rows.npz", "-o", tmp_path / "c", *options)
    query = ("search", tmp_path / "c", tmp_path / "queries.npz", "--json", "-k", 4)
    out = succeed(*query, "--where", "price < 50 and sku <> 'sku 1'")
    catalogue = Catalogue.open(tmp_path / "c")
    hits = catalogue.search(rows_of(1, 2), 4, where="price < 50 and sku <> 'sku 1'")
    assert [json.loads(line)["ids"] for line in out.splitlines()] == hits.ids.tolist()
    assert "price double" in succeed("info", tmp_path / "c")
    code, _, err = call(*query, "--where", "prise < 50")
    assert code == 1 and "prise" in err and len(err.splitlines()) == 1

    one = columns_of(0, 1).append_column("sku", [["sku 7"]])
    pq.write_table(one.set_column(0, "price", [[-5.0]]), tmp_path / "new.parquet")
    said = json.loads(
        succeed(
            "update", tmp_path / "c", "--metadata", tmp_path / "new.parquet", "--id-column", "sku",
            "--json",
        )
    )  # fmt: skip
    assert (said["replaced"], said["added"], said["rows"]) == (1, 0, N)
    out = succeed(*query, "--where", "price < 0")
    assert json.loads(out.splitlines()[0])["ids"][:1] == ["sku 7"]

    sparse.save_npz(tmp_path / "two.npz", rows_of(2, 2))
    both = columns_of(3, 2).append_column("sku", [["sku 7", "new"]])
    pq.write_table(both, tmp_path / "two.parquet")
    command = ("update", tmp_path / "c", "--add", tmp_path / "two.npz", "--json")
    said = json.loads(
        succeed(*command, "--metadata", tmp_path / "two.parquet", "--id-column", "sku")
    )
    assert (said["replaced"], said["added"]) == (1, 1)
    catalogue.refresh()
    assert catalogue.metadata(["new", "sku 7"]).equals(both.take([1, 0]))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("--id-column", "sku"), "which are missing"),
        (("--ids", "m.parquet"), "--id-column"),
        (("--metadata", "m.parquet", "--id-column", "skew"), "no column 'skew'"),
        (("--metadata", "holes.parquet", "--id-column", "sku"), "1 empty ids"),
        (("--metadata", "m.npy"), "no .parquet file"),
    ],
)
def test_commands_name_what_is_wrong_with_metadata(tmp_path, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    sparse.save_npz("rows.npz", rows_of(0, 3))
    pq.write_table(pa.table({"sku": ["a", "b", "c"]}), "m.parquet")
    pq.write_table(pa.table({"sku": ["a", None, "c"]}), "holes.parquet")
    code, _, err = call("index", "rows.npz", "-o", "c", *command)
    assert code in (1, 2) and message in err
    assert not (tmp_path / "c").exists()
