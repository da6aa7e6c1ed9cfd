"""Batches of a table, from the file or a device, in the order of each epoch; and the optimiser."""

import threading
import time

import numpy as np
import pytest
import torch

from compressae import InputError
from compressae.kernels.threads import limited
from compressae.retrieval.io.embeddings import as_embeddings, unit_rows
from compressae.training import batches
from compressae.training.adam import Adam
from compressae.training.batches import Batches, over_batches


@pytest.fixture
def table():
    return np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)


@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("steps", [[0, 1, 2, 3, 4, 5, 6], [5, 0, 9, 2]], ids=["in order", "not"])
def test_batches_are_the_orders_of_the_epochs(table, monkeypatch, is_resident, steps):
    monkeypatch.setattr(batches, "_free_bytes", lambda device: 1 << 30 if is_resident else 0)
    monkeypatch.setattr(batches, "_NORMALISED", 7)
    run = Batches(as_embeddings(table), 20, 7, 3, torch.device("cpu"))
    for step in steps:
        epoch, place = divmod(step, 2)
        order = np.random.default_rng([3, 1, epoch]).choice(50, 40, replace=False)
        rows = order[20 * place :][5:12]
        found = run.of_step(step, slice(5, 12)).numpy()
        np.testing.assert_allclose(found, unit_rows(table[rows]), rtol=1e-6)


def test_rows_of_huge_and_tiny_numbers_are_normalised(table, monkeypatch):
    monkeypatch.setattr(batches, "_free_bytes", lambda device: 1 << 30)
    table[::2] *= 1e30
    table[1::2] *= 1e-30
    found = Batches(as_embeddings(table), 50, 1, 0, torch.device("cpu")).of_step(0, slice(None))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(50))


def test_all_rows_are_read_once_and_the_first_bad_one_is_named(table, monkeypatch):
    monkeypatch.setattr(batches, "_AT_A_TIME", 18)
    found = np.zeros_like(table)

    def add(first, rows):
        found[first : first + len(rows)] += rows

    over_batches(as_embeddings(table), add)
    np.testing.assert_array_equal(found, table)
    table[[48, 31]] = np.nan
    with pytest.raises(InputError, match="row 31 holds NaN"):
        over_batches(as_embeddings(table), add)


def test_after_an_error_no_thread_reads(table, monkeypatch):
    """The caller may overwrite the file, which would end a process that reads its mapping."""
    monkeypatch.setattr(batches, "_AT_A_TIME", 6)  # A row at a time.
    works, began = [], threading.Event()

    def work(first, rows):
        if first == 0:
            assert began.wait(20)
            raise ValueError("a bad row")
        works.append(first)
        began.set()
        time.sleep(0.1)
        works.append(-first)

    with limited(2), pytest.raises(ValueError, match="a bad row"):
        over_batches(as_embeddings(table), work)
    assert sum(works) == 0 and 0 < len(works) < 2 * 25  # What began has ended, and not all began.
    before = list(works)
    time.sleep(0.3)
    assert works == before


def test_adam_is_torchs_bit_for_bit():
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    mine, other = (start.clone().requires_grad_() for _ in range(2))
    optimizer, expected = Adam([mine]), torch.optim.Adam([other], betas=(0.9, 0.99), fused=True)
    for step in range(4):
        mine.grad, other.grad = torch.sin(step + mine.detach()), torch.sin(step + other.detach())
        expected.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.step(0.1 / (1 + step))
        expected.step()
        assert torch.equal(mine, other)
