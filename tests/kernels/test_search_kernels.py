import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from compressae.kernels import decode, quantize, rescore, topk
from compressae.kernels.decode import reference as decode_reference
from compressae.kernels.quantize import reference as quantize_reference
from compressae.kernels.rescore import reference as rescore_reference
from compressae.kernels.topk import reference as topk_reference

SHAPES = [(1, 1, 1), (1, 63, 1), (5, 65, 65), (64, 63, 17), (33, 300, 12)]


@pytest.mark.parametrize(("n", "h", "k"), SHAPES)
@pytest.mark.parametrize("kind", ["normal", "ties", "tiny", "zeros"])
def test_abs_topk_is_the_reference(n, h, k, kind):
    rng = np.random.default_rng(n * h)
    x = rng.standard_normal((n, h)).astype(np.float32)
    if kind == "ties":
        x = rng.integers(-2, 3, (n, h)).astype(np.float32)
    elif kind == "tiny":
        x *= np.float32(1e-42)
    elif kind == "zeros":
        x = np.where(rng.random((n, h)) < 0.9, np.float32(-0.0), x)
    ids, values = topk.abs_topk(x, k)
    expected_ids, expected = topk_reference.abs_topk(x, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(ids, topk.abs_topk(x, k, threads=3)[0])


@pytest.mark.parametrize("k", [0, 5])
def test_abs_topk_refuses_k_outside_the_row(k):
    with pytest.raises(ValueError, match=f"k = {k} of 4 entries"):
        topk.abs_topk(np.ones((2, 4), np.float32), k)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.integers(1, 70))
def test_best_is_a_stable_sort(scores, count):
    scores = np.array(scores, np.float32)
    ids, top = topk.best(scores, count)
    expected_ids, expected = topk_reference.best(scores, count)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(top, expected)


@pytest.mark.parametrize(("n", "h", "k"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_products_are_the_dense_ones(n, h, k, dtype):
    rng = np.random.default_rng(k)
    indices = np.argsort(rng.random((n, h)), axis=1)[:, :k].astype(np.int32)
    values = rng.standard_normal((n, k)).astype(dtype)
    weights = rng.standard_normal((h, 7)).astype(dtype)
    rows = rng.standard_normal((n, 7)).astype(dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    for threads in (1, 2):
        np.testing.assert_allclose(
            decode.decode(indices, values, weights, threads),
            decode_reference.decode(indices, values, weights),
            **tolerance,
        )
        np.testing.assert_allclose(
            decode.sampled_matmul(indices, rows, weights, threads),
            decode_reference.sampled_matmul(indices, rows, weights),
            **tolerance,
        )
        np.testing.assert_allclose(
            decode.sparse_t_matmul(indices, values, rows, h, threads),
            decode_reference.sparse_t_matmul(indices, values, rows, h),
            **tolerance,
        )


def ragged(n, h, seed, dtype=np.float32):
    """CSR arrays with empty rows and lists."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, h)) < 0.2, rng.integers(-9, 10, (n, h)), 0)
    dense[rng.random(n) < 0.2] = 0
    csr = sparse.csr_array(dense)
    return (
        csr.indptr.astype(np.int64), csr.indices.astype(np.uint16), csr.data.astype(dtype), dense
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize(("n", "h"), [(1, 1), (63, 65), (200, 9)])
def test_rescore_is_the_reference(n, h, dtype):
    indptr, indices, values, dense = ragged(n, h, n + h, dtype)
    rng = np.random.default_rng(3)
    query = rng.integers(-4, 5, h).astype(np.float32)
    scales = rng.random(n).astype(np.float32)
    chosen = rng.integers(0, n, 41)
    np.testing.assert_array_equal(
        rescore.rescore(indptr, indices, values, None, query, None), dense @ query
    )
    for rows in (None, chosen, chosen.astype(np.int32), chosen[:0]):
        for scale in (None, scales):
            arguments = (indptr, indices, values, scale, query, rows)
            np.testing.assert_array_equal(
                rescore.rescore(*arguments), rescore_reference.rescore(*arguments)
            )


def test_quantised_rows_are_the_reference_and_within_half_a_scale():
    indptr, _, values, _ = ragged(50, 40, 8)
    values = values * np.random.default_rng(0).random(len(values)).astype(np.float32)
    codes, scales = quantize.quantize_rows(values, indptr)
    expected_codes, expected_scales = quantize_reference.quantize_rows(values, indptr)
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_array_equal(scales, expected_scales)
    step = np.repeat(scales, np.diff(indptr))
    assert (np.abs(codes * step - values) <= 0.5001 * step).all()
    assert np.abs(codes).max() == 127
