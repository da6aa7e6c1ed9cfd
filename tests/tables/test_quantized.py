"""Rounded rows, straight-through gradients, and the integers that are stored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressae.kernels.quantize.reference import quantize_rows
from compressae.retrieval.errors import InputError
from compressae.tables import IntegerTable, QuantizedTable

SCALES = [torch.float32, torch.float16, torch.bfloat16]
bits = pytest.mark.parametrize("bits", [8, 4])


def rows_of(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@bits
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999), st.sampled_from(SCALES))
@settings(max_examples=100)
def test_the_stored_integers_have_the_modules_rows(bits, n, d, seed, scale_dtype):
    rows = rows_of(n, d, seed) * 10.0 ** (seed % 5 - 2)
    rows[0] *= seed % 2  # A row of zeros at times.
    table = QuantizedTable.from_dense(rows, bits, scale_dtype=scale_dtype)
    stored = table.export()
    ids = torch.arange(n).flip(0)
    assert torch.equal(stored(ids), table(ids)) and torch.equal(stored.rows(), table.rows())
    assert stored.nbytes == table.nbytes == n * (-(-d * bits // 8) + scale_dtype.itemsize)
    assert stored.codes.dtype == (torch.int8 if bits == 8 else torch.uint8)
    assert stored.num_parameters == 0 and table.num_parameters == n * d
    # No entry is further off than half a step, the scale's own rounding aside.
    most = 2 ** (bits - 1) - 1
    step = rows.abs().amax(1, keepdim=True) / most
    slack = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}[scale_dtype]
    assert ((table.rows() - rows).abs() <= step * (0.5 + slack * most) + 1e-7).all()


@bits
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_stored_rows_have_the_type_of_the_weights(bits, dtype):
    table = QuantizedTable.from_dense(rows_of(9, 7).to(dtype), bits)
    stored = table.export()
    assert stored.rows().dtype == table.rows().dtype == dtype
    assert torch.equal(stored.rows(), table.rows())
    assert torch.equal(stored(torch.tensor([[3]])), table(torch.tensor([[3]])))


@bits
def test_scales_of_few_bits_saturate_and_are_not_exported_then(bits):
    most = 2 ** (bits - 1) - 1
    table = QuantizedTable.from_dense(torch.tensor([[1e9, -1.0]]), bits, scale_dtype=torch.float16)
    assert table.rows().tolist() == [[most * 65504.0, 0]]
    with pytest.raises(InputError, match=r"entries up to 1e\+09: expected .* at most in int"):
        table.export()
    table.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="entries up to nan"):
        table.export()
    fits = QuantizedTable.from_dense(torch.tensor([[1e9, -1.0]]), bits, scale_dtype=torch.bfloat16)
    torch.testing.assert_close(fits.export().rows()[0, 0], torch.tensor(1e9), rtol=0.01, atol=0)


def test_int8_codes_are_those_of_the_packages_quantiser():
    rows = rows_of(20, 7)
    codes, scales = quantize_rows(rows.flatten().numpy(), np.arange(21) * 7)
    stored = QuantizedTable.from_dense(rows).export()
    assert np.array_equal(stored.codes.flatten(), codes)
    assert np.array_equal(stored.scales, scales)


def test_int4_codes_are_two_in_a_byte_the_first_in_the_low_bits():
    stored = QuantizedTable.from_dense(torch.tensor([[7.0, -7.0, 1.0]]), 4).export()
    assert stored.codes.tolist() == [[15 | 1 << 4, 9]] and stored.scales.tolist() == [1]


@bits
def test_gradients_go_straight_through(bits):
    table = QuantizedTable(6, 4, bits)
    ids, weights = torch.tensor([1, 5, 1]), rows_of(3, 4)
    (table(ids) * weights).sum().backward()
    wanted = torch.zeros(6, 4).index_add(0, ids, weights)
    torch.testing.assert_close(table.weight.grad, wanted)
    table.zero_grad()
    (table.rows() * rows_of(6, 4)).sum().backward()
    assert torch.equal(table.weight.grad, rows_of(6, 4))


@bits
def test_training_comes_as_near_as_rounding_the_answer(bits):
    goal = rows_of(40, 16)
    table = QuantizedTable(40, 16, bits)
    optimizer = torch.optim.Adam(table.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        (table.rows() - goal).square().mean().backward()
        optimizer.step()
        schedule.step()
    best = (QuantizedTable.from_dense(goal, bits).rows() - goal).square().mean()
    # Straight-through steps go back and forth over a boundary, so not quite as near.
    assert (table.rows() - goal).square().mean() < 2 * best


@bits
def test_the_stored_table_is_saved_and_loaded(bits):
    stored = QuantizedTable(6, 5, bits, padding_idx=2).export()
    other = IntegerTable(6, 5, bits, padding_idx=2)
    assert not torch.equal(other.rows(), stored.rows())
    other.load_state_dict(stored.state_dict())
    assert torch.equal(other.rows(), stored.rows()) and (stored.rows()[2] == 0).all()
    assert stored(torch.zeros(0, dtype=torch.long)).shape == (0, 5)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="bits 2: expected 8 or 4"):
        QuantizedTable(3, 4, 2)
    with pytest.raises(InputError, match="bits 5: expected 8 or 4"):
        IntegerTable(3, 4, 5)
    with pytest.raises(InputError, match="scale_dtype torch.float64"):
        QuantizedTable(3, 4, scale_dtype=torch.float64)
