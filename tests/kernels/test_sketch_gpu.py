"""Blocks chosen by sketches, against numpy."""

import numpy as np
import pytest
import torch

from compressae.kernels.sketch import BLOCK, best_blocks, pack_columns, pack_queries, reference

gpu = pytest.importorskip("compressae.kernels.sketch.gpu", reason="needs triton")


def drawn(n, q, m, seed=0):
    rng = np.random.default_rng(seed)
    rows, queries = (rng.standard_normal((count, m)).astype(np.float32) for count in (n, q))
    return pack_columns(torch.from_numpy(rows), torch.tensor(1.0)), pack_queries(
        torch.from_numpy(queries)
    )


FORMS = ["plain", "lengths", "masked", "both"]


def settings(form, n, device):
    """Lengths and mask of a form: arrays, and tensors on the device."""
    rng = np.random.default_rng(1)
    lengths = rng.random(n).astype(np.float32) + 0.1 if form in ("lengths", "both") else None
    mask = rng.random(n) < 0.3 if form in ("masked", "both") else None
    arrays = lengths, mask
    return arrays, [None if a is None else torch.from_numpy(a).to(device) for a in arrays]


@pytest.mark.parametrize(("n", "q", "m"), [(1000, 3, 128), (513, 65, 64), (31, 1, 64)])
@pytest.mark.parametrize("form", FORMS)
def test_maxima_of_blocks_and_tiles(device, n, q, m, form):
    rows, queries = drawn(n, q, m)
    arrays, (lengths, mask) = settings(form, n, device)
    found = gpu.block_maxima(queries.to(device), rows.to(device), lengths, BLOCK, mask)
    for maxima, each in zip(found, (BLOCK, gpu.TILE), strict=True):
        expected = reference.block_maxima(queries.numpy(), rows.numpy(), *arrays, each)
        np.testing.assert_array_equal(maxima.cpu().numpy(), expected)


@pytest.mark.parametrize(("n", "q", "m", "count"), [(1000, 2, 128, 5), (70, 1, 64, 9)])
@pytest.mark.parametrize("form", FORMS)
def test_the_best_blocks(device, n, q, m, count, form):
    rows, queries = drawn(n, q, m)
    arrays, (lengths, mask) = settings(form, n, device)
    found = best_blocks(queries.to(device), rows.to(device), count, lengths, mask)
    expected = reference.best_blocks(queries.numpy(), rows.numpy(), count, *arrays, BLOCK)
    np.testing.assert_array_equal(found.cpu().numpy(), expected)


def test_rows_of_one_block_win_where_all_else_is_masked(device):
    rows, queries = drawn(900, 2, 64)
    mask = torch.zeros(900, dtype=torch.bool)
    mask[700] = True
    found = best_blocks(queries.to(device), rows.to(device), 1, None, mask.to(device))
    assert found.cpu().tolist() == [[700 // BLOCK]] * 2


@pytest.mark.parametrize("length", [1e-9, 1e9])
def test_an_allowed_row_is_found_whatever_its_length(device, length):
    """All products are negative, and those of rows that do not count are below them."""
    rows = torch.full((384, 32), -103, dtype=torch.int8)  # Every number is 9.
    queries, mask = torch.full((1, 64), -127, dtype=torch.int8), torch.zeros(384, dtype=torch.bool)
    mask[291] = True
    given = (queries, rows, 2, torch.full((384,), length), mask)
    found = best_blocks(*(g if isinstance(g, int) else g.to(device) for g in given))
    assert found.tolist() == [[0, 9]]


def test_four_bits_keep_the_order_of_products():
    """Products of packed numbers differ from those of the numbers by little and a constant."""
    rng = np.random.default_rng(0)
    rows, queries = (rng.standard_normal((n, 128)).astype(np.float32) for n in (400, 20))
    packed = pack_columns(torch.from_numpy(rows), torch.tensor(1.0)).numpy()
    whole = np.concatenate([packed & 15, (packed >> 4) & 15], 1)
    asked = pack_queries(torch.from_numpy(queries)).numpy()
    products = asked.astype(np.float32) @ whole.T.astype(np.float32)
    for mine, exact in zip(products, queries @ rows.T, strict=True):
        assert np.corrcoef(mine, exact)[0, 1] > 0.99


def test_other_widths_are_refused(device):
    rows, queries = drawn(40, 1, 64)
    with pytest.raises(ValueError, match="queries of 32 columns: expected 64"):
        best_blocks(queries[:, :32].to(device), rows.to(device), 1)
