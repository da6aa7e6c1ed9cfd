"""Supports, refit, pursuit, quantisation and packing on tensors: against their references."""

import numpy as np
import pytest
import torch

from compressae.kernels.packed import Layout, pack
from compressae.kernels.packed import reference as packing
from compressae.kernels.pursuit import pursue
from compressae.kernels.pursuit import reference as pursuit
from compressae.kernels.quantize import quantize_on_support, quantize_rows
from compressae.kernels.quantize import reference as quantizing
from compressae.kernels.refit import error_reduction, refit
from compressae.kernels.refit import reference as fitting
from compressae.kernels.support import Dictionary, select_latents
from compressae.kernels.support import reference as choosing

gpu = pytest.importorskip("compressae.kernels.quantize.gpu", reason="needs triton (Linux)")


def unit(shape, seed=0):
    rows = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def problem(n, d, h, k):
    """Rows, distinct latents of each, and weights."""
    ids = np.argsort(np.random.default_rng(1).random((n, h)), axis=1)[:, :k].astype(np.int32)
    return unit((n, d)), ids, unit((h, d), 2)


def on(device, *arrays):
    return [torch.from_numpy(array).to(device) for array in arrays]


SHAPES = [(1, 1, 1, 1), (5, 7, 65, 3), (17, 24, 64, 12), (3, 8, 20, 20), (2, 130, 300, 100)]


@pytest.mark.parametrize(("n", "d", "h", "k"), SHAPES)
def test_refit_is_the_reference(device, n, d, h, k):
    arrays = problem(n, d, h, k)
    values = refit(*on(device, *arrays))
    assert values.dtype == torch.float32
    expected = fitting.refit(*arrays, 1e-3)
    np.testing.assert_allclose(values.cpu().numpy(), expected, rtol=2e-3, atol=2e-3)
    gains = error_reduction(*on(device, *arrays), ridge=1e-3).cpu().numpy()
    np.testing.assert_allclose(gains, error_reduction(*arrays, ridge=1e-3), atol=1e-4)


def test_refit_in_parts_and_of_parallel_latents(device, monkeypatch):
    x, ids, weights = problem(5, 12, 40, 6)
    whole = refit(*on(device, x, ids, weights))
    monkeypatch.setattr("compressae.kernels.refit.gpu._ROWS", 2)
    assert torch.equal(refit(*on(device, x, ids, weights)), whole)
    weights[:] = weights[0]
    values = refit(*on(device, x, ids, weights)).cpu().numpy()
    np.testing.assert_allclose(values, values[:, :1].repeat(6, 1), atol=1e-3)  # Shared evenly.


@pytest.mark.parametrize(
    ("n", "d", "h", "counts"),
    [(1, 1, 1, [1]), (7, 5, 9, [1, 1]), (12, 24, 65, [1] * 5), (2, 300, 100, [1] * 20),
     (1, 24, 40, [2, 3]), (2, 8, 12, [12])],
)  # fmt: skip
def test_pursuit_is_the_reference(device, n, d, h, counts):
    x, weights = unit((n, d)), unit((h, d), 1)
    ids, values = pursue(*on(device, x, weights), counts, dtype=torch.float32)
    expected_ids, expected = pursuit.pursue(x, weights, counts, 1e-4)
    assert ids.dtype == torch.int32 and values.dtype == torch.float32
    np.testing.assert_array_equal(ids.cpu().numpy(), expected_ids)
    np.testing.assert_allclose(values.cpu().numpy(), expected, rtol=1e-2, atol=2e-3)


def test_rows_that_are_latents_get_distinct_ones(device):
    (weights,) = on(device, np.eye(4, dtype=np.float32))
    ids, values = pursue(weights, weights, [1, 1, 1])
    assert ids.cpu().tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 0, 1]]
    np.testing.assert_allclose(values.cpu().numpy(), [[1, 0, 0]] * 4, atol=1e-3)


def test_pursuit_in_batches(device, monkeypatch):
    x, weights = on(device, unit((5, 16)), unit((40, 16), 1))
    whole = pursue(x, weights, [1, 1], dtype=torch.float32)
    monkeypatch.setattr("compressae.kernels.pursuit.gpu._PRODUCTS", 80)
    parts = pursue(x, weights, [1, 1], dtype=torch.float32)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1], rtol=0, atol=1e-5)


def left(x, weights, supports):
    """Squared errors (n,) of rows fitted to their supports."""
    errors = []
    for row, support in zip(x.astype(np.float64), supports, strict=True):
        columns = weights[support].T.astype(np.float64)
        errors.append(row - columns @ np.linalg.lstsq(columns, row, rcond=None)[0])
    return np.square(errors).sum(1)


@pytest.mark.parametrize(
    ("n", "d", "h", "k"), [(1, 1, 1, 1), (7, 5, 9, 3), (12, 24, 65, 5), (4, 40, 300, 12)]
)
def test_supports_are_the_reference(device, n, d, h, k):
    """But where two latents are about as good: products are rounded."""
    x, weights = unit((n, d)) * 3, unit((h, d), 1) * 2
    placed, latents = on(device, x, weights)
    found = select_latents(placed, Dictionary(latents), k)
    assert found.dtype == torch.int32 and found.device == placed.device
    found, expected = found.cpu().numpy(), choosing.select_latents(x, weights, k)
    assert all(len(set(row)) == k and set(row) <= set(range(h)) for row in found.tolist())
    same = np.mean([len(set(a) & set(b)) / k for a, b in zip(found, expected, strict=True)])
    assert same >= (0.85 if device == "cuda" else 0.99)
    assert left(x, weights, found).mean() <= 1.02 * left(x, weights, expected).mean() + 1e-9


def test_later_steps_choose_from_a_shortlist(device):
    """512 of 700 latents, those that the CPU would keep too, and one after the other."""
    x, weights = unit((6, 70)), unit((700, 70), 1)
    found = select_latents(*on(device, x), Dictionary(*on(device, weights)), 4).cpu().numpy()
    expected = select_latents(x, Dictionary(weights), 4)
    assert all(len(set(row)) == 4 for row in found.tolist())
    assert np.mean(found == expected) >= (0.8 if device == "cuda" else 0.99)
    assert left(x, weights, found).mean() <= 1.02 * left(x, weights, expected).mean()


@pytest.mark.parametrize("length", [1e-24, 1e20])
def test_rows_and_latents_of_any_length(device, length):
    x, weights = on(device, unit((5, 20)), unit((60, 20), 1))
    usual = select_latents(x, Dictionary(weights), 4)
    assert torch.equal(select_latents(x * length, Dictionary(weights * length), 4), usual)
    none = select_latents(x * 0, Dictionary(weights), 2).cpu()
    assert none.tolist() == [[0, 1]] * 5


def test_supports_in_batches_and_few_programs(device, monkeypatch):
    placed, latents = on(device, unit((7, 20)), unit((300, 20), 1))
    whole = select_latents(placed, Dictionary(latents), 6)
    monkeypatch.setattr("compressae.kernels.support.gpu._PRODUCTS", 600)
    monkeypatch.setattr("compressae.kernels.support.gpu._BASES", 1)
    assert torch.equal(select_latents(placed, Dictionary(latents), 6), whole)
    assert select_latents(placed[:0], Dictionary(latents), 6).shape == (0, 6)


def test_latents_as_good_as_each_other_go_by_number(device):
    (rows,) = on(device, np.eye(4, dtype=np.float32))
    assert select_latents(rows, Dictionary(rows), 3).cpu().tolist() == [
        [0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 0, 1]
    ]  # fmt: skip


def test_what_a_device_cannot_choose_is_refused(device):
    x, weights = unit((2, 5)), unit((9, 5), 1)
    placed, dictionary = on(device, x)[0], Dictionary(*on(device, weights))
    for settings in ({"beam": 2}, {"counts": [1, 1]}):
        with pytest.raises(ValueError, match="expected neither"):
            select_latents(placed, dictionary, 2, **settings)
    with pytest.raises(ValueError, match="expected both as arrays, or both on a GPU"):
        select_latents(x, dictionary, 2)


def levels_of(k, widest=8):
    return np.tile(np.linspace(-0.6, 0.6, widest, dtype=np.float32), (k, 1))


@pytest.mark.parametrize(("n", "d", "h", "k"), SHAPES)
@pytest.mark.parametrize("sweeps", [1, 2])
def test_quantisation_is_the_reference(device, n, d, h, k, sweeps):
    x, ids, weights = problem(n, d, h, k)
    values, sizes = fitting.refit(x, ids, weights, 1e-3), np.resize([8, 4, 2], k)
    found = quantize_on_support(*on(device, x, ids, values, weights), levels_of(k), sizes, sweeps)
    expected = quantizing.quantize_on_support(x, ids, values, weights, levels_of(k), sizes, sweeps)
    assert found.dtype == torch.uint8
    found = found.cpu().numpy()
    assert (found == expected).mean() > 0.98  # Halfway between two levels, rounding decides.
    assert (found < sizes).all()


def test_of_levels_equally_near_the_first_is_taken(device):
    x = ids = np.zeros((1, 1), np.float32)
    x, values, weights = x + 0.5, x, x + 1
    found = quantize_on_support(
        *on(device, x, ids.astype(np.int32), values, weights),
        np.array([[3, 1, 0, 1, 0.4]], np.float32), np.array([4]),
    )  # fmt: skip
    assert found.tolist() == [[1]]


def test_quantisation_in_parts(device, monkeypatch):
    x, ids, weights = problem(2 * gpu._TOGETHER + 1, 12, 40, 4)
    given = on(device, x, ids, fitting.refit(x, ids, weights, 1e-3), weights)
    sizes = np.full(4, 8)
    whole = quantize_on_support(*given, levels_of(4), sizes)
    monkeypatch.setattr("compressae.kernels.refit.gpu._ROWS", 20)
    assert torch.equal(quantize_on_support(*given, levels_of(4), sizes), whole)


def test_int8_rows_are_the_reference(device):
    values = np.random.default_rng(0).standard_normal(30).astype(np.float32)
    values[10:15] = 0
    indptr = np.array([0, 3, 3, 10, 15, 30, 30])
    codes, scales = quantize_rows(*on(device, values, indptr))
    expected = quantizing.quantize_rows(values, indptr)
    np.testing.assert_array_equal(codes.cpu().numpy(), expected[0])
    np.testing.assert_array_equal(scales.cpu().numpy(), expected[1])


@pytest.mark.parametrize(
    ("id_bits", "bits", "fixed"),
    [(1, [1] * 9, 1), (12, [2, 3, 1, 2, 4], 9), (17, [8, 8, 8], 1), (3, [8, 1, 5, 2], 4)],
)
def test_packed_bytes_are_the_reference(device, id_bits, bits, fixed):
    layout, rng = Layout(id_bits, np.array(bits), fixed), np.random.default_rng(id_bits)
    for k in range(len(bits) + 1):
        head = rng.integers(0, 256, (6, fixed)).astype(np.uint8)
        ids = rng.integers(0, 1 << id_bits, (6, k)).astype(np.int32)
        codes = rng.integers(0, 1 << np.array(bits[:k], int), (6, k)).astype(np.uint8)
        found = pack(*on(device, head, ids, codes), layout).cpu().numpy()
        expected = packing.pack(head, ids, codes, id_bits, layout.value_bits)
        assert [row.tobytes() for row in found] == expected


def test_no_rows(device):
    x, ids, weights = on(device, *problem(0, 5, 8, 3))
    values = refit(x, ids, weights)
    assert values.shape == error_reduction(x, ids, weights).shape == (0, 3)
    assert pursue(x, weights, [1, 1])[0].shape == (0, 2)
    codes = quantize_on_support(x, ids, values, weights, levels_of(3), np.full(3, 8))
    head = torch.zeros(0, 1, dtype=torch.uint8, device=device)
    assert pack(head, ids, codes, Layout(3, np.full(3, 3), 1)).shape == (0, 4)
    none = torch.zeros(0, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    assert [len(part) for part in quantize_rows(*none)] == [0, 0]
