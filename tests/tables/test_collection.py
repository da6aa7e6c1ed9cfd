"""Collections of tables: beside modules of nn.EmbeddingBag, under thresholds and budgets."""

import copy
import io

import numpy as np
import pytest
import torch
from table_kinds import KINDS, SMOOTH, D, N, make
from torch import nn

from compressae.retrieval.errors import InputError
from compressae.tables import (
    CodedTable,
    CompositionalTable,
    FullTable,
    HashedTable,
    PathTable,
    PrunedTable,
    QuantizedTable,
    TableCollection,
    partition,
)

ROWS = {"user": 300, "item": 70, "day": 7}
SHARED = ("hashing", "quotient-remainder", "mixed-radix", "chinese-remainder", "path")
FIXED = ("full", "int8", "int4")
shared = pytest.mark.parametrize("kind", SHARED)
every = pytest.mark.parametrize("kind", SHARED + FIXED)


def collect(kind, rows=ROWS, dim=6, **settings):
    """A collection of the kind, with 4 collisions where rows are shared."""
    torch.manual_seed(0)
    size = {} if kind in FIXED or "budget" in settings else {"collisions": 4}
    return TableCollection(rows, dim, kind, **size, **settings)


def batch():
    """Dense ids, bags of one length with padding, and bags with offsets, of five examples."""
    return {
        "user": torch.tensor([0, 299, 4, 4, 120]),
        "item": torch.tensor([[1, 69], [69, 69], [0, 0], [3, 2], [1, 1]]),
        "day": (torch.tensor([6, 6, 0, 1, 2, 3], dtype=torch.int32), torch.tensor([0, 2, 2, 5, 6])),
    }


class KeyedJagged:
    """As much of torchrec's KeyedJaggedTensor as a collection reads."""

    def __init__(self, keys, values, lengths, weights=None, offsets_only=False):
        self._keys, self._values, self._lengths = keys, values, lengths
        self.weights_or_none = lambda: weights
        if not offsets_only:
            self.lengths = lambda: lengths

    def keys(self):
        return self._keys

    def values(self):
        return self._values

    def offsets(self):
        return torch.cat((self._lengths.new_zeros(1), self._lengths.cumsum(0)))


def jagged(**settings):
    """Two features of three examples, the second one first."""
    values = torch.tensor([1, 2, 0, 5, 299, 8])
    return KeyedJagged(["item", "user"], values, torch.tensor([2, 0, 1, 1, 1, 1]), **settings)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_full_collection_is_a_module_dict_of_embedding_bags(mode):
    ours = collect("full", mode=mode, padding_idx=-1)
    theirs = nn.ModuleDict(
        {n: nn.EmbeddingBag(rows, 6, mode=mode, padding_idx=-1) for n, rows in ROWS.items()}
    )
    theirs.load_state_dict(ours.state_dict())
    features, found = batch(), []
    given = {
        "user": (features["user"][:, None],),
        "item": (features["item"],),
        "day": (features["day"][0].long(), features["day"][1]),
    }
    for outputs in (ours(features), {name: theirs[name](*ids) for name, ids in given.items()}):
        sum((rows * torch.arange(30).view(5, 6)).sum() for rows in outputs.values()).backward()
        found.append(outputs)
    assert list(found[0]) == list(ROWS)
    for name in ROWS:
        torch.testing.assert_close(found[0][name], found[1][name])
        torch.testing.assert_close(ours[name].weight.grad, theirs[name].weight.grad)


@every
def test_outputs_are_pooled_rows_of_the_tables(kind):
    collection = collect(kind, mode="mean")
    pooled = collection(batch())
    assert {name: tuple(rows.shape) for name, rows in pooled.items()} == dict.fromkeys(ROWS, (5, 6))
    torch.testing.assert_close(pooled["user"], collection["user"](batch()["user"]))
    torch.testing.assert_close(pooled["item"], collection["item"](batch()["item"]).mean(1))
    assert (pooled["day"][1] == 0).all()
    torch.testing.assert_close(pooled["day"][2], collection["day"].rows()[[0, 1, 2]].mean(0))


@pytest.mark.parametrize("offsets_only", [False, True])
def test_keyed_jagged_ids_are_split_by_feature(offsets_only):
    collection = collect("quotient-remainder", {"user": 300, "item": 70})
    pooled = collection(jagged(offsets_only=offsets_only))
    torch.testing.assert_close(pooled["user"], collection["user"](torch.tensor([5, 299, 8])))
    items = collection["item"].rows()
    wanted = torch.stack((items[1] + items[2], torch.zeros(6), items[0]))
    torch.testing.assert_close(pooled["item"], wanted)


def test_keys_with_numbers_of_examples_of_their_own_are_refused():
    features = jagged()
    features.stride_per_key = lambda: [2, 4]
    with pytest.raises(InputError, match=r"examples of each key \[2, 4\]"):
        collect("full", {"user": 300, "item": 70})(features)


def test_weights_of_ids_with_keys_or_without():
    collection = collect("chinese-remainder", {"user": 300, "item": 70})
    weights = torch.tensor([1.0, -2, 3, 4, 5, 6])
    keyed = collection(jagged(weights=weights))
    features = {
        "user": torch.tensor([5, 299, 8]),
        "item": (torch.tensor([1, 2, 0]), torch.tensor([0, 2, 2])),
    }
    plain = collection(features, {"user": weights[3:], "item": weights[:3]})
    users = collection["user"](features["user"]) * weights[3:, None]
    torch.testing.assert_close(plain["user"], users)
    for name in features:
        torch.testing.assert_close(plain[name], keyed[name])
    torch.testing.assert_close(
        collection(features, {"item": weights[:3]})["user"], users / weights[3:, None]
    )


@every
def test_features_below_the_threshold_keep_full_tables(kind):
    collection = collect(kind, threshold=70, hidden=2)
    kinds = {name: type(table) for name, table in collection.items()}
    assert kinds["day"] is FullTable
    assert (kinds["item"] is FullTable) == (kind == "full")
    assert isinstance(collect(kind, threshold=71)["item"], FullTable)


def test_collisions_are_those_of_the_paper():
    def sizes(kind, **settings):
        table = collect(kind, {"user": 301}, **settings)["user"]
        return table.partitioner.sizes

    assert sizes("hashing") == (76,)
    assert sizes("quotient-remainder") == sizes("path") == (76, 4)
    assert sizes("chinese-remainder") == (77, 4)
    assert sizes("mixed-radix", parts=3) == (76, 2, 2)
    few = TableCollection({"user": 3}, 4, collisions=2)["user"]
    assert isinstance(few, FullTable)  # Two remainders and two quotients would be larger.
    one = TableCollection({"user": 300}, 4, collisions=1)["user"]
    assert isinstance(one, FullTable)


@shared
@pytest.mark.parametrize("combine", ["concat", "add", "product"])
@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("threshold", [0, 71])
def test_a_budget_is_used_and_never_exceeded(kind, combine, dtype, threshold):
    rows = {"a": 10_000, "b": 997, "c": 70, "d": 3}
    full = collect("full", rows, dim=8, dtype=dtype).nbytes
    for share in (0.5, 0.25) if combine == "concat" else (0.9, 0.4):
        budget = int(share * full)
        settings = dict(threshold=threshold, combine=combine, dtype=dtype, hidden=4)
        collection = collect(kind, rows, 8, budget=budget, **settings)
        held = sum(p.numel() * p.element_size() for p in collection.parameters())
        assert collection.nbytes == held <= budget
        assert held > 0.97 * budget
        assert isinstance(collection["d"], FullTable) or kind == "hashing" or combine == "concat"
        assert isinstance(collection["c"], FullTable) or not threshold


@shared
def test_a_budget_of_the_full_tables_keeps_them(kind):
    budget = collect("full").nbytes
    assert all(isinstance(t, FullTable) for t in collect(kind, budget=budget).values())


@shared
def test_the_least_budget_is_named_and_enough(kind):
    with pytest.raises(InputError, match=r"budget of 10 bytes .* expected \d+ or more") as caught:
        collect(kind, budget=10)
    least = int(str(caught.value).split("expected ")[1].split()[0])
    assert collect(kind, budget=least).nbytes <= least
    with pytest.raises(InputError, match=f"expected {least} or more"):
        collect(kind, budget=least - 1)


@pytest.mark.parametrize("kind", FIXED)
def test_a_kind_of_one_size_fits_its_budget_or_not(kind):
    collection = collect(kind)
    assert collect(kind, budget=collection.nbytes).nbytes == collection.nbytes
    with pytest.raises(InputError, match=f"expected {collection.nbytes} or more"):
        collect(kind, budget=collection.nbytes - 1)


@every
def test_counts_are_sums_over_the_tables(kind):
    collection = collect(kind)
    assert collection.nbytes == sum(table.nbytes for table in collection.values())
    assert collection.num_parameters == sum(p.numel() for p in collection.parameters())
    assert collection.rows == ROWS and collection.embedding_dims == dict.fromkeys(ROWS, 6)


@every
def test_a_state_dict_goes_round(kind):
    collection = collect(kind)
    buffer = io.BytesIO()
    torch.save(collection.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(5)
    size = {} if kind in FIXED else {"collisions": 4}
    other = TableCollection(ROWS, 6, kind, **size)
    before = other(batch())["user"]
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(batch())["user"], collection(batch())["user"])
    assert not torch.equal(before, other(batch())["user"])
    assert torch.equal(copy.deepcopy(other)(batch())["day"], other(batch())["day"])


@pytest.mark.parametrize("mode", ["sum", "mean"])
@shared
def test_gradients_are_those_of_the_forward_pass(kind, mode):
    settings = dict(padding_idx=-1, dtype=torch.float64, threshold=8, hidden=2)
    collection = collect(kind, {"user": 24, "item": 9, "day": 7}, mode=mode, **settings)
    names = [name for name, _ in collection.named_parameters()]
    few = batch() | {
        "user": torch.tensor([0, 23, 4, 4, 12]),
        "item": torch.tensor([[1, 8], [8, 8], [0, 0], [3, 2], [1, 1]]),
    }
    with torch.no_grad():
        for parameter in collection.parameters():
            parameter.normal_()

    def forward(*values):
        parameters = dict(zip(names, values, strict=True))
        return tuple(torch.func.functional_call(collection, parameters, (few,)).values())

    assert torch.autograd.gradcheck(forward, tuple(collection.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_in_a_collection_under_autocast(kind):
    collection = TableCollection.of({"a": make(kind), "b": make("full")}, "sum")
    bags = (torch.tensor([0, 22, 6, 6]), torch.tensor([0, 3, 3]))
    plain = collection({"a": bags, "b": torch.tensor([1, 2, 3])})
    with torch.autocast("cpu", torch.bfloat16):
        pooled = collection({"a": bags, "b": torch.tensor([1, 2, 3])})
        nn.functional.linear(
            torch.cat(list(pooled.values()), 1), torch.ones(1, 2 * D)
        ).sum().backward()
    torch.testing.assert_close(pooled["a"], plain["a"], rtol=0.05, atol=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in collection.parameters())


@pytest.mark.parametrize("kind", SMOOTH)
def test_tables_of_any_kind_are_collected(kind):
    table = make(kind)
    collection = TableCollection.of({"a": table})
    ids = torch.tensor([3, N - 1])
    assert collection["a"] is table
    torch.testing.assert_close(collection({"a": ids})["a"], table(ids))


def trained(**settings):
    """Full tables whose rows have a length each, as training leaves them."""
    collection = collect("full", {"user": 900, "item": 300, "day": 7}, 8, **settings)
    with torch.no_grad():
        for table in collection.values():
            table.weight.mul_(torch.linspace(0.1, 2, len(table.weight))[:, None])
    return collection


@pytest.mark.parametrize(("kind", "made"), [("codes", CodedTable), ("pruned", PrunedTable)])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.35])
def test_trained_tables_are_compressed_to_a_budget(kind, made, share):
    source = trained(mode="mean", padding_idx=-1)
    budget = int(share * source.nbytes)
    collection = TableCollection.from_dense(source, kind, budget=budget, threshold=8)
    stored = collection.export()
    tensors = [*stored.parameters(), *stored.buffers()]
    held = sum(x.numel() * x.element_size() for x in tensors)
    assert stored.nbytes == held <= budget
    assert collection.mode == stored.mode == "mean"
    assert isinstance(collection["day"], FullTable) and isinstance(collection["user"], made)
    assert torch.equal(collection["day"].rows(), source["day"].rows())
    assert collection["user"].padding_idx == 899
    errors = []
    for budget in (int(0.35 * source.nbytes), int(0.9 * source.nbytes)):
        rows = TableCollection.from_dense(source, kind, budget=budget)["user"].rows().detach()
        errors.append(float((rows - source["user"].weight.detach()).square().mean()))
    assert errors[1] < 0.5 * errors[0] < errors[0]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_trained_tables_are_rounded(kind):
    source = trained()
    collection = TableCollection.from_dense(source, kind, threshold=8)
    assert {type(t) for t in collection.values()} == {QuantizedTable, FullTable}
    stored = collection.export()
    held = sum(x.numel() * x.element_size() for x in [*stored.parameters(), *stored.buffers()])
    assert held == stored.nbytes == collection.nbytes
    ids = {"user": torch.tensor([4]), "item": torch.tensor([299]), "day": torch.tensor([6])}
    for name, rows in stored(ids).items():
        assert torch.equal(rows, collection(ids)[name])


def test_importance_spends_bytes_on_the_rows_that_are_used():
    source = trained()
    weights = np.where(np.arange(900) < 100, 1.0, 1e-4)
    budget = int(0.4 * source.nbytes)

    def error(**settings):
        collection = TableCollection.from_dense(source, budget=budget, **settings)
        rows = collection["user"].rows().detach()
        return float((rows - source["user"].weight.detach())[:100].square().mean())

    assert error(importance={"user": weights}) < error()


def test_module_dicts_embeddings_and_arrays_are_sources():
    embedding = nn.Embedding(50, 6, padding_idx=3)
    array = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    for source in (nn.ModuleDict({"a": embedding}), {"a": embedding, "b": array}):
        collection = TableCollection.from_dense(source, "int8")
        assert collection["a"].padding_idx == 3 and list(collection) == list(source)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"user": torch.tensor([1])}, "missing feature item, day: expected ids of user, item, day"),
        (batch() | {"hour": torch.tensor([1])}, "unknown feature hour: expected user, item, day"),
        (batch() | {"user": torch.tensor([300])}, "feature 'user': id 300: expected 0 to 299"),
        (batch() | {"user": torch.tensor([1.0])}, "feature 'user': ids of torch.float32"),
        (batch() | {"user": torch.tensor([1])}, "feature 'item': 5 examples, 1 of 'user'"),
        (batch() | {"user": torch.tensor(1)}, r"feature 'user': ids \(\); expected \(B,\)"),
        (batch() | {"user": [1, 2]}, "feature 'user': ids of list; expected a tensor"),
        (batch() | {"user": None}, "feature 'user': ids of NoneType"),
        (
            batch() | {"user": (torch.tensor([1]), torch.tensor([3]))},
            r"feature 'user': offsets \[3\]",
        ),
        (torch.tensor([1]), "features of Tensor: expected {feature: ids}, or keyed jagged ids"),
        (jagged(), "missing feature day"),
        (
            KeyedJagged(["a", "b"], torch.tensor([1]), torch.tensor([1])),
            "1 lengths for 2 keys: expected as many for each key",
        ),
        (
            KeyedJagged(["a"], torch.tensor([1]), torch.tensor([2])),
            "lengths that sum to 2 for 1 values",
        ),
    ],
)
def test_features_that_do_not_fit_are_refused(features, message):
    with pytest.raises(InputError, match=message):
        collect("quotient-remainder")(features)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="feature 'user': per_sample_weights with mode 'mean'"):
        collect("full", mode="mean")(batch(), {"user": torch.ones(5)})
    with pytest.raises(InputError, match=r"feature 'user': per_sample_weights \(4,\)"):
        collect("full")(batch(), {"user": torch.ones(4)})
    with pytest.raises(InputError, match="weights of an unknown feature hour"):
        collect("full")(batch(), {"hour": torch.ones(5)})
    with pytest.raises(InputError, match="beside keyed jagged ids"):
        collect("full")(jagged(), {"user": torch.ones(3)})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: TableCollection({}, 4, collisions=2), "no features"),
        (lambda: TableCollection(ROWS, 4), "expected one of the two sizes"),
        (lambda: TableCollection(ROWS, 4, collisions=2, budget=9), "expected one of the two sizes"),
        (lambda: TableCollection(ROWS, 4, "int8", collisions=2), "expected none"),
        (lambda: TableCollection(ROWS, 4, collisions=0.5), "collisions 0.5: expected a finite"),
        (lambda: TableCollection(ROWS, 4, "qr", collisions=2), "kind 'qr': expected one of full"),
        (lambda: TableCollection(ROWS, 4, "full", mode="last"), "mode 'last'"),
        (lambda: TableCollection({"a": 0}, 4, "full"), "feature 'a': 0 rows"),
        (lambda: TableCollection({"a": 2.5}, 4, "full"), "feature 'a': 2.5 rows"),
        (lambda: TableCollection({"a.b": 3}, 4, "full"), "feature name 'a.b': .* rename"),
        (lambda: TableCollection({"type": 3}, 4, "full"), "feature name 'type': .* rename"),
        (
            lambda: TableCollection(ROWS, 4, "mixed-radix", collisions=2, parts=1),
            "1 parts, mixed-radix: expected 2 or more",
        ),
        (
            lambda: TableCollection(ROWS, 4, collisions=2, combine="multiply"),
            "combine 'multiply': expected concat, add or product",
        ),
        (lambda: TableCollection.of({"a": nn.Embedding(2, 2)}), "feature 'a': Embedding"),
        (lambda: TableCollection.from_dense({"a": torch.ones(2, 2)}), "expected budget="),
        (lambda: TableCollection.from_dense({"a": "rows"}, "int8"), "feature 'a': rows of str"),
        (
            lambda: TableCollection.from_dense({"a": torch.ones(2, 2)}, "pq", budget=9),
            "kind 'pq': expected one of codes, pruned, int8, int4",
        ),
        (
            lambda: TableCollection.from_dense({"a": torch.ones(99, 9)}, budget=9),
            r"budget of 9 bytes for 1 features: expected \d+ or more",
        ),
        (
            lambda: TableCollection.from_dense(
                {"a": torch.ones(2, 2)}, budget=99, importance={"b": [1, 1]}
            ),
            "importance of b: expected features of the sources, a",
        ),
    ],
)
def test_rules_that_do_not_fit_are_refused(made, message):
    with pytest.raises(InputError, match=message):
        made()


@pytest.mark.parametrize("kind", ["quotient-remainder", "mixed-radix", "chinese-remainder"])
@pytest.mark.parametrize("collisions", [1, 1.5, 2, 4, 60, 1000])
@pytest.mark.parametrize("n", [1, 2, 30, 1009])
def test_partitions_of_some_collisions_distinguish_all_ids(kind, collisions, n):
    partitions = partition(n, kind, collisions=collisions)
    classes = np.stack(partitions.classes(np.arange(n)))
    assert len(np.unique(classes, axis=1).T) == n
    assert partitions.sizes[0] >= n / collisions
    assert np.bincount(classes[0]).max() <= collisions + 1


def test_collisions_of_partitions_that_do_not_fit_are_refused():
    for wrong in (dict(collisions=0.5), dict(collisions=2, rows=9), dict(collisions=float("inf"))):
        with pytest.raises(InputError, match="expected 1 or more collisions"):
            partition(10, **wrong)
    with pytest.raises(InputError, match="in 1 partitions"):
        partition(10, "mixed-radix", 1, collisions=2)


def test_sizes_by_arithmetic_are_those_of_tables():
    for kind in ("quotient-remainder", "mixed-radix", "chinese-remainder"):
        partitions = partition(500, kind, collisions=7)
        for combine in ("concat", "add", "product"):
            table = CompositionalTable(500, 6, partitions, combine)
            assert CompositionalTable.entries_of(partitions, 6, combine) == table.num_parameters
        path = PathTable(500, 6, partitions, hidden=3)
        assert PathTable.entries_of(partitions, 6, hidden=3) == path.num_parameters
    assert isinstance(collect("hashing")["user"], HashedTable)
