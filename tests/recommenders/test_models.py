"""Models, negatives and losses against their plain definitions."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recommenders.losses import bpr, sampled_softmax
from recommenders.models import MF, NCF, NGCF, LightGCN
from recommenders.propagation import normalised_adjacency, propagate
from recommenders.sampling import NegativeSampler, pair_batches, user_batches
from scipy.sparse import csr_array
from torch import nn

from compressae.retrieval.errors import InputError
from compressae.tables import FullTable


@pytest.fixture
def train(pairs_split):
    return pairs_split.train


def dense_adjacency(train):
    """D^−½ A D^−½ by its definition."""
    pairs = torch.tensor(train.toarray())
    users, items = pairs.shape
    whole = torch.zeros(users + items, users + items)
    whole[:users, users:], whole[users:, :users] = pairs, pairs.T
    scale = whole.sum(1).clamp(min=1) ** -0.5
    return scale[:, None] * whole * scale


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("d", [1, 63, 64])
def test_propagation_and_its_gradient_equal_the_dense_ones(train, layers, d):
    dense, adjacency = dense_adjacency(train), normalised_adjacency(train)
    np.testing.assert_allclose(adjacency.toarray(), dense.numpy(), rtol=1e-6)
    torch.manual_seed(0)
    rows, weight = torch.randn(200, d), torch.randn(200, d)
    found, expected = (rows.clone().requires_grad_() for _ in range(2))
    out = propagate(adjacency, found, layers)
    means = [expected]
    for _ in range(layers):
        means.append(dense @ means[-1])
    mean = torch.stack(means).mean(0)
    torch.testing.assert_close(out, mean, rtol=1e-5, atol=1e-6)
    (out**2 * weight).sum().backward()
    (mean**2 * weight).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_ngcf_and_its_gradient_equal_the_dense_ones(train, layers):
    """Against equation 7 of arXiv 1905.08108 with a dense adjacency."""
    dense, d = dense_adjacency(train), 12
    torch.manual_seed(0)
    model = NGCF(FullTable(200, d, std=0.1), train, layers=layers)
    ids, weight = torch.arange(200), torch.randn(200, d * (layers + 1))
    found = model.lookup()(ids)
    (found**2 * weight).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    x = model.table.rows()
    rows = [x]
    for of_sum, of_product in zip(model.sums, model.products, strict=True):
        mixed = (dense + torch.eye(200)) @ x @ of_sum.weight.T + of_sum.bias
        mixed = mixed + ((dense @ x) * x) @ of_product.weight.T + of_product.bias
        x = torch.where(mixed > 0, mixed, 0.2 * mixed)
        rows.append(x / x.norm(dim=1, keepdim=True))
    expected = torch.cat(rows, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    (expected**2 * weight).sum().backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)


def test_ngcf_with_dropout_equals_the_dense_one(train):
    """Masks of nodes on what is sent, of messages on the output; neither outside of training."""
    dense, d = dense_adjacency(train), 12
    torch.manual_seed(0)
    model = NGCF(FullTable(200, d, std=0.1), train, layers=2, dropout=(0.3, 0.4))
    torch.manual_seed(1)
    found = model.lookup()(torch.arange(200))
    torch.manual_seed(1)
    x = model.table.rows()
    rows = [x]
    for of_sum, of_product in zip(model.sums, model.products, strict=True):
        nodes = F.dropout(torch.ones(200, 1), 0.4)
        assert set(nodes.unique().tolist()) == {0, float(torch.tensor(1 / 0.6))}
        near = dense @ (nodes * x)
        x = F.leaky_relu(of_sum(near + x) + of_product(near * x), 0.2)
        x = F.dropout(x, 0.3)
        rows.append(F.normalize(x, dim=1))
    torch.testing.assert_close(found, torch.cat(rows, 1), rtol=1e-4, atol=1e-6)
    plain = NGCF(model.table, train, layers=2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.final(), plain.final()) and model.training
    with pytest.raises(InputError, match="0 ≤ share < 1"):
        NGCF(model.table, train, dropout=(1.0, 0.0))


def test_items_that_nobody_took_keep_a_share_of_their_row():
    train = csr_array(np.array([[1, 0], [1, 0]], np.float32))
    rows = torch.randn(4, 5)
    out = propagate(normalised_adjacency(train), rows, 3)
    torch.testing.assert_close(out[3], rows[3] / 4)
    assert torch.isfinite(out).all()


def test_propagation_leaves_its_input_alone(train):
    rows = torch.randn(200, 8, requires_grad=True)
    before = rows.detach().clone()
    for layers in (0, 2):
        propagate(normalised_adjacency(train), rows, layers).detach().fill_(7)
        assert torch.equal(rows.detach(), before)


class Halves(nn.Module):
    """A compressed table: id i has row i mod m of one table plus row i // m of another."""

    def __init__(self, n, d, m=16):
        super().__init__()
        self.n, self.m = n, m
        self.low, self.high = nn.Embedding(m, d), nn.Embedding(-(-n // m), d)

    def forward(self, ids):
        return self.low(ids % self.m) + self.high(ids // self.m)

    def rows(self):
        return self(torch.arange(self.n))


def each_model(train, table, unit):
    return [MF(table, train, unit), NCF(table, train, unit), LightGCN(table, train, unit)]


@pytest.mark.parametrize("make", [partial(FullTable, std=0.1), Halves])
@pytest.mark.parametrize("unit", ["none", "users", "both"])
def test_blocks_pairs_and_scores_agree_and_reach_the_table(train, make, unit):
    torch.manual_seed(1)
    for model in each_model(train, make(200, 16), unit):
        rows = model.lookup()
        ids = torch.arange(200)
        users, items = rows(ids[:120]), rows(ids[120:])
        block = model.block(users, items)
        assert block.shape == (120, 80)
        some, other = torch.tensor([0, 5, 119]), torch.tensor([79, 3, 0])
        torch.testing.assert_close(model.pairs(users[some], items[other]), block[some, other])
        scores = model.scorer()(some.numpy())
        np.testing.assert_allclose(scores, block[some].detach().numpy(), rtol=1e-4, atol=1e-6)
        block.sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        lengths = model.final().norm(dim=1)
        ones = {"none": 0, "users": 120, "both": 200}[unit]
        torch.testing.assert_close(lengths[:ones], torch.ones(ones))
        assert (abs(lengths[ones:] - 1) > 0.01).any() or unit == "both"


@pytest.mark.parametrize("pairs", [7, 7 * 80])
def test_ncf_in_many_blocks(train, monkeypatch, pairs):
    model = NCF(FullTable(200, 16), train)
    rows = model.final()
    whole = model.block(rows[:120], rows[120:])
    monkeypatch.setattr("recommenders.models._PAIRS", pairs)
    torch.testing.assert_close(model.block(rows[:120], rows[120:]), whole)


def test_tables_of_another_shape_are_refused(train):
    with pytest.raises(InputError, match="expected 200 rows: 120 users, then 80 items"):
        LightGCN(FullTable(199, 8, std=0.1), train)
    with pytest.raises(InputError, match="d = 10; expected a multiple of 4"):
        NCF(FullTable(200, 10, std=0.1), train)


def test_negatives_are_never_positives_and_all_others_alike():
    rng = np.random.default_rng(0)
    pairs = (rng.random((6, 10)) < 0.6).astype(np.float32)
    pairs[2] = [1] * 9 + [0]  # One item is left.
    pairs[3] = 0
    users = np.repeat(np.arange(6), 20000)
    drawn = NegativeSampler(csr_array(pairs)).draw(users, rng)
    counts = np.zeros((6, 10))
    np.add.at(counts, (users, drawn), 1)
    assert (counts[pairs > 0] == 0).all()
    expected = 20000 * (1 - pairs) / (1 - pairs).sum(1, keepdims=True)
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected))


def test_a_user_of_all_items_has_no_negative():
    pairs = csr_array(np.array([[1, 0], [1, 1]], np.float32))
    with pytest.raises(InputError, match="user 1 has a training pair with each of the 2 items"):
        NegativeSampler(pairs)


@pytest.mark.parametrize("size", [1, 100, 1200, 5000])
def test_batches_hold_each_pair_once(train, size):
    everything = train.tocoo()
    expected = sorted(zip(everything.row, everything.col, strict=True))
    by_pair = list(pair_batches(train, size, np.random.default_rng(0)))
    assert max(len(users) for users, _ in by_pair) == min(size, 1200)
    found = [pair for users, items in by_pair for pair in zip(users, items, strict=True)]
    assert sorted(found) == expected and (size == 1200 or found != expected)
    by_user = list(user_batches(train, size, np.random.default_rng(0)))
    assert len(by_user) == min(-(-1200 // size), 120)
    found = [
        pair for users, rows, items in by_user for pair in zip(users[rows], items, strict=True)
    ]
    assert sorted(found) == expected


def test_bpr_is_its_formula(train):
    model = MF(FullTable(200, 8), train)
    users, liked, other = np.array([3, 3, 7]), np.array([1, 2, 79]), np.array([0, 5, 5])
    rows = model.final().double().numpy()
    gaps = (rows[users] * (rows[120 + liked] - rows[120 + other])).sum(1)
    assert bpr(model, users, liked, other).item() == pytest.approx(
        np.mean(-np.log(1 / (1 + np.exp(-gaps)))), rel=1e-5
    )


def test_l2_is_of_the_rows_before_propagation(train):
    users, liked, other = np.array([3, 3, 7]), np.array([1, 2, 79]), np.array([0, 5, 5])
    model = LightGCN(FullTable(200, 8, std=0.1), train)
    plain = bpr(model, users, liked, other)
    found = bpr(model, users, liked, other, l2=0.1)
    rows = model.table.weight.detach()
    squares = [rows[ids].square().sum() for ids in (users, 120 + liked, 120 + other)]
    assert found.item() == pytest.approx(plain.item() + 0.1 * sum(squares).item() / 3, rel=1e-5)
    (found - plain).backward()
    counts = np.bincount(np.concatenate([users, 120 + liked, 120 + other]), minlength=200)
    torch.testing.assert_close(
        model.table.weight.grad, 0.2 / 3 * rows * torch.from_numpy(counts)[:, None].float(),
        rtol=1e-4, atol=1e-7,
    )  # fmt: skip


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_sampled_softmax_is_its_formula(train, power):
    model = MF(FullTable(200, 8), train, unit="both")
    users, rows, liked = np.array([3, 9]), np.array([0, 0, 0, 1]), np.array([1, 2, 79, 4])
    candidates = np.array([0, 10, 20, 30, 79])
    unit = F.normalize(model.table.weight.detach().double(), dim=1).numpy()
    expected, weights = 0.0, [3**-power] * 3 + [1]
    for row, item, weight in zip(rows, liked, weights, strict=True):
        scores = unit[120:] @ unit[users[row]] / 0.3
        others = 80 / 5 * np.exp(scores[candidates]).sum()
        expected += weight * -np.log(np.exp(scores[item]) / (np.exp(scores[item]) + others))
    found = sampled_softmax(model, users, rows, liked, candidates, 0.3, power)
    assert found.item() == pytest.approx(expected / sum(weights), rel=1e-5)
