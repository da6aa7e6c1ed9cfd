"""Products of rows: against their definition, and the same bits in any batch."""

import numpy as np
import pytest

from compressae.kernels.matmul import Centroids, Panels, matmul, nearest_centroids, reference


def rows(m, k, seed=0):
    return np.random.default_rng(seed).standard_normal((m, k)).astype(np.float32)


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (3, 16, 16), (63, 7, 5), (65, 40, 33), (4, 64, 48)]
)
def test_matmul_is_its_definition(m, k, n):
    x, matrix = rows(m, k), rows(k, n, seed=1)
    product = matmul(x, Panels.of(matrix))
    assert product.shape == (m, n) and product.dtype == np.float32
    np.testing.assert_allclose(product, reference.matmul(x, matrix), atol=1e-5)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 2), (5, 0, 2), (5, 3, 0)])
def test_matmul_of_nothing(m, k, n):
    assert np.array_equal(matmul(rows(m, k), Panels.of(rows(k, n))), np.zeros((m, n)))


@pytest.mark.parametrize(("parts", "s"), [(1, 1), (3, 5), (8, 16)])
def test_nearest_centroids_are_their_definition(parts, s):
    x, codebooks = rows(131, parts * s), rows(parts * 256, s, seed=1).reshape(parts, 256, s)
    codes = nearest_centroids(x, Centroids.of(codebooks))
    assert np.array_equal(codes, reference.nearest_centroids(x, codebooks))


def test_the_first_of_equal_centroids_is_taken():
    codebooks = np.zeros((1, 256, 2), np.float32)
    codebooks[0, 3:200] = [1, 2]
    assert nearest_centroids(np.array([[1, 2]], np.float32), Centroids.of(codebooks)) == 3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_has_the_same_bits_in_any_batch(threads):
    x, matrix = rows(203, 37), Panels.of(rows(37, 51, seed=1))
    codebooks = Centroids.of(rows(3 * 256, 17, seed=2).reshape(3, 256, 17))
    whole = matmul(x, matrix, threads=1)
    codes = nearest_centroids(whole, codebooks, threads=1)
    for begin, end in [(0, 203), (0, 1), (1, 3), (3, 66), (66, 203)]:
        part = matmul(x[begin:end], matrix, threads)
        assert np.array_equal(part, whole[begin:end])
        assert np.array_equal(nearest_centroids(part, codebooks, threads), codes[begin:end])


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"expected \(m, 3\)"):
        matmul(rows(2, 4), Panels.of(rows(3, 2)))
    with pytest.raises(ValueError, match=r"expected \(m, 6\)"):
        nearest_centroids(rows(2, 5), Centroids.of(rows(512, 3).reshape(2, 256, 3)))
