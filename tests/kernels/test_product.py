"""Matrices of whole numbers and their products with queries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compressae.kernels.intrinsics import dot_i8_i16, dot_u4_i16
from compressae.kernels.product import (
    IntMatrix,
    product,
    recover_entries,
    reference,
    round_directions,
)


@pytest.mark.parametrize("size", [64, 128, 448])
def test_integer_dot_products_of_the_largest_numbers(size):
    import numba

    @numba.njit
    def dot(weights, at, numbers):
        return dot_i8_i16(weights, at, numbers)

    rng = np.random.default_rng(size)
    weights = rng.integers(-128, 128, 3 * size).astype(np.int8)
    numbers = rng.integers(-32768, 32768, size).astype(np.int16)
    weights[size : size + 2], numbers[:2] = -128, -32768
    want = weights[size : 2 * size].astype(np.int64) @ numbers.astype(np.int64)
    assert dot(weights, size, numbers) == np.int64(want).astype(np.int32)


@pytest.mark.parametrize("size", [64, 128, 448])
def test_dot_products_of_the_largest_numbers_of_four_bits(size):
    import numba

    @numba.njit
    def dot(weights, at, numbers):
        return dot_u4_i16(weights, at, numbers)

    rng = np.random.default_rng(size)
    weights = rng.integers(0, 256, size).astype(np.uint8)  # Two rows.
    numbers = rng.integers(-32768, 32768, size).astype(np.int16)
    weights[size // 2 :][:2], numbers[:2] = 255, -32768
    blocks = weights[size // 2 :].reshape(-1, 1, 32)
    entries = np.concatenate([blocks & 15, blocks >> 4], 1).reshape(-1)
    assert dot(weights, size // 2, numbers) == entries.astype(np.int64) @ numbers.astype(np.int64)


@pytest.mark.parametrize(("h", "d"), [(1, 1), (65, 63), (64, 64), (300, 100)])
def test_the_product_is_the_reference_and_near_the_float_one(h, d):
    rng = np.random.default_rng(h)
    matrix = rng.standard_normal((h, d)).astype(np.float32)
    matrix[0] = 0
    x = rng.standard_normal((5, d)).astype(np.float32) * np.float32(1e3)
    x[4] = 0
    made = IntMatrix.of(matrix)
    got = product(made, x)
    rounded, unit = made.round_queries(x)
    np.testing.assert_array_equal(got, reference.product(made.rows, made.scales, rounded, unit))
    exact = x.astype(np.float64) @ matrix.T.astype(np.float64)
    off = np.linalg.norm(x, axis=1)[:, None] * (made.scales * np.sqrt(d) / 2)
    assert (np.abs(got - exact) <= off + 1e-3 * np.abs(x).max()).all()
    np.testing.assert_array_equal(got[2:3], product(made, x[2:3]))


def test_the_products_integers_cannot_overflow():
    """All weights and all numbers as large as can be: 768 · 127 · 32,767 would pass 2^31."""
    matrix = np.ones((1, 768), np.float32)
    got = product(IntMatrix.of(matrix), np.ones((1, 768), np.float32))
    np.testing.assert_allclose(got, 768, rtol=1e-3)


def whole_rows(h, d, seed=0):
    """Entries (h, d) of −7…7 without a row of zeros."""
    entries = np.random.default_rng(seed).integers(-7, 8, (h, d)).astype(np.int8)
    entries[~entries.any(1), 0] = 1
    return entries


@pytest.mark.parametrize(("h", "d"), [(1, 1), (65, 63), (64, 64), (300, 100), (3, 65)])
def test_the_product_of_four_bits_is_the_reference_and_near_the_float_one(h, d):
    made = IntMatrix.of_entries(whole_rows(h, d))
    x = np.random.default_rng(1).standard_normal((5, d)).astype(np.float32) * np.float32(1e3)
    x[4] = 0
    got = product(made, x)
    rounded, unit = made.round_queries(x)
    want = reference.product(made.entries(), made.scales, rounded[:, :d], unit)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(got, x @ made.to_float32().T, atol=1e-3 * np.abs(x).max())
    np.testing.assert_array_equal(got[2:3], product(made, x[2:3]))


def test_the_product_of_four_bits_cannot_overflow():
    made = IntMatrix.of_entries(np.full((1, 4096), 7, np.int8))
    got = product(made, np.ones((1, 4096), np.float32))
    np.testing.assert_allclose(got, 64, rtol=1e-3)


@pytest.mark.parametrize(("h", "d"), [(1, 1), (7, 64), (40, 65)])
def test_four_bits_hold_what_was_packed(h, d):
    entries = whole_rows(h, d)
    made = IntMatrix.of_entries(entries)
    assert (made.bits, made.dim, made.nbytes) == (4, d, h * (-(-d // 64) * 32 + 4))
    np.testing.assert_array_equal(made.entries(), entries)
    np.testing.assert_array_equal(IntMatrix.of_packed(made.rows, d).entries(), entries)
    np.testing.assert_allclose(np.linalg.norm(made.to_float32(), axis=1), 1, rtol=1e-6)


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 70)),
        elements=st.floats(-1, 1, width=16),
    )
)
def test_rounded_directions_are_recovered_from_their_floats(matrix):
    matrix[~matrix.any(1), 0] = 1
    entries = round_directions(matrix)
    assert np.abs(entries).max() <= 7 and (np.gcd.reduce(entries, axis=1) == 1).all()
    floats = IntMatrix.of_entries(entries).to_float32()
    np.testing.assert_array_equal(recover_entries(floats), entries)


def test_rounding_takes_the_best_of_its_steps():
    matrix = np.random.default_rng(0).standard_normal((200, 384)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    rounded = IntMatrix.of_entries(round_directions(matrix)).to_float32()
    plain = np.rint(matrix * (7 / np.abs(matrix).max(1, keepdims=True)))
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    cosines, plain_cosines = (rounded * matrix).sum(1), (plain * matrix).sum(1)
    assert (cosines >= plain_cosines - 1e-6).all()
    assert 1 - np.square(cosines).mean() < 0.8 * (1 - np.square(plain_cosines).mean())


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_no_entries_are_recovered_of_rows_that_have_none(bad):
    matrix = IntMatrix.of_entries(whole_rows(3, 10)).to_float32()
    matrix[1] = bad
    assert recover_entries(matrix) is None


def test_a_row_of_zeros_has_no_direction():
    with pytest.raises(ValueError, match="no direction"):
        round_directions(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows[:, :-1], "uint8 rows"),
        (lambda rows: rows.astype(np.int8), "int8 rows"),
        (lambda rows: rows[0], "uint8 rows"),
        (lambda rows: rows & 0xF0, "that are 0"),
        (lambda rows: rows ^ (np.arange(rows.shape[1]) == 63), "padding"),
        (lambda rows: np.where(np.arange(len(rows))[:, None] == 1, 0x88, rows), "rows of zeros"),
    ],
    ids=["width", "dtype", "shape", "numbers", "padding", "zeros"],
)
def test_packed_rows_are_not_trusted(damage, message):
    rows = IntMatrix.of_entries(whole_rows(3, 70)).rows
    damaged = damage(rows)
    damaged = damaged if damaged.dtype == np.int8 else damaged.astype(np.uint8)
    with pytest.raises(ValueError, match=message):
        IntMatrix.of_packed(damaged, 70)
