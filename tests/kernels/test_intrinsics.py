"""Products with panels: equal to their definition, whatever registers the processor has."""

import numba
import numpy as np
import pytest

from compressae.kernels import intrinsics
from compressae.kernels.intrinsics import PANEL_ROWS
from compressae.kernels.matmul.cpu import fold_largest

DEPTH, STRIDE, WIDTH = 22, 29, 70


@pytest.fixture(params=[False, True], ids=["16 registers", "32 registers"])
def compiled(request, monkeypatch):
    """A function that calls an intrinsic, compiled for a processor with or without AVX-512."""
    monkeypatch.setattr(intrinsics, "_has_avx512", lambda context: request.param)

    def compile_(name):
        panel = getattr(intrinsics, name)

        @numba.njit
        def call(rows, at, stride, panels, start, depth, out, place, width):
            panel(rows, at, stride, panels, start, depth, out, place, width)

        @numba.njit
        def call_scaled(rows, at, stride, panels, start, depth, out, place, width, scale):
            panel(rows, at, stride, panels, start, depth, out, place, width, scale)

        return call_scaled if name == "panel_products" else call

    return compile_


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
