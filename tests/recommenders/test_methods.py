"""The methods of the Gowalla table: bytes at any budget, and where they do not fit."""

import numpy as np
import pytest
import torch
from benchmarks.gowalla.cells import sizes
from benchmarks.gowalla.codebooks import NormedTable, ProductTable, ResidualTable
from benchmarks.gowalla.joined import JoinedTable
from benchmarks.gowalla.methods import METHODS, SMOKE_METHODS
from benchmarks.gowalla.workbench import DoesNotFit, Setting, Workbench
from recommender_data import blocks, write
from recommenders.interactions import read_split, subset
from recommenders.models import MODELS
from recommenders.training import Recipe

from compressae.retrieval.errors import InputError
from compressae.tables import BudgetedTable, FullTable, IntegerTable

QUANTISED = ("pq", "opq", "rq", "neq")
UNTRAINED = (*QUANTISED, "codes", *(name for name in METHODS if name.endswith("-items")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.npz"
    return read_split(write(path, blocks(users=700, items=500, groups=10)))


def bench_of(whole, folder, dim=32, model="mf", **recipe):
    settings = dict(epochs=2, batch=4096, candidates=128) | recipe
    setting = Setting("lightgcn", model, dim, Recipe(**settings))
    return Workbench(setting, whole, 3, folder / "work", folder / "dense")


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory):
    """Where the first method of a model leaves the trained dense rows for the others."""
    return tmp_path_factory.mktemp("dense")


@pytest.fixture
def untrained(whole, tmp_path, monkeypatch):
    """A function that makes a workbench of d dimensions which trains nothing."""

    def dense_rows(self):
        return np.random.default_rng(0).standard_normal((self.n, self.dim)).astype(np.float32)

    monkeypatch.setattr(Workbench, "train", lambda *args, **settings: None)
    monkeypatch.setattr(Workbench, "dense_rows", dense_rows)
    return lambda dim: bench_of(whole, tmp_path, dim)


#: Bytes by which a method's tables grow at most from one size to the next, of n rows and d.
STEPS = {
    "uniform": lambda n, d: 4 * n,
    "hashing": lambda n, d: 2 * 4 * d,
    # Two sides, of two tables each; dimensions that two tables share unevenly.
    "qr-product": lambda n, d: 4 * 4 * d,
    "qr-add": lambda n, d: 4 * 4 * d,
    "qr-concat": lambda n, d: 4 * 4 * d + 4 * n // 4,
    "pruned": lambda n, d: 3,
    "int8": lambda n, d: n,
    "int4": lambda n, d: n,
    "int4-calibrated": lambda n, d: n,
    "structured": lambda n, d: 2 * (n + 1),
}


@pytest.mark.parametrize("dim", [1, 17, 64])
@pytest.mark.parametrize("name", sorted(STEPS))
def test_budgets_are_kept_and_used(untrained, name, dim):
    method, fitted = METHODS[name], 0
    for removed in (0, 20, 50, 63, 75, 80, 85, 90, 93, 95, 97, 99, 99.9):
        bench = untrained(dim)
        budget = int(bench.n * dim * 4 * (100 - removed) / 100)
        try:
            table = method.function(bench, budget)
        except DoesNotFit:
            continue
        fitted += 1
        assert table.rows().shape[0] == bench.n and table.nbytes <= budget
        all_there = table.rows().shape[1] == dim and name.startswith(("uniform", "int"))
        all_there |= name == "structured" and len(bench.facts["dimensions"]) == dim
        all_there |= name == "pruned" and bench.facts["entries"] == bench.n * dim
        all_there |= all(classes == 1 for _, classes in bench.facts.get("classes", [(0, 0)]))
        all_there |= removed == 0  # Hashed and compositional tables are no larger than full ones.
        assert all_there or budget - table.nbytes <= STEPS[name](bench.n, dim), removed
    assert fitted >= 6 or dim == 1


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("removed", [20, 71])
def test_codes_are_as_many_as_fit(untrained, name, removed):
    bench = untrained(12)
    budget = int(bench.n * 12 * 4 * (100 - removed) / 100)
    table = SMOKE_METHODS[name].function(bench, budget)
    m = bench.facts["m"]
    codes = table.directions.codes if name == "neq" else table.codes
    assert table.nbytes <= budget and codes.shape == (1200, m)
    larger = {
        "pq": lambda: ProductTable.bytes_of(1200, 12, m + 1, False),
        "opq": lambda: min(ProductTable.bytes_of(1200, 12, k, True) for k in range(m + 1, 13)),
        "rq": lambda: ResidualTable.bytes_of(1200, 12, m + 1),
        "neq": lambda: NormedTable.bytes_of(1200, 12, m + 1),
    }[name]
    assert m == 12 or larger() > budget
    assert bench.seconds > 0


@pytest.mark.parametrize("n", [1, 300])
@pytest.mark.parametrize("d", [3, 64, 128])
def test_bytes_of_codes_are_those_that_tables_hold(n, d):
    for m in {1, 2, d // 2, d - 1, d} - {0}:
        codes, width = torch.zeros(n, m, dtype=torch.uint8), m * -(-d // m)
        plain = ProductTable(codes, torch.zeros(256, d))
        turned = ProductTable(codes, torch.zeros(256, width), torch.zeros(width, d))
        assert plain.export().nbytes == ProductTable.bytes_of(n, d, m, False)
        assert turned.export().nbytes == ProductTable.bytes_of(n, d, m, True)
        stages = ResidualTable(codes, torch.zeros(m, 256, d))
        assert stages.export().nbytes == ResidualTable.bytes_of(n, d, m)


@pytest.mark.parametrize("name", sorted({*METHODS} - {"dense"}))
def test_a_budget_that_is_too_small_is_said(untrained, name):
    with pytest.raises(DoesNotFit):
        METHODS[name].function(untrained(16), 40)


def test_codebooks_want_as_many_rows(untrained, pairs_split, tmp_path):
    bench = bench_of(pairs_split, tmp_path, 16)
    with pytest.raises(DoesNotFit, match="200 rows; codebooks of 256 entries"):
        METHODS["pq"].function(bench, 10**6)


# What is on request has other settings alone.
@pytest.mark.parametrize("name", sorted(n for n, m in METHODS.items() if not m.on_request))
@pytest.mark.parametrize("model", MODELS)
def test_each_method_trains_with_each_model(whole, tmp_path, dense_folder, name, model):
    loss = dict(loss="bpr", decay=0.0) if model == "ncf" else {}
    bench = bench_of(whole, tmp_path, 32, model, **loss)
    bench.dense_folder = dense_folder / model
    method = SMOKE_METHODS[name]
    budget = bench.n * 32 * 4 // (1 if name == "dense" or method.counts == "items" else 3)
    if model == "ngcf" and method.counts == "items":
        budget *= 4  # Rows of four layers are served.
    if model == "ncf" and method.counts == "items":
        with pytest.raises(DoesNotFit, match="no dot products"):
            method.function(bench, budget)
        return
    table = method.function(bench, budget)
    assert 0 <= sizes(method, table, budget)["unused"] < 0.7
    recommender = bench.served(table) if method.counts == "items" else bench.recommender(table)
    scores = recommender.scorer()(np.arange(5))
    assert scores.shape == (5, 500) and np.isfinite(scores).all() and scores.std() > 0
    assert bench.trainings or name in UNTRAINED
    if name.startswith("int"):
        assert isinstance(table, IntegerTable)


def test_dense_rows_are_trained_once_with_the_weights_beside_them(whole, tmp_path):
    bench = bench_of(whole, tmp_path, 16, "ncf", loss="bpr", decay=0.0)
    rows = bench.dense_rows()
    seconds = bench.dense_seconds
    assert seconds > 0 and bench.seconds == 0 and not bench.trainings
    again = bench_of(whole, tmp_path, 16, "ncf", loss="bpr", decay=0.0)
    np.testing.assert_array_equal(again.dense_rows(), rows)
    assert again.dense_seconds == seconds
    models = [b.recommender(FullTable.from_dense(rows)) for b in (bench, again)]
    fresh = bench_of(whole, tmp_path, 16, "ncf").recommender(FullTable.from_dense(rows))
    users = np.arange(9)
    one, other, untaught = (model.scorer()(users) for model in (*models, fresh))
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(one, untaught)
    with pytest.raises(InputError, match="trained with setting"):
        bench_of(whole, tmp_path, 16, "ncf").dense_rows()


def test_rows_as_they_are_served_score_as_the_dense_model(whole, tmp_path):
    bench = bench_of(whole, tmp_path, 16, "lightgcn")
    users, items = bench.served_rows()
    assert items.shape == (500, 16)
    served = bench.served(JoinedTable(users, FullTable.from_dense(items)))
    dense = bench.recommender(FullTable.from_dense(bench.dense_rows()))
    some = np.arange(40)
    np.testing.assert_allclose(served.scorer()(some), dense.scorer()(some), rtol=1e-5, atol=1e-6)


def test_what_counts_against_a_budget():
    table = JoinedTable(FullTable(30, 8), FullTable(50, 8))
    items = METHODS["codes-items"]
    assert sizes(items, table, 80 * 32)["unused"] == 0  # Users are none of it.
    assert sizes(items, table, 80 * 64) == pytest.approx(
        {"bytes": 50 * 32, "bytes_a_row": 32, "numbers": 400, "unused": 0.5}
    )
    with pytest.raises(InputError, match="codes-items: 1600 bytes, over its budget of 1599"):
        sizes(items, table, 80 * 32 - 2)
    ragged = BudgetedTable([3, 1, 4], 4)
    assert sizes(METHODS["bet"], ragged, 8 * 4)["unused"] == 0
    assert sizes(METHODS["bet"], ragged, 8 * 4)["bytes"] == 8 * 4 + 3 + 8
    with pytest.raises(InputError, match="bet: 32 bytes, over its budget of 31"):
        sizes(METHODS["bet"], ragged, 31)


def test_subsets_are_the_most_active(whole):
    small = subset(whole, 50, 30)
    assert small.train.shape == (50, 30) and small.train.nnz > 50
    counts = np.sort(np.bincount(whole.train.indices, minlength=500))[::-1]
    items = np.argsort(-np.bincount(whole.train.indices, minlength=500), kind="stable")[:30]
    expected = np.sort(np.diff(whole.train[:, np.sort(items)].indptr))[::-1][:50]
    np.testing.assert_array_equal(np.sort(np.diff(small.train.indptr))[::-1], expected)
    assert counts[:30].sum() >= small.train.nnz and np.diff(small.train.indptr).all()
    assert subset(whole, 10**6, 10**6).train.nnz == whole.train.nnz
