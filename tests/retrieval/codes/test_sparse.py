import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from compressae import InputError
from compressae.retrieval import SparseCodes


@st.composite
def matrices(draw):
    """Small CSR matrices with empty rows; values are multiples of 1/4, exact in float16."""
    n, h = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    cells = draw(st.lists(st.integers(-8, 8), min_size=n * h, max_size=n * h))
    return scipy.sparse.csr_array(np.array(cells, np.float32).reshape(n, h) / 4)


@given(matrices(), st.sampled_from(["float32", "float16"]))
def test_scipy_round_trip(matrix, values):
    codes = SparseCodes.from_scipy(matrix, values)
    assert codes.shape == matrix.shape and codes.nnz == np.count_nonzero(matrix.toarray())
    np.testing.assert_array_equal(codes.to_scipy().toarray(), matrix.toarray())
    for i in range(len(codes)):
        latents, numbers = codes.row(i)
        row = np.zeros(codes.latents, np.float32)
        row[latents] = numbers
        np.testing.assert_array_equal(row, matrix.toarray()[i])


@given(matrices(), st.sampled_from(["float32", "float16", "int8"]))
def test_save_and_load_give_the_same_arrays(tmp_path_factory, matrix, values):
    codes = SparseCodes.from_scipy(matrix, values)
    path = tmp_path_factory.mktemp("codes") / "codes"
    codes.save(path)
    loaded = SparseCodes.load(path)
    for name in ("indptr", "indices", "values", "scales"):
        before, after = getattr(codes, name), getattr(loaded, name)
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(before, after)
            assert before.dtype == after.dtype
    assert (loaded.latents, loaded.nbytes) == (codes.latents, codes.nbytes)


@given(matrices())
def test_int8_is_within_half_a_scale_and_norms_are_of_what_is_stored(matrix):
    codes = SparseCodes.from_scipy(matrix, "int8")
    dense, exact = codes.to_scipy().toarray(), matrix.toarray()
    assert (np.abs(dense - exact) <= 0.501 * np.abs(exact).max(axis=1, keepdims=True) / 127).all()
    np.testing.assert_allclose(codes.norms(), np.linalg.norm(dense, axis=1), rtol=1e-5)


def test_other_formats_duplicates_and_explicit_zeros():
    coo = scipy.sparse.coo_matrix(([1.0, 2.0, 0.0, 3.0], ([0, 0, 1, 1], [2, 2, 0, 1])), (2, 3))
    codes = SparseCodes.from_scipy(coo)
    np.testing.assert_array_equal(codes.to_scipy().toarray(), [[0, 0, 3], [0, 3, 0]])
    assert codes.nnz == 2 and codes.uniform == 1


def test_every_byte_is_counted():
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((7, 50)), axis=1)[:, :4]
    values = rng.standard_normal((7, 4)).astype(np.float32)
    sizes = {"float32": 7 * 4 * 6, "float16": 7 * 4 * 4, "int8": 7 * 4 * 3 + 7 * 4}
    for kind, size in sizes.items():
        codes = SparseCodes.from_rows(ids, values, 50, kind)
        assert codes.nbytes == size and codes.uniform == 4
        assert codes.nbytes == sum(array.nbytes for array in codes.arrays().values())
    wide = SparseCodes.from_rows(ids, values, 70_000)
    assert wide.indices.dtype == np.uint32 and wide.nbytes == 7 * 4 * 8
    ragged = SparseCodes.from_arrays([0, 1, 3], np.arange(3), np.ones(3), 50)
    assert ragged.uniform is None and ragged.nbytes == 3 * 6 + 3 * 8


def test_values_can_be_stored_another_way():
    codes = SparseCodes.from_rows(np.array([[1, 0]]), np.array([[3.0, -1.5]]), 2)
    np.testing.assert_allclose(codes.with_values("int8").row_values(), [3, -1.5], atol=0.02)
    assert codes.with_values("float16").value_type == "float16"


def test_what_cannot_be_codes_is_refused():
    def refused(message, *arguments):
        with pytest.raises(InputError, match=message):
            SparseCodes.from_arrays(*arguments)

    one = np.ones(1)
    refused("ids from 5 to 5; expected 0 to 4", [0, 1], np.array([5]), one, 5)
    refused("ids from -1 to -1", [0, 1], np.array([-1]), one, 5)
    refused("NaN or infinity", [0, 1], np.array([0]), one * np.nan, 5)
    refused("NaN or infinity", [0, 1], np.array([0]), one * np.inf, 5, "int8")
    refused("NaN or infinity", [0, 1], np.array([0]), one * 1e6, 5, "float16")
    refused("do not fit together", [0, 2], np.array([0]), one, 5)
    refused("do not fit together", [0, 1, 0, 1], np.array([0]), one, 5)
    refused("no rows", [0], np.array([], int), np.array([]), 5)
    refused("expected one of float32", [0, 1], np.array([0]), one, 5, "int4")
    with pytest.raises(InputError, match="ndarray: expected a 2-d scipy sparse matrix"):
        SparseCodes.from_scipy(np.ones((2, 2)))
