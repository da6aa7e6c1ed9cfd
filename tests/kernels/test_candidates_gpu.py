"""Triton's inverted search against the reference."""

import numpy as np
import pytest
import torch

from compressae.kernels.candidates import reference, resident, top_candidates
from compressae.kernels.postings import WINDOW, build_postings


def lists_of(n, h, k, seed=0, kind=np.int8):
    """Postings of n rows of k values; latent h − 1 is in none."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, h - 1 - k, (n, 1)).astype(np.uint32) + np.arange(k, dtype=np.uint32)
    values = rng.standard_normal((n, k)).astype(np.float32)

    def read(start, stop):
        flat = ids[start:stop].reshape(-1), values[start:stop].reshape(-1)
        return np.arange(stop - start + 1) * k, *flat, None

    counts = np.full(n, k, np.int64)
    return build_postings(read, counts, h, float(np.abs(values).max()), kind)


def questions(q, h, m, seed=1):
    rng = np.random.default_rng(seed)
    latents = np.stack([rng.permutation(h)[:m] for _ in range(q)]).astype(np.int32)
    return latents, rng.standard_normal((q, m)).astype(np.float32)


def check(device, postings, latents, values, count, mask=None):
    from compressae.kernels.candidates import gpu

    given = (torch.from_numpy(x).to(device) for x in (latents, values))
    allowed = None if mask is None else torch.from_numpy(mask).to(device)
    rows, sums = top_candidates(resident(postings, device), *given, count, allowed)
    assert rows.dtype == torch.int64 and sums.dtype == torch.int32
    weights = gpu.weigh(torch.from_numpy(values), postings.norm).numpy()
    for i in range(len(latents)):
        exact = reference.sums(postings, latents[i], weights[i])
        assert np.abs(exact).max() < 2**31
        exact = exact if mask is None else np.where(mask, exact, 0)
        order = np.argsort(-exact, kind="stable")[:count]
        order = np.pad(order[exact[order] > 0], (0, count), constant_values=-1)[:count]
        np.testing.assert_array_equal(rows[i].cpu().numpy(), order)
        np.testing.assert_array_equal(sums[i].cpu().numpy(), np.where(order < 0, 0, exact[order]))
    return rows


@pytest.mark.parametrize(("n", "h", "k"), [(1, 9, 3), (700, 50, 5), (3000, 12, 10)])
def test_the_best_sums_of_the_reference(device, n, h, k):
    check(device, lists_of(n, h, k), *questions(3, h, 7), 20)


def test_more_windows_than_are_summed_together(device, monkeypatch):
    from compressae.kernels.candidates import gpu

    monkeypatch.setattr(gpu, "_SUMS", 4 * WINDOW * 2)
    postings = lists_of(2 * WINDOW + 500, 300, 2)
    check(device, postings, *questions(1, 300, 4), 400)
    check(device, postings, *questions(3, 300, 3), 30)


def test_only_allowed_rows_come_out(device):
    rng = np.random.default_rng(2)
    check(device, lists_of(900, 40, 4), *questions(2, 40, 6), 50, rng.random(900) < 0.1)
    rows = check(device, lists_of(900, 40, 4), *questions(2, 40, 6), 5, np.zeros(900, bool))
    assert (rows == -1).all()


def test_equal_sums_go_to_the_smaller_row(device):
    postings = lists_of(600, 9, 1)
    postings.values[:] = 100
    check(device, postings, *questions(2, 9, 4), 64)


def test_latents_that_no_row_has_and_queries_of_zeros(device):
    latents, values = np.array([[49, 3], [4, 5]], np.int32), np.array([[2, 1], [0, 0]], np.float32)
    rows = check(device, lists_of(300, 50, 5), latents, values, 10)
    assert (rows[0] >= 0).any() and (rows[1] == -1).all()


def test_weights_leave_no_room_for_overflow(device):
    """A query that is a row: its sum is as large as any."""
    from compressae.kernels.candidates import gpu

    row = np.full((1, 64), 127.0, np.float32)
    weights = gpu.weigh(torch.from_numpy(row), 127.0 * 8).double()
    assert 2**29 < float((weights * 127).sum()) <= 2**30
    with pytest.raises(ValueError, match="64 weights and rows of length 1000000000.0: sums would"):
        gpu.weigh(torch.from_numpy(row), 1e9)


def test_lists_of_floats_are_refused(device):
    with pytest.raises(ValueError, match="lists of float32 values: expected int8"):
        resident(lists_of(30, 20, 3, kind=np.float32), device)


def test_no_queries(device):
    latents, values = questions(1, 50, 3)
    rows, sums = top_candidates(
        resident(lists_of(30, 50, 3), device),
        torch.from_numpy(latents[:0]).to(device),
        torch.from_numpy(values[:0]).to(device),
        4,
    )
    assert rows.shape == sums.shape == (0, 4)
