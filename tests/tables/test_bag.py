"""Bags over tables, beside nn.EmbeddingBag and a loop over bags."""

import pytest
import torch
from table_kinds import KINDS, SMOOTH, D, N, make
from torch import nn

from compressae.retrieval.errors import InputError
from compressae.tables import FullTable, TableBag

IDS = torch.tensor([3, 3, 8, 0, 5, 5, 7, 1])
OFFSETS = torch.tensor([0, 2, 2, 7])  # The second bag is empty.
modes = pytest.mark.parametrize("mode", ["sum", "mean", "max"])


@modes
@pytest.mark.parametrize("padding", [None, 5])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_same_numbers_and_gradients_as_embedding_bag(mode, padding, last, dtype):
    table = FullTable(9, 4, padding_idx=padding)
    ours = TableBag(table, mode, include_last_offset=last)
    theirs = nn.EmbeddingBag(9, 4, mode=mode, padding_idx=padding, include_last_offset=last)
    theirs.load_state_dict(table.state_dict())
    offsets = torch.cat((OFFSETS, torch.tensor([8]))) if last else OFFSETS
    inputs = [(IDS.to(dtype), offsets.to(dtype))]
    if not last:
        inputs.append((IDS.view(2, 4).to(dtype),))
    for given in inputs:
        found = []
        for module in (ours, theirs):
            module.zero_grad()
            pooled = module(*given)
            (pooled * torch.arange(pooled.numel()).view_as(pooled)).sum().backward()
            found.append((pooled, next(module.parameters()).grad.clone()))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("padding", [None, 5])
def test_weights_of_a_sum(padding):
    table = FullTable(9, 4, padding_idx=padding)
    theirs = nn.EmbeddingBag(9, 4, mode="sum", padding_idx=padding)
    theirs.load_state_dict(table.state_dict())
    found = []
    for module in (TableBag(table, "sum"), theirs):
        weights = torch.linspace(-1, 1, 8).requires_grad_()
        pooled = module(IDS, OFFSETS, per_sample_weights=weights)
        pooled.square().sum().backward()
        found.append((pooled, weights.grad, next(module.parameters()).grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    flat = TableBag(table, "sum")(IDS, OFFSETS[:1], per_sample_weights=torch.ones(8))
    square = TableBag(table, "sum")(IDS.view(1, 8), per_sample_weights=torch.ones(1, 8))
    assert torch.equal(flat, square)


@modes
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_pooled_after_they_are_combined(kind, mode):
    table = make(kind, padding_idx=4)
    bag = TableBag(table, mode)
    ids = torch.tensor([[1, 22, 6], [4, 7, 4], [4, 4, 4]])
    pooled = bag(ids)
    for row, one in zip(ids, pooled, strict=True):
        rows = table.rows(row[row != 4])
        wanted = torch.zeros(D)
        if len(rows):
            wanted = {"sum": rows.sum(0), "mean": rows.mean(0), "max": rows.amax(0)}[mode]
        torch.testing.assert_close(one, wanted)


@modes
@pytest.mark.parametrize("kind", SMOOTH)
def test_gradients_through_bags_are_those_of_the_forward_pass(kind, mode):
    bag = TableBag(make(kind, padding_idx=4, dtype=torch.float64), mode)
    with torch.no_grad():
        for parameter in bag.parameters():
            parameter.normal_()
    ids = torch.tensor([[1, 22, 6], [4, 7, 4], [4, 4, 4]])
    names = [name for name, _ in bag.named_parameters()]

    def forward(*values):
        return torch.func.functional_call(bag, dict(zip(names, values, strict=True)), (ids,))

    assert torch.autograd.gradcheck(forward, tuple(bag.parameters()))


def test_product_tables_pool_whole_rows():
    table = make("product")
    ids = torch.arange(N)[None]
    parts = [
        part[classes].sum(0)
        for part, classes in zip(table.tables, table.partitioner(ids[0]), strict=True)
    ]
    whole = TableBag(table, "sum")(ids)[0]
    torch.testing.assert_close(whole, table.rows().sum(0))
    assert not torch.allclose(whole, parts[0] * parts[1])


@modes
def test_no_bags_and_no_ids(mode):
    bag = TableBag(make("add-3"), mode)
    none = torch.zeros(0, dtype=torch.long)
    assert bag(none, none).shape == (0, D)
    assert bag(torch.zeros(0, 3, dtype=torch.long)).shape == (0, D)
    assert (bag(none, torch.zeros(2, dtype=torch.long)) == 0).all()
    assert (bag(torch.zeros(2, 0, dtype=torch.long)) == 0).all()


def test_it_works_in_a_sequential_and_a_state_dict():
    model = nn.Sequential(TableBag(make("budgeted")), nn.Linear(D, 1))
    model(torch.tensor([[2, 6], [5, 5]])).sum().backward()
    assert model[0].table.values.grad.abs().sum() > 0
    other = nn.Sequential(TableBag(make("budgeted")), nn.Linear(D, 1))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(torch.tensor([[1, 2]])), model(torch.tensor([[1, 2]])))


@pytest.mark.parametrize(
    ("ids", "offsets", "message"),
    [
        (IDS, None, r"ids \(8,\), offsets none"),
        (IDS.view(2, 4), OFFSETS, r"ids \(2, 4\), offsets \(4,\)"),
        (IDS.view(2, 2, 2), None, r"ids \(2, 2, 2\)"),
        (IDS, torch.tensor([1, 2]), r"offsets \[1, 2\]: expected ascending numbers from 0 to 8"),
        (IDS, torch.tensor([0, 4, 3]), "expected ascending numbers from 0 to 8, the first 0"),
        (IDS, torch.tensor([0, 9]), "expected ascending numbers from 0 to 8, the first 0"),
        (IDS, torch.zeros(0, dtype=torch.long), "offsets"),
        (torch.tensor([[9]]), None, "id 9"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(ids, offsets, message):
    with pytest.raises(InputError, match=message):
        TableBag(FullTable(9, 2))(ids, offsets)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="mode 'median'"):
        TableBag(FullTable(9, 2), "median")
    with pytest.raises(InputError, match="per_sample_weights with mode 'mean': expected sum"):
        TableBag(FullTable(9, 2))(IDS, OFFSETS, torch.ones(8))
    with pytest.raises(InputError, match=r"per_sample_weights \(7,\): expected \(8,\)"):
        TableBag(FullTable(9, 2), "sum")(IDS, OFFSETS, torch.ones(7))


@pytest.mark.gpu
@modes
def test_on_a_gpu_as_on_the_cpu(mode):
    bag = TableBag(make("product", padding_idx=5), mode)
    wanted = bag(IDS, OFFSETS)
    found = bag.to("cuda")(IDS.cuda(), OFFSETS.cuda())
    torch.testing.assert_close(found.cpu(), wanted)
