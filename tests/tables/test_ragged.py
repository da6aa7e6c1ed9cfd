"""Budgeted and pruned tables against the masks that define them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressae.retrieval.errors import InputError
from compressae.tables import BudgetedTable, FullTable, PrunedTable
from compressae.tables.ragged import row_starts


def trained(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_a_budgeted_table_is_the_full_one_under_its_prefix_mask(n, d, seed):
    random = np.random.default_rng(seed)
    widths, rows = random.integers(0, d + 1, n), trained(n, d, seed % 1000)
    mask = torch.arange(d) < torch.from_numpy(widths)[:, None]
    table = BudgetedTable.from_dense(rows, widths)
    assert torch.equal(table.rows(), rows * mask) and table.widths.tolist() == widths.tolist()
    assert table.num_parameters == widths.sum() == len(table.values)
    assert table.nbytes == 4 * widths.sum() + n + 8 * -(-n // 64)
    ids = torch.from_numpy(random.integers(0, n, 20))
    assert torch.equal(table(ids), (rows * mask)[ids])
    # The gradient is what the mask leaves of the full table's, and nothing else is stored.
    full = FullTable.from_dense(rows)
    weights = torch.randn(20, d, generator=torch.Generator().manual_seed(1))
    (table(ids) * weights).sum().backward()
    ((full.rows() * mask)[ids] * weights).sum().backward()
    torch.testing.assert_close(table.values.grad, full.weight.grad[mask])


def test_widths_of_zero_everywhere_are_a_table_of_zeros():
    table = BudgetedTable(torch.zeros(5, dtype=torch.int32), 4)
    rows = table(torch.tensor([[0, 4], [2, 2]]))
    assert rows.shape == (2, 2, 4) and (rows == 0).all() and table.num_parameters == 0
    rows.sum().backward()
    assert table.values.grad.shape == (0,)


def test_memory_is_really_saved():
    n, d = 50_000, 128
    table = BudgetedTable(np.full(n, 6), d)
    full = FullTable(n, d)
    assert table.nbytes == n * 6 * 4 + n + 8 * -(-n // 64)
    assert sum(t.untyped_storage().nbytes() for t in table.state_dict().values()) == table.nbytes
    assert table.nbytes < 0.055 * full.nbytes


@pytest.mark.parametrize("d", [3, 300])
@pytest.mark.parametrize("n", [9, 64, 1_030, 140_001])
def test_few_ids_and_many_of_large_tables(n, d):
    # An eighth of all rows at most are looked up one by one, 16,384 at once; more by all lengths.
    widths = np.random.default_rng(0).integers(0, 4, n) * (d // 3)
    table = BudgetedTable(widths, d)
    starts = np.cumsum(widths) - widths
    generator = torch.Generator().manual_seed(3)
    for count in {1, n // 8, min(n, 2_000)}:
        ids = torch.randint(0, n, (count,), generator=generator)
        ids[-1:] = n - 1  # Its window begins before its block does.
        found = row_starts(ids, table.blocks, table.lengths)
        np.testing.assert_array_equal(found, starts[ids])


def test_training_leaves_the_mask_alone():
    model = nn.Sequential(BudgetedTable([0, 2, 4], 4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.tensor([0, 1, 2])).square().sum().backward()
        optimizer.step()
    assert (model[0].rows() != 0).sum(1).tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([1, 5], "widths from 1 to 5: expected 0 to 4"),
        ([-1, 2], "widths from -1 to 2"),
        ([1.0, 2.0], "torch.float32: expected whole numbers"),
        ([[1, 2]], r"widths \(1, 2\)"),
        ([True, False], "torch.bool"),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths, message):
    with pytest.raises(InputError, match=message):
        BudgetedTable(widths, 4)
    with pytest.raises(InputError, match=message):
        BudgetedTable.from_dense(torch.ones(2, 4), widths)


def test_widths_must_be_one_a_row():
    with pytest.raises(InputError, match="2 widths for 3 rows"):
        BudgetedTable.from_dense(torch.ones(3, 4), [1, 2])


def test_a_state_of_other_widths_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch for values"):
        BudgetedTable([1, 2], 4).load_state_dict(BudgetedTable([2, 2], 4).state_dict())


@given(
    st.integers(1, 12), st.integers(1, 9), st.floats(0, 1.2), st.integers(0, 9),
    st.integers(0, 2**32 - 1), st.booleans(),
)  # fmt: skip
@settings(max_examples=300)
def test_pruning_keeps_the_largest_above_the_floor(n, d, share, floor, seed, ties):
    floor = min(floor, d)
    entries = max(int(share * n * d), n * floor)
    rows = trained(n, d, seed % 1000)
    if ties:
        rows = rows.round()
    table = PrunedTable.from_dense(rows, entries, floor)
    pruned = table.rows().detach()
    columns = torch.zeros(n, d, dtype=torch.bool)
    lengths = table.lengths.long()
    columns[torch.repeat_interleave(lengths), table.columns.long()] = True
    assert torch.equal(pruned, rows * columns)
    assert table.num_parameters == int(columns.sum()) == min(entries, n * d)
    assert table.nbytes == 5 * table.num_parameters + n + 8 * -(-n // 64)
    assert PrunedTable.most_entries(n, d, table.nbytes) == table.num_parameters
    assert PrunedTable.most_entries(n, d, table.nbytes - 1) < table.num_parameters
    assert int(columns.sum(1).min()) >= floor
    sizes = rows.abs()
    for row, kept in zip(sizes, columns, strict=True):
        if kept.any() and not kept.all():
            assert row[kept].min() >= row[~kept].max()
    # What a row keeps above the floor is no smaller than anything dropped anywhere.
    spare = [
        row[kept].sort().values[: int(kept.sum()) - floor]
        for row, kept in zip(sizes, columns, strict=True)
    ]
    above, dropped = torch.cat(spare), sizes[~columns]
    if len(above) and len(dropped):
        assert above.min() >= dropped.max()


def test_a_pruned_table_goes_on_training_at_its_columns():
    table = PrunedTable.from_dense(trained(6, 5), 12)
    before = table.rows() != 0
    optimizer = torch.optim.SGD(table.parameters(), 0.1)
    table(torch.arange(6)).square().sum().backward()
    optimizer.step()
    assert torch.equal(table.rows() != 0, before)
    assert not torch.equal(table.rows(), trained(6, 5) * before)


@pytest.mark.parametrize(("d", "dtype"), [(256, torch.uint8), (257, torch.int16)])
def test_columns_are_as_small_as_they_can_be(d, dtype):
    rows = torch.zeros(2, d)
    rows[1, d - 1] = 3
    table = PrunedTable.from_dense(rows, 2)
    assert table.columns.dtype == dtype and table.rows()[1, d - 1] == 3


def test_pruning_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="5 entries for 3 rows of 2 at least: expected 6 or more"):
        PrunedTable.from_dense(torch.ones(3, 4), 5, floor=2)
    with pytest.raises(InputError, match="floor 5: expected 0 to 4"):
        PrunedTable.from_dense(torch.ones(3, 4), 50, floor=5)
    with pytest.raises(InputError, match=r"mask \(3, 4\) of torch.float32"):
        PrunedTable(torch.ones(3, 4))
