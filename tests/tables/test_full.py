"""The full table beside nn.Embedding."""

import pytest
import torch
from torch import nn

from compressae.retrieval.errors import InputError
from compressae.tables import FullTable, HashedTable

IDS = torch.tensor([[0, 3, 3], [8, 5, 0]])


def pair(**settings):
    """Both, drawn from the same seed."""
    made = []
    for kind in (nn.Embedding, FullTable):
        torch.manual_seed(5)
        made.append(kind(9, 4, **settings))
    return made


@pytest.mark.parametrize("padding", [None, 3, -1])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_numbers_gradients_and_steps(padding, sparse, dtype):
    theirs, ours = pair(padding_idx=padding, sparse=sparse, dtype=dtype)
    assert torch.equal(theirs.weight, ours.weight)
    kind = torch.optim.SparseAdam if sparse else torch.optim.Adam
    steps = [kind(module.parameters(), 0.1) for module in (theirs, ours)]
    for _ in range(3):
        for module, step in zip((theirs, ours), steps, strict=True):
            step.zero_grad()
            (module(IDS).square() * torch.arange(6.0).view(2, 3, 1)).sum().backward()
        grads = [module.weight.grad.to_dense() for module in (theirs, ours)]
        assert torch.equal(*grads)
        for step in steps:
            step.step()
        assert torch.equal(theirs(IDS), ours(IDS))


def test_state_dicts_go_from_one_to_the_other():
    theirs, ours = pair()
    theirs.weight.data.normal_()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(IDS), theirs(IDS))
    theirs.load_state_dict(FullTable(9, 4).state_dict())
    assert not torch.equal(ours(IDS), theirs(IDS))


def test_rows_are_the_weight_and_train_it():
    table = FullTable(9, 4)
    assert table.rows() is table.weight
    table.rows().sum().backward()
    assert (table.weight.grad == 1).all()


def test_a_trained_table_is_copied():
    source = nn.Embedding(9, 4)
    table = FullTable.from_dense(source, padding_idx=3)
    assert torch.equal(table.rows()[:3], source.weight[:3]) and (table.rows()[3] == 0).all()
    source.weight.data.zero_()
    assert (table.rows()[0] != 0).all()
    again = FullTable.from_dense(table)
    assert torch.equal(again.rows(), table.rows())
    assert FullTable.from_dense(table.rows().detach().numpy()).num_parameters == 36


def test_hashed_rows_are_those_of_the_remainder():
    table = HashedTable(10, 4, rows=4)
    assert torch.equal(table.rows(), table.weight[torch.arange(10) % 4])
    assert table.num_parameters == 16


def test_seeded_hashes_are_pairwise_independent_enough():
    # Any two ids collide with probability about 1/m over the seeds (Carter and Wegman).
    ids = torch.tensor([3, 103, 2**31 - 3, 12])
    n, m, seeds = 2**31 - 1, 5, range(3000)
    hashes = torch.stack([HashedTable(n, 1, m, seed=seed).hashes(ids) for seed in seeds])
    assert int(hashes.min()) == 0 and int(hashes.max()) == m - 1
    for a, b in torch.combinations(torch.arange(4)):
        share = float((hashes[:, a] == hashes[:, b]).float().mean())
        assert share == pytest.approx(1 / m, abs=0.03)


def test_hashes_are_exact_integers_for_large_ids():
    n = 2**31 - 1
    table = HashedTable(n, 1, rows=1009, seed=7)
    a, b = table._factors
    ids = [0, 1, 2**24 + 1, 10**9 + 7, n - 1]
    wanted = [((a * i + b) % (2**31 - 1)) % 1009 for i in ids]
    assert table.hashes(torch.tensor(ids)).tolist() == wanted
    with pytest.raises(InputError, match="id 2147483647"):
        table(torch.tensor([n]))
