"""Quantised and joined tables against faiss and torch themselves."""

import numpy as np
import pytest
import torch
from benchmarks.gowalla.codebooks import ENTRIES, NormedTable, ProductTable, ResidualTable, owners
from benchmarks.gowalla.joined import JoinedTable

from compressae.retrieval.errors import InputError
from compressae.tables import FullTable, HashedTable, QuantizedTable

faiss = pytest.importorskip("faiss", reason="needs faiss-cpu (pip install)")


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((400, 10)).astype(np.float32)


def decoded(table):
    """The rows by faiss's own decoder, before a rotation is undone, where subspaces are even."""
    codes, codebook = table.codes.numpy(), table.codebook.detach().numpy()
    owner, m = owners(codebook.shape[1], codes.shape[1]), codes.shape[1]
    step = int(np.bincount(owner).max())
    inside = np.concatenate([np.arange(count) for count in np.bincount(owner)])
    centroids = np.zeros((m, ENTRIES, step), np.float32)
    centroids[owner, :, inside] = codebook.T
    quantizer = faiss.ProductQuantizer(m * step, m, 8)
    faiss.copy_array_to_vector(centroids.ravel(), quantizer.centroids)
    return quantizer.decode(codes).reshape(-1, m, step)[:, owner, inside]


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("m", [1, 3, 5, 7, 10])
def test_products_decode_as_faiss_does_and_count_what_they_hold(rows, m, rotated):
    table = ProductTable.fit(rows, m, rotated)
    expected = decoded(table)
    if rotated:
        turn = table.rotation.detach().numpy()
        expected = expected @ turn
        np.testing.assert_allclose(turn.T @ turn, np.eye(10), atol=1e-4)
    np.testing.assert_allclose(table.rows().detach().numpy(), expected, atol=1e-5)
    assert table.rows().shape == rows.shape
    stored = table.export()
    assert stored.nbytes == ProductTable.bytes_of(*rows.shape, m, rotated)
    assert stored.num_parameters == 0 < table.num_parameters
    torch.testing.assert_close(stored.rows(), table.rows().detach(), rtol=0, atol=5e-3)
    ids = torch.tensor([[3, 399], [0, 3]])
    torch.testing.assert_close(table(ids), table.rows()[ids])


def test_products_without_padding_are_those_of_faiss(rows):
    quantizer = faiss.ProductQuantizer(10, 5, 8)
    quantizer.cp.seed, quantizer.cp.min_points_per_centroid = 1, 1
    quantizer.train(rows)
    expected = quantizer.decode(quantizer.compute_codes(rows))
    found = ProductTable.fit(rows, 5, False).rows().detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_more_codes_are_nearer(rows):
    for fit in (
        lambda m: ProductTable.fit(rows, m, False),
        lambda m: ProductTable.fit(rows, m, True),
        lambda m: ResidualTable.fit(rows, m),
    ):
        found = [fit(m).export().rows().numpy() for m in (1, 3, 4, 7)]
        errors = [float(((x - rows) ** 2).mean()) for x in found]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize(("width", "m"), [(64, 11), (128, 100), (5, 5), (7, 1)])
def test_subspaces_are_as_even_as_can_be(width, m):
    counts = np.bincount(owners(width, m), minlength=m)
    assert counts.sum() == width and counts.max() == -(-width // m)
    assert counts.min() >= width // m and (np.diff(owners(width, m)) >= 0).all()


@pytest.mark.parametrize("m", [1, 4])
def test_residuals_decode_as_faiss_does(rows, m):
    table = ResidualTable.fit(rows, m)
    quantizer = faiss.ResidualQuantizer(10, m, 8)
    faiss.copy_array_to_vector(table.codebooks.detach().numpy().ravel(), quantizer.codebooks)
    quantizer.is_trained = True
    expected = quantizer.decode(table.codes.numpy())
    np.testing.assert_allclose(table.rows().detach().numpy(), expected, atol=1e-5)
    assert table.export().nbytes == ResidualTable.bytes_of(*rows.shape, m)


@pytest.mark.parametrize("m", [1, 4, 10])
def test_lengths_are_kept_beside_products_of_directions(rows, m):
    scaled = rows * np.random.default_rng(1).lognormal(0, 1, (400, 1)).astype(np.float32)
    table = NormedTable.fit(scaled, m).export()
    assert table.nbytes == NormedTable.bytes_of(*rows.shape, m) and table.num_parameters == 0
    assert table.nbytes == ProductTable.bytes_of(*rows.shape, m) + 400 + 512
    lengths = np.linalg.norm(table.rows().numpy(), axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(scaled, axis=1), rtol=0.1)
    directions = ProductTable.fit(rows / np.linalg.norm(rows, axis=1, keepdims=True), m).rows()
    alike = torch.cosine_similarity(table.rows(), directions.detach(), dim=1)
    assert alike.min() > 0.999
    ids = torch.tensor([[3, 399], [0, 3]])
    torch.testing.assert_close(table(ids), table.rows()[ids])


@pytest.mark.parametrize("rotated", [False, True])
def test_training_through_codes_brings_products_nearer(rows, rotated):
    table = ProductTable.fit(rows, 3, rotated)
    goal = torch.from_numpy(rows) * 1.5
    optimizer, losses = torch.optim.Adam(table.parameters(), 0.02), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (table.rows() - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_quantised_tables_round_trip_through_their_state(rows):
    for table, other in (
        (ProductTable.fit(rows, 3, True), ProductTable.fit(rows[::-1].copy(), 3, True)),
        (ResidualTable.fit(rows, 2), ResidualTable.fit(rows[::-1].copy(), 2)),
        (NormedTable.fit(rows, 2), NormedTable.fit(rows[::-1].copy() * 2, 2)),
    ):
        assert not torch.equal(table.rows(), other.rows())
        other.load_state_dict(table.state_dict())
        assert torch.equal(table.rows(), other.rows())


def test_joined_tables_are_their_rows_one_after_another():
    torch.manual_seed(0)
    parts = FullTable(5, 3), HashedTable(7, 3, 2), QuantizedTable(4, 3, scale_dtype=torch.float16)
    table = JoinedTable(*parts)
    expected = torch.cat([part.rows() for part in parts])
    assert torch.equal(table.rows(), expected)
    ids = torch.tensor([[15, 0, 5], [4, 12, 11], [11, 11, 6]])
    assert torch.equal(table(ids), expected[ids])
    assert table(ids[:0]).shape == (0, 3, 3)
    assert table.nbytes == 5 * 3 * 4 + 2 * 3 * 4 + 4 * (3 + 2)
    assert table.num_parameters == 15 + 6 + 12
    weight = torch.randn(3, 3, 3)
    found = torch.autograd.grad((table(ids) * weight).sum(), list(table.parameters()))
    wanted = torch.autograd.grad((table.rows()[ids] * weight).sum(), list(table.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(InputError, match="id 16: expected 0 to 15"):
        table(torch.tensor([16]))


def test_tables_of_different_dimensions_are_not_joined():
    with pytest.raises(InputError, match=r"2 tables of \[3, 4\] dimensions: expected"):
        JoinedTable(FullTable(5, 3), FullTable(5, 4))
    with pytest.raises(InputError, match="0 tables"):
        JoinedTable()
