"""Triton's sparse products against the reference."""

import numpy as np
import pytest
import torch

from compressae.kernels import decode as sparse
from compressae.kernels.decode import reference

gpu = pytest.importorskip("compressae.kernels.decode.gpu", reason="needs triton (Linux)")

SHAPES = [(1, 1, 1, 1), (5, 3, 7, 3), (7, 9, 40, 33), (3, 20, 64, 300), (2, 40, 50, 768)]


def case(n, k, h, d, device, seed=0):
    """Codes with distinct ids in a row, weights, and rows; k = h included."""
    rng = np.random.default_rng(seed)
    k = min(k, h)
    ids = rng.permuted(np.tile(np.arange(h, dtype=np.int32), (n, 1)), axis=1)[:, :k].copy()
    arrays = ids, *(rng.standard_normal(s, dtype=np.float32) for s in [(n, k), (h, d), (n, d)])
    return arrays, [torch.from_numpy(a).to(device) for a in arrays]


def close(found, expected):
    scale = max(float(np.abs(expected).max()), 1e-6)
    np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=0, atol=2e-6 * scale * 10)


@pytest.mark.parametrize(("n", "k", "h", "d"), SHAPES)
def test_products_equal_the_reference(device, n, k, h, d):
    (ids, values, weights, rows), given = case(n, k, h, d, device)
    i, v, w, x = given
    close(sparse.decode(i, v, w), reference.decode(ids, values, weights))
    close(sparse.sampled_matmul(i, x, w), reference.sampled_matmul(ids, rows, weights))
    close(sparse.sparse_t_matmul(i, v, x, h), reference.sparse_t_matmul(ids, values, rows, h))


def test_a_part_of_wider_codes(device):
    """Views of the first and last nonzeros, as training takes them."""
    (ids, values, weights, rows), (i, v, w, x) = case(6, 12, 30, 40, device)
    for part in (slice(0, 1), slice(0, 5), slice(5, 12)):
        close(
            sparse.decode(i[:, part], v[:, part], w),
            reference.decode(ids[:, part], values[:, part], weights),
        )
        close(
            sparse.sampled_matmul(i[:, part], x, w),
            reference.sampled_matmul(ids[:, part], rows, weights),
        )
        close(
            sparse.sparse_t_matmul(i[:, part], v[:, part], x, 30),
            reference.sparse_t_matmul(ids[:, part], values[:, part], rows, 30),
        )


def test_lists_of_very_different_lengths_summed_in_parts(device, monkeypatch):
    monkeypatch.setattr(gpu, "_PART", 4)
    rng = np.random.default_rng(1)
    ids = np.where(rng.random((90, 3)) < 0.7, 2, rng.integers(0, 6, (90, 3))).astype(np.int32)
    ids[ids == 4] = 5  # Latent 4 has no rows.
    values, rows = (rng.standard_normal(s, dtype=np.float32) for s in [(90, 3), (90, 20)])
    given = [torch.from_numpy(a).to(device) for a in (ids, values, rows)]
    found = sparse.sparse_t_matmul(*given, 6)
    close(found, reference.sparse_t_matmul(ids, values, rows, 6))
    assert not found[4].any()
    assert torch.equal(found, sparse.sparse_t_matmul(*given, 6))


def test_float64_is_refused(device):
    _, (i, v, w, x) = case(2, 3, 9, 20, device)
    for work in (
        lambda: sparse.decode(i, v, w.double()),
        lambda: sparse.sampled_matmul(i, x.double(), w),
        lambda: sparse.sparse_t_matmul(i, v.double(), x, 9),
    ):
        with pytest.raises(ValueError, match="torch.float64 on a GPU: expected float32"):
            work()


def test_no_rows(device):
    _, (i, v, w, x) = case(2, 3, 9, 20, device)
    i, v, x = i[:0], v[:0], x[:0]
    assert sparse.decode(i, v, w).shape == (0, 20) and sparse.sampled_matmul(i, x, w).shape == (
        0,
        3,
    )
    assert not sparse.sparse_t_matmul(i, v, x, 9).any()
