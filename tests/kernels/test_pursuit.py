import numpy as np
import pytest
import torch

from compressae.kernels.pursuit import pursue, reference


def unit(shape, seed):
    rows = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def errors(x, weights, indices, values):
    rest = x - np.einsum("nk,nkd->nd", values, weights[indices])
    return (rest.astype(np.float64) ** 2).sum(1)


@pytest.mark.parametrize(
    ("n", "d", "h", "counts"),
    [(1, 1, 1, [1]), (7, 5, 9, [1, 1]), (40, 24, 65, [1] * 6), (40, 24, 100, [2, 3, 4]),
     (9, 8, 12, [12]), (130, 16, 33, [4, 4])],
)  # fmt: skip
def test_matches_the_reference(n, d, h, counts):
    x, weights = unit((n, d), 0), unit((h, d), 1)
    indices, values = pursue(x, weights, counts, dtype=torch.float32)
    expected_ids, expected_values = reference.pursue(x, weights, counts, 1e-4)
    assert indices.dtype == np.int32 and values.dtype == np.float32
    same = (indices == expected_ids).all(1)
    assert same.mean() > 0.95  # Near ties may fall either way in float32.
    np.testing.assert_allclose(values[same], expected_values[same], rtol=1e-2, atol=2e-3)


def test_latents_are_distinct_and_more_steps_reconstruct_better():
    x, weights = unit((200, 32), 2), unit((256, 32), 3)
    found = {}
    for steps in (1, 2, 8):
        indices, values = pursue(x, weights, [8 // steps] * steps)
        assert all(len(set(row)) == 8 for row in indices.tolist())
        found[steps] = errors(x, weights, indices, values).mean()
    assert found[8] < found[2] < found[1]


def test_bfloat16_choices_reconstruct_almost_as_well():
    x, weights = unit((300, 48), 4), unit((512, 48), 5)
    mean = {
        dtype: errors(x, weights, *pursue(x, weights, [1] * 8, dtype=dtype)).mean()
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert mean[torch.bfloat16] < 1.02 * mean[torch.float32]


def test_a_longer_pursuit_starts_with_the_shorter_one():
    x, weights = unit((50, 16), 6), unit((40, 16), 7)
    short, long = (pursue(x, weights, [1] * k)[0] for k in (4, 9))
    np.testing.assert_array_equal(short, long[:, :4])


def test_rows_that_are_latents_need_no_second_one_yet_get_distinct_ones():
    weights = np.eye(6, dtype=np.float32)
    indices, values = pursue(weights, weights, [1, 1, 1], dtype=torch.float32)
    np.testing.assert_array_equal(indices[:, 0], np.arange(6))
    assert all(len(set(row)) == 3 for row in indices.tolist())
    np.testing.assert_allclose(values[:, 0], 1, atol=1e-3)
    np.testing.assert_allclose(values[:, 1:], 0, atol=1e-3)


def test_batches_and_threads_do_not_matter(monkeypatch):
    x, weights = unit((50, 16), 8), unit((40, 16), 9)
    one = pursue(x, weights, [1, 2], dtype=torch.float32, threads=1)
    monkeypatch.setattr("compressae.kernels.pursuit._PRODUCTS", 40 * 16)
    two = pursue(x, weights, [1, 2], dtype=torch.float32, threads=3)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_allclose(one[1], two[1], atol=1e-5)


@pytest.mark.parametrize(
    ("counts", "ridge", "said"),
    [([], 1, "at most 3"), ([2, 2], 1, "at most 3"), ([1, 0], 1, "1 or more a step"),
     ([1], 0, "ridge = 0: expected more than 0")],
)  # fmt: skip
def test_refuses(counts, ridge, said):
    with pytest.raises(ValueError, match=said):
        pursue(unit((2, 4), 0), unit((3, 4), 1), counts, ridge)
