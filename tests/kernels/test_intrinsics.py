"""Products with panels: equal to their definition, whatever registers the processor has."""

import numba
import numpy as np
import pytest

from compressae.kernels import intrinsics
from compressae.kernels.intrinsics import PANEL_ROWS
from compressae.kernels.matmul.cpu import fold_largest

DEPTH, STRIDE, WIDTH = 22, 29, 70


def compile_for(has_avx512, name, monkeypatch):
    """A function that calls an intrinsic, compiled for a processor with or without AVX-512."""
    monkeypatch.setattr(intrinsics, "_has_avx512", lambda context: has_avx512)
    panel = getattr(intrinsics, name)

    @numba.njit
    def call(rows, at, stride, panels, start, depth, out, place, width):
        panel(rows, at, stride, panels, start, depth, out, place, width)

    @numba.njit
    def call_scaled(rows, at, stride, panels, start, depth, out, place, width, scale):
        panel(rows, at, stride, panels, start, depth, out, place, width, scale)

    return call_scaled if name == "panel_products" else call


@pytest.fixture(params=[False, True], ids=["16 registers", "32 registers"])
def compiled(request, monkeypatch):
    return lambda name: compile_for(request.param, name, monkeypatch)


def check(call, rows, panels, out, columns, expected, *scale, step=1):
    """The panel from 5 rows on times rows from 3 on, stored from 11 on; nothing beside it."""
    before = out.copy()
    depth = DEPTH // step
    call(rows, 3, STRIDE, panels, 5 * columns * step, depth, out, 11, WIDTH, *scale)
    places = 11 + WIDTH * np.arange(PANEL_ROWS)[:, None] + np.arange(columns)
    np.testing.assert_array_equal(out[places], expected)
    others = np.delete(np.arange(len(out)), places.ravel())
    assert np.array_equal(out[others], before[others])


def inputs(dtype, columns, seed, largest):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-largest, largest, 3 + STRIDE * PANEL_ROWS).astype(dtype)
    panels = rng.integers(-largest, largest, (10 + DEPTH) * columns).astype(dtype)
    used = rows[3 : 3 + STRIDE * PANEL_ROWS].reshape(PANEL_ROWS, STRIDE)[:, :DEPTH]
    return rows, panels, used.astype(np.int64)


def test_float_rows_times_columns(compiled):
    rows, panels, used = inputs(np.float32, 16, 0, 100)
    out = np.full(11 + WIDTH * PANEL_ROWS, 7, np.float32)
    expected = used @ panels.reshape(-1, 16)[5 : 5 + DEPTH].astype(np.int64)
    check(compiled("panel_matmul"), rows, panels, out, 16, expected)


def test_float_rows_have_the_same_bits_on_either_processor(monkeypatch):
    """Those of fused multiply-adds in the order of the numbers."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal(STRIDE * PANEL_ROWS).astype(np.float32)
    panels = rng.standard_normal(DEPTH * 16).astype(np.float32)
    outs = []
    for has_avx512 in (False, True):
        outs.append(np.zeros(WIDTH * PANEL_ROWS, np.float32))
        call = compile_for(has_avx512, "panel_matmul", monkeypatch)
        call(rows, 0, STRIDE, panels, 0, DEPTH, outs[-1], 0, WIDTH)
    assert np.array_equal(outs[0], outs[1])
    sums = np.zeros((PANEL_ROWS, 16), np.float32)
    for t in range(DEPTH):  # A fused one rounds once, as nearly always one in float64 does.
        exact = rows.reshape(-1, STRIDE)[:, t, None].astype(float) * panels.reshape(-1, 16)[t]
        sums = (exact + sums).astype(np.float32)
    assert (outs[0].reshape(-1, WIDTH)[:, :16] == sums).mean() > 0.99


def test_pairs_of_whole_numbers_times_latents(compiled):
    rows, panels, used = inputs(np.int16, 16, 1, 500)
    out = np.full(11 + WIDTH * PANEL_ROWS, 7, np.float32)
    latents = panels[5 * 32 :][: DEPTH * 16].reshape(DEPTH // 2, 16, 2).transpose(0, 2, 1)
    expected = used @ latents.reshape(DEPTH, 16).astype(np.int64) * np.float32(0.5)
    call = compiled("panel_products")
    check(call, rows, panels, out, 16, expected, np.float32(0.5), step=2)


def test_least_sums(compiled):
    rows, panels, used = inputs(np.int16, 32, 2, 16_000)
    out = np.full(11 + WIDTH * PANEL_ROWS, 7, np.int16)
    columns = panels.reshape(-1, 32)[5 : 5 + DEPTH].astype(np.int64)
    expected = (used[:, :, None] + columns).min(1)
    check(compiled("panel_min_plus"), rows, panels, out, 32, expected)


@pytest.mark.parametrize("count", [1, 2, 256])
def test_the_largest_of_numbers(count):
    numbers = -1 - np.random.default_rng(count).random(count, np.float32)
    assert fold_largest(numbers.copy()) == numbers.max()
