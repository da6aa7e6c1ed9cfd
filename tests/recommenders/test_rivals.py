"""Structured pruning and calibration against their plain definitions."""

import numpy as np
import pytest
import torch
from benchmarks.calibrated import CLIPS, calibrate
from benchmarks.structured import ShrinkingTable

from compressae.tables import QuantizedTable


def test_a_step_shrinks_by_the_group_lasso_and_drops_by_the_schedule():
    torch.manual_seed(0)
    n, d, keep = 50, 16, 3
    table = ShrinkingTable(n, d, keep, strength=0.5)
    rows, alive = table.weight.detach().double().numpy().copy(), np.ones(d, bool)
    for step, left in ((1, 12), (2, 10), (5, 5), (10, 3), (20, 3)):
        table.after_step(step, 20, rate=0.1)
        lengths = np.sqrt((rows**2).sum(0))
        rows *= np.maximum(0, 1 - 0.1 * 0.5 * np.sqrt(n) / lengths)
        alive &= lengths >= np.sort(lengths[alive])[::-1][left - 1]
        assert left == keep + round((d - keep) * max(0, 1 - step / 10) ** 3)
        np.testing.assert_array_equal(table.alive.numpy(), alive)
        np.testing.assert_allclose(table.weight.detach().numpy(), rows, rtol=1e-5, atol=1e-7)
    assert torch.equal(table.rows(), table.weight * torch.from_numpy(alive))
    table(torch.tensor([3, 3])).sum().backward()
    assert torch.equal(table.weight.grad[3], 2.0 * table.alive) and not table.weight.grad[:3].any()


def test_a_column_of_zeros_stays_one():
    table = ShrinkingTable(5, 4, 2, strength=0.5)
    with torch.no_grad():
        table.weight[:, 1] = 0
    table.after_step(1, 1, rate=0.1)
    assert not table.alive[1] and table.weight.isfinite().all()


@pytest.mark.parametrize("step", [1, 10])
def test_what_is_stored_is_what_validation_judges(step):
    table = ShrinkingTable(50, 16, 3, strength=0.1)
    table.after_step(step, 20, 0.1)
    stored = table.eval().export()
    assert stored.nbytes == stored.bytes_of(50, 3) == 2 * 3 * 51
    torch.testing.assert_close(stored.rows(), table.rows().detach().half().float())
    ids = torch.tensor([[4, 49], [0, 4]])
    assert torch.equal(stored(ids), stored.rows()[ids])


@pytest.mark.parametrize("bits", [4, 8])
def test_clips_are_those_of_the_least_squared_error(bits):
    rows = torch.from_numpy(np.random.default_rng(0).standard_t(3, (40, 32))).float()
    rows[7] = 0
    table = QuantizedTable.from_dense(rows, bits)
    before = (table.rows() - rows).square().sum(1)
    clips = calibrate(table)
    most, errors = 2 ** (bits - 1) - 1, []
    for clip in CLIPS.numpy():
        scale = np.maximum(clip * abs(rows.numpy()).max(1) / most, 1e-12)[:, None]
        rounded = np.clip(np.round(rows.numpy() / scale), -most, most) * scale
        errors.append(((rounded - rows.numpy()) ** 2).sum(1))
    after = (table.rows().detach() - rows).square().sum(1)
    np.testing.assert_allclose(after, np.min(errors, 0), rtol=1e-3, atol=1e-9)
    assert (after <= before * 1.0001).all() and clips[7] == 1
    assert bits == 8 or (clips < 1).sum() > 30
    assert torch.equal(table.export().rows(), table.rows())


@pytest.mark.parametrize("kind", ["shrinking", "calibrated"])
def test_both_run_under_autocast(kind):
    table = ShrinkingTable(9, 8, 3, strength=0.1)
    if kind == "calibrated":
        calibrate(table := QuantizedTable(9, 8, 4))
    ids = torch.tensor([0, 8, 8])
    plain = table(ids)
    with torch.autocast("cpu", torch.bfloat16):
        rows = table(ids)
        torch.nn.functional.linear(rows, torch.ones(1, 8)).sum().backward()
    assert rows.dtype == torch.float32 and torch.equal(rows, plain)
    assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in table.parameters())


def test_only_what_is_not_clipped_has_a_gradient():
    table = QuantizedTable.from_dense(torch.tensor([[10.0, 0.9, -1.0, 0.6] + [1.0] * 60]), 4)
    clip = calibrate(table)[0]
    table(torch.tensor([0])).sum().backward()
    (gradient,) = (p.grad[0] for p in table.parameters())
    assert clip < 1 and gradient[0] == 0 and (gradient[1:] == 1).all()
