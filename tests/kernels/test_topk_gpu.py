"""Triton's top-k against the reference."""

import numpy as np
import pytest
import torch

from compressae.kernels import topk
from compressae.kernels.topk import reference

pytestmark = pytest.mark.topk


def rows(n, h, seed=0, ties=False):
    x = np.random.default_rng(seed).standard_normal((n, h), dtype=np.float32)
    return np.round(2 * x) if ties else x


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("n", "h", "k"), [(3, 1, 1), (2, 33, 33), (5, 100, 7), (2, 4096, 32), (1, 5000, 128)]
)
def test_abs_topk_equals_the_reference(device, n, h, k, ties):
    x = rows(n, h, k, ties)
    ids, values = topk.abs_topk(torch.from_numpy(x).to(device), k)
    expected = reference.abs_topk(x, k)
    assert ids.dtype == torch.int32 and values.dtype == torch.float32
    np.testing.assert_array_equal(ids.cpu().numpy(), expected[0])
    np.testing.assert_array_equal(values.cpu().numpy(), expected[1])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("n", "h", "k"),
    [
        pytest.param(17, 300, 20, id="programs of one warp take several rows"),
        pytest.param(5, 13_000, 5, id="programs of eight warps take several rows"),
        pytest.param(1, 65536, 256, id="one part"),
        pytest.param(1, 140_000, 70, id="three parts, merged"),
        pytest.param(1, 5000, 1000, id="k above 512"),
        pytest.param(2, 700, 600, id="whole rows sorted, too short"),
        pytest.param(1, 5000, 4097, id="whole rows sorted, k too large"),
    ],
)
def test_shapes_that_are_launched_in_other_ways(device, n, h, k, ties):
    x = rows(n, h, 1, ties)
    ids, values = topk.abs_topk(torch.from_numpy(x).to(device), k)
    expected = reference.abs_topk(x, k)
    np.testing.assert_array_equal(ids.cpu().numpy(), expected[0])
    np.testing.assert_array_equal(values.cpu().numpy(), expected[1])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float32, 0), (torch.bfloat16, -1), (torch.float16, -1), (torch.int32, -1)],
)
@pytest.mark.parametrize("h", [100, 5000])
def test_equal_entries_are_taken_by_id(device, dtype, value, h):
    """All rows tie at the threshold; one has a few larger entries, far along it."""
    x = torch.full((3, h), value, dtype=dtype)
    x[1, -30:-25] = 3
    ids, values = topk.largest(x.to(device), 40)
    assert ids.tolist()[0] == ids.tolist()[2] == list(range(40))
    assert ids.tolist()[1] == [*range(h - 30, h - 25), *range(35)]
    np.testing.assert_array_equal(values.float().cpu(), x.gather(1, ids.cpu()).float())


def test_zeros_of_both_signs_tie(device):
    x = torch.zeros(2, 300)
    x[:, ::2] = -0.0
    assert topk.largest(x.to(device), 5)[0].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert topk.abs_topk(x.to(device), 5)[0].tolist() == [[0, 1, 2, 3, 4]] * 2


def test_large_entries_side_by_side(device):
    """All of the largest in few groups: more candidates than there is room for."""
    x = np.zeros((2, 3000), np.float32)
    x[0, 128 * np.arange(20)] = np.arange(20) - 30.5
    x[1, :300] = 1
    ids, values = topk.abs_topk(torch.from_numpy(x).to(device), 40)
    expected = reference.abs_topk(x, 40)
    np.testing.assert_array_equal(ids.cpu().numpy(), expected[0])
    np.testing.assert_array_equal(values.cpu().numpy(), expected[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("h", "k"), [(500, 20), (90, 90), (66_000, 30)])
def test_short_floats_are_ordered_as_they_are(device, dtype, h, k):
    x = torch.from_numpy(rows(2, h)).to(device, dtype)
    ids, values = topk.abs_topk(x, k)
    expected = reference.abs_topk(x.float().cpu().numpy(), k)
    np.testing.assert_array_equal(ids.cpu().numpy(), expected[0])
    np.testing.assert_array_equal(values.float().cpu().numpy(), expected[1])


@pytest.mark.parametrize(("m", "k"), [(50, 50), (3000, 100), (9000, 10), (66_000, 10), (700, 600)])
def test_largest_keeps_signs_and_breaks_ties_by_id(device, m, k):
    x = rows(2, m, ties=True)
    x[0, 10:] = np.where(np.arange(m - 10) % 3, -np.inf, x[0, 10:])
    ids, values = topk.largest(torch.from_numpy(x).to(device), k)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids.cpu().numpy(), expected)
    np.testing.assert_array_equal(values.cpu().numpy(), np.take_along_axis(x, expected, 1))


def test_whole_numbers_that_a_float_would_round(device):
    x = (1 << 28) - np.arange(200, dtype=np.int32)[None] % 7 - np.int32(3) * np.arange(2)[:, None]
    x[1] = -x[1]
    ids, values = topk.largest(torch.from_numpy(x.astype(np.int32)).to(device), 30)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :30]
    np.testing.assert_array_equal(ids.cpu().numpy(), expected)
    assert values.dtype == torch.int32


def test_entries_that_fill_the_last_part_are_never_found(device):
    """Where all but a few are −inf."""
    x = np.full((2, 65538), -np.inf, np.float32)
    x[0, [65536, 17]] = 1, 2
    ids, values = topk.largest(torch.from_numpy(x).to(device), 5)
    np.testing.assert_array_equal(ids.cpu().numpy(), [[17, 65536, 0, 1, 2], [0, 1, 2, 3, 4]])
    assert torch.isneginf(values[1]).all() and torch.isneginf(values[0, 2:]).all()
    least = torch.full((1, 65538), torch.iinfo(torch.int32).min + 1, dtype=torch.int32)
    least[0, 65537] = 3
    ids, _ = topk.largest(least.to(device), 3)
    assert ids.tolist() == [[65537, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_rows_of_nan_end_with_distinct_ids(device, dtype, share):
    """What order they have is not promised; a run that diverges has them."""
    x = torch.from_numpy(rows(1, 2048, 3)).to(dtype)
    x[:, : int(share * 2048)] = float("nan")
    ids, _ = topk.abs_topk(x.to(device), 8)
    assert len(set(ids[0].tolist())) == 8 and ((ids >= 0) & (ids < 2048)).all()


def test_rows_that_lie_apart(device):
    x = torch.from_numpy(rows(4, 90)).to(device)
    for view in (x[:, ::2], x[1:3, 5:60], x.T[:3]):
        ids, _ = topk.abs_topk(view, 4)
        np.testing.assert_array_equal(
            ids.cpu().numpy(), reference.abs_topk(view.cpu().numpy(), 4)[0]
        )


def test_no_rows(device):
    ids, values = topk.abs_topk(torch.zeros(0, 50, device=device), 3)
    assert ids.shape == values.shape == (0, 3)


def test_bad_k_is_refused(device):
    for k in (0, 51):
        with pytest.raises(ValueError, match=f"k = {k} of 50 entries"):
            topk.abs_topk(torch.zeros(2, 50, device=device), k)
        with pytest.raises(ValueError, match=f"k = {k} of 50 entries"):
            topk.largest(torch.zeros(2, 50, device=device), k)
