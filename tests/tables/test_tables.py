"""What every kind of table does: called as nn.Embedding is, counted, saved, and trained."""

import io

import pytest
import torch
from table_kinds import KINDS, SMOOTH, D, N, make
from torch import nn

import compressae.tables
from compressae.retrieval.errors import InputError
from compressae.tables import (
    BudgetedTable,
    CodedTable,
    CompositionalTable,
    FullTable,
    HashedTable,
    Partitions,
    PathTable,
    PrunedTable,
    QuantizedTable,
)

every = pytest.mark.parametrize("kind", KINDS)
smooth = pytest.mark.parametrize("kind", SMOOTH)


def trained(table):
    """Some steps towards random rows; tables of random numbers hide errors at zero."""
    goal = torch.randn(table.num_embeddings, D, generator=torch.Generator().manual_seed(9))
    optimizer = torch.optim.Adam(table.parameters(), 0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (table(torch.arange(table.num_embeddings)) - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@every
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (3, 4), (2, 0, 3), (2, 3, 2)])
def test_ids_of_any_shape_give_the_rows_of_the_dense_table(kind, shape, dtype):
    table = make(kind)
    ids = torch.randint(0, N, shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    found = table(ids)
    assert found.shape == (*shape, D) and found.dtype == torch.float32
    dense = table.rows()
    assert dense.shape == (N, D)
    torch.testing.assert_close(found, dense[ids.long()], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table.rows(ids), found)


@every
def test_equal_ids_give_equal_rows_and_add_their_gradients(kind):
    table = make(kind)
    weights = torch.randn(D, generator=torch.Generator().manual_seed(4))
    rows = table(torch.full((9,), 6))
    torch.testing.assert_close(rows, rows[:1].expand(9, D))
    (rows @ weights).sum().backward()
    many = [p.grad.clone() for p in table.parameters()]
    table.zero_grad()
    ((table(torch.tensor([6])) @ weights).sum() * 9).backward()
    for one, other in zip(many, (p.grad for p in table.parameters()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@smooth
def test_gradients_are_those_of_the_forward_pass(kind):
    table = make(kind, dtype=torch.float64)
    with torch.no_grad():
        for parameter in table.parameters():
            parameter.normal_()  # Biases too: relu has no derivative at zero.
    ids = torch.tensor([[0, 22, 6], [6, 7, 21]])
    names = [name for name, _ in table.named_parameters()]

    def forward(*values):
        return torch.func.functional_call(table, dict(zip(names, values, strict=True)), (ids,))

    def all_rows(*values):
        both = dict(zip(names, values, strict=True))
        return torch.func.functional_call(_Rows(table), {f"table.{k}": v for k, v in both.items()})

    assert torch.autograd.gradcheck(forward, tuple(table.parameters()))
    assert torch.autograd.gradcheck(all_rows, tuple(table.parameters()))


class _Rows(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self):
        return self.table.rows()


@every
@pytest.mark.parametrize("padding", [0, 6, -1])
def test_padding_is_zeros_and_takes_no_gradient(kind, padding):
    table = make(kind, padding_idx=padding)
    where = padding % N
    assert table.padding_idx == where
    assert (table(torch.tensor([where, 5, where]))[[0, 2]] == 0).all()
    assert (table.rows()[where] == 0).all()
    table(torch.full((3,), where)).sum().backward()
    assert all((p.grad == 0).all() for p in table.parameters())
    # All others are as they are without.
    others = [i for i in range(N) if i != where]
    assert torch.equal(table.rows()[others], make(kind).rows()[others])


@every
def test_autocast_changes_no_dtype_and_little_else(kind):
    table = make(kind)
    ids = torch.tensor([[0, 22, 6], [6, 7, 21]])
    plain, all_rows = table(ids), table.rows()
    with torch.autocast("cpu", torch.bfloat16):
        found, found_rows = table(ids), table.rows()
        nn.functional.linear(found, torch.ones(1, D)).sum().backward()
    assert found.dtype == found_rows.dtype == torch.float32
    torch.testing.assert_close(found, plain, rtol=0.05, atol=0.05)
    torch.testing.assert_close(found_rows, all_rows, rtol=0.05, atol=0.05)
    assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in table.parameters())


@every
def test_training_makes_the_loss_smaller(kind):
    losses = trained(make(kind))
    assert losses[-1] < 0.9 * losses[0]


@every
def test_counts_are_exact(kind):
    table = make(kind)
    assert table.num_parameters == sum(p.numel() for p in table.parameters())
    stored = table.export() if kind.startswith("int") else table
    # The extra state says what rule the numbers go with; it is no part of the table.
    held = [v for name, v in stored.state_dict().items() if not name.endswith("_extra_state")]
    assert table.nbytes == sum(tensor.untyped_storage().nbytes() for tensor in held)
    assert f"parameters={table.num_parameters}, nbytes={table.nbytes}" in repr(table)
    assert "\n" not in repr(table) and len(repr(table)) < 160


@every
def test_a_state_dict_goes_round(kind):
    table = make(kind)
    trained(table)
    buffer = io.BytesIO()
    torch.save(table.state_dict(), buffer)
    buffer.seek(0)
    other = KINDS[kind](N)  # Drawn anew.
    assert not torch.equal(other.rows(), table.rows())
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.rows(), table.rows())


def partitioned(*rule):
    return lambda: CompositionalTable(20, 4, Partitions(*rule))


@pytest.mark.parametrize(
    ("made", "other", "message"),
    [
        (
            lambda: HashedTable(20, 4, rows=7, seed=1),
            lambda: HashedTable(20, 4, rows=7, seed=2),
            "the state of another hash than that of seed 2",
        ),
        (
            lambda: HashedTable(20, 4, rows=7),
            lambda: HashedTable(20, 4, rows=7, seed=2),
            "the state of another hash than that of seed 2",
        ),
        (
            partitioned("chinese-remainder", (5, 4)),
            partitioned("mixed-radix", (5, 4)),
            "the state of partitions chinese-remainder 5.4 for a table of mixed-radix 5.4",
        ),
        (
            lambda: PathTable(20, 4, Partitions("chinese-remainder", (5, 4))),
            lambda: PathTable(20, 4, Partitions("mixed-radix", (5, 4))),
            "the state of partitions chinese-remainder 5.4",
        ),
    ],
)
def test_a_state_of_another_rule_is_refused(made, other, message):
    with pytest.raises(InputError, match=message):
        nn.Sequential(other()).load_state_dict(nn.Sequential(made()).state_dict())


@pytest.mark.parametrize(
    "table",
    [
        lambda source, **s: FullTable.from_dense(source, **s),
        lambda source, **s: QuantizedTable.from_dense(source, **s),
        lambda source, **s: BudgetedTable.from_dense(source, [2] * 400, **s),
        lambda source, **s: PrunedTable.from_dense(source, 900, **s),
        lambda source, **s: CodedTable.from_dense(source, 3000, latents=16, **s),
    ],
)
def test_a_table_from_another_has_its_padding(table):
    source = nn.Embedding(400, 6, padding_idx=3)
    for given in (source, FullTable.from_dense(source)):
        found = table(given)
        assert found.padding_idx == 3 and (found(torch.tensor([3])) == 0).all()
    assert table(source, padding_idx=5).padding_idx == 5
    assert table(source.weight).padding_idx is None


EXPORTED = ["int8", "int4", "coded", "coded-ragged"]


@pytest.mark.parametrize("kind", EXPORTED)
def test_what_is_exported_is_a_table_too(kind):
    stored = make(kind, padding_idx=6).export()
    assert stored.num_parameters == 0 and stored.padding_idx == 6
    ids = torch.tensor([[0, 22, 6], [6, 7, 21]])
    found = stored(ids)
    assert found.shape == (2, 3, D) and (found[ids == 6] == 0).all()
    torch.testing.assert_close(found, stored.rows()[ids])
    model = nn.Sequential(stored, nn.Flatten(), nn.Linear(3 * D, 2))
    model(ids).square().sum().backward()
    assert model[2].weight.grad.abs().sum() > 0
    with pytest.raises(InputError, match=r"id 23: expected 0 to 22"):
        stored(torch.tensor([23]))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", EXPORTED)
def test_what_is_exported_has_the_same_rows_on_a_gpu(kind):
    stored = make(kind).export()
    ids = torch.tensor([[0, 22, 6], [6, 7, 21]])
    wanted = stored(ids)
    torch.testing.assert_close(stored.to("cuda")(ids.cuda()).cpu(), wanted, rtol=1e-5, atol=1e-6)


@every
def test_it_works_in_a_sequential(kind):
    torch.manual_seed(1)
    model = nn.Sequential(make(kind), nn.Flatten(), nn.Linear(3 * D, 2))
    ids = torch.randint(0, N, (64, 3))
    labels = (ids[:, 0] < N // 2).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(ids), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for p in model.parameters())


@every
def test_one_row(kind):
    table = make(kind, n=1)
    assert table(torch.zeros(4, dtype=torch.long)).shape == (4, D)
    assert table.rows().shape == (1, D)
    with pytest.raises(InputError, match=r"id 1: expected 0 to 0"):
        table(torch.tensor([1]))


@every
def test_ids_out_of_range_and_of_other_types_are_refused(kind):
    table = make(kind)
    with pytest.raises(InputError, match=r"id -1: expected 0 to 22"):
        table(torch.tensor([[3, -1]]))
    with pytest.raises(InputError, match=r"id 23: expected 0 to 22"):
        table(torch.tensor([3, 23]))
    with pytest.raises(InputError, match=r"ids of torch.float32: expected a tensor of int32 or"):
        table(torch.ones(2))
    with pytest.raises(InputError, match=r"ids of list"):
        table([1, 2])


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: FullTable(0, 4), "0 rows and 4 dimensions"),
        (lambda: FullTable(4, 0), "4 rows and 0 dimensions"),
        (lambda: FullTable(4, 4, padding_idx=4), "padding_idx 4: expected -4 to 3"),
        (lambda: compressae.tables.HashedTable(4, 4, rows=0), "hashed table of 0 rows"),
        (lambda: compressae.tables.HashedTable(2**31, 4, 8, seed=1), "pass seed=None"),
        (lambda: PathTable(4, 4, hidden=0), "hidden 0"),
        (lambda: CompositionalTable(4, 4, combine="mean"), "combine 'mean'"),
        (lambda: CompositionalTable(4, 1, combine="concat"), "2 tables to concatenate in 1 dim"),
        (lambda: FullTable.from_dense([[1.0]]), "rows of list"),
        (lambda: FullTable.from_dense(torch.ones(3)), r"rows \(3,\) of torch.float32"),
        (lambda: FullTable.from_dense(torch.ones(3, 2, dtype=torch.int32)), "torch.int32"),
        (lambda: FullTable.from_dense(torch.full((3, 2), torch.nan)), "NaN"),
        (lambda: BudgetedTable(torch.ones(0, dtype=torch.int64), 3), "0 rows"),
    ],
)
def test_bad_settings_are_refused(make_one, message):
    with pytest.raises(InputError, match=message):
        make_one()


@pytest.mark.parametrize(
    "kind", ["full", "hashed", "product", "concat-chinese", "int8", "budgeted", "pruned"]
)
def test_sparse_gradients_are_the_dense_ones(kind):
    ids = torch.tensor([1, 6, 6, 20])
    grads = []
    for sparse in (False, True):
        table = make(kind, sparse=sparse, padding_idx=20)
        table(ids).square().sum().backward()
        assert all(p.grad.is_sparse == sparse for p in table.parameters())
        grads.append([p.grad.to_dense() for p in table.parameters()])
        optimizer = torch.optim.SparseAdam(table.parameters()) if sparse else None
        if optimizer:
            before = table.rows().detach().clone()
            optimizer.step()
            assert not torch.equal(before, table.rows())
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["full", "hashed", "product", "add-3", "concat-chinese", "path-3"])
def test_the_start_has_the_full_tables_variance_and_mean(kind):
    torch.manual_seed(0)
    seen = torch.stack([KINDS[kind](N, std=0.3).rows().detach() for _ in range(800)])
    # The product of normal numbers has the heaviest tails: its variance is the least certain.
    assert float(seen.var()) == pytest.approx(0.09, rel=0.06)
    assert float(seen.mean()) == pytest.approx(0, abs=0.01)


def test_public_names_exist_and_importing_is_cheap():
    assert all(getattr(compressae.tables, name) for name in compressae.tables.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = compressae.tables.nothing


@pytest.mark.gpu
@every
def test_on_a_gpu_as_on_the_cpu(kind):
    ids = torch.tensor([[0, 22, 6], [6, 7, 21]])
    found = []
    for device in ("cpu", "cuda"):
        table = make(kind, padding_idx=7).to(device)
        rows = table(ids.to(device))
        assert rows.device.type == device
        rows.square().sum().backward()
        table.rows().sum().backward()
        found.append([rows, table.rows(), *(p.grad for p in table.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@every
def test_made_on_a_gpu(kind):
    table = make(kind, device="cuda", padding_idx=1)
    assert all(t.is_cuda for t in [*table.parameters(), *table.buffers()])
    ids = torch.arange(N, device="cuda")
    torch.testing.assert_close(table(ids), table.rows())
