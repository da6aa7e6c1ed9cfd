"""Codes of a chain quantiser: against their definition, and the same in any batch."""

import numpy as np
import pytest
import torch

from compressae.kernels.chain import Chain, encode_chain, reference

SIZES = [(1, 1, 1), (2, 3, 5), (3, 5, 67), (9, 3, 33)]


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def errors(parts, codes, codebooks):
    return np.square(parts - reference.decode(codes, codebooks)).sum(1)


@pytest.mark.parametrize(("p", "s", "n"), SIZES)
def test_codes_are_those_of_least_error(p, s, n):
    parts, codebooks = normal((n, p * s)), normal((p, 256, 2 * s), 1) * 0.7
    codes = encode_chain(parts, Chain.of(codebooks))
    expected = reference.encode(parts, codebooks)
    assert codes.shape == (n, p) and codes.dtype == np.uint8
    assert (codes == expected).all(1).mean() > 0.9  # But where two are about as good.
    best = errors(parts, expected, codebooks)
    assert (errors(parts, codes, codebooks) <= 1.001 * best + 1e-6).all()


def test_with_two_dimensions_a_byte_rounding_costs_little():
    """Errors are small beside the products that are rounded: rows differ, their sum hardly."""
    parts, codebooks = normal((200, 60)), normal((30, 256, 4), 1) * 0.7
    codes, expected = encode_chain(parts, Chain.of(codebooks)), reference.encode(parts, codebooks)
    assert (codes == expected).all(1).mean() > 0.5
    assert errors(parts, codes, codebooks).sum() < 1.002 * errors(parts, expected, codebooks).sum()


def test_of_all_codes_none_is_better():
    """Two bytes: the definition itself, against all 65,536 pairs of centroids."""
    parts, codebooks = normal((4, 6)), normal((2, 256, 6), 1)
    every = np.stack(np.divmod(np.arange(1 << 16), 256), 1).astype(np.uint8)
    best = [errors(row, every, codebooks).min() for row in parts]
    found = reference.encode(parts, codebooks)
    np.testing.assert_allclose(errors(parts, found, codebooks), best, rtol=1e-5)


@pytest.mark.parametrize(("scale", "offset"), [(1e-12, 0), (1e12, 0), (1, 100)])
def test_parts_and_centroids_of_any_size(scale, offset):
    """And centroids so far apart that costs of most states are beyond 16 bits."""
    parts, codebooks = normal((20, 8)) * scale, normal((4, 256, 4), 1) * scale
    codebooks[:, ::2] += np.float32(offset * scale)
    codes = encode_chain(parts, Chain.of(codebooks))
    best = errors(parts, reference.encode(parts, codebooks), codebooks)
    limit = 1e-3 * (1 + offset) * np.square(codebooks).sum(2).max()
    assert (errors(parts, codes, codebooks) <= 1.001 * best + limit).all()


@pytest.mark.parametrize("length", [1, 1e-18])
def test_a_part_that_no_centroid_reaches_forgets_nothing_before_it(length):
    parts, codebooks = normal((20, 9)) * length, normal((3, 256, 6), 1) * length
    codebooks[1, :, :3] = 0  # Products with those before are 0 …
    codebooks[2, :, :3] = 0  # … and with those after.
    found = errors(parts / length, encode_chain(parts, Chain.of(codebooks)), codebooks / length)
    expected = reference.encode(parts / length, codebooks / length)
    best = errors(parts / length, expected, codebooks / length)
    np.testing.assert_allclose(found, best, rtol=1e-2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_has_the_same_codes_in_any_batch(threads):
    parts, chain = normal((103, 15)), Chain.of(normal((3, 256, 10), 1))
    whole = encode_chain(parts, chain, threads=1)
    for begin, end in [(0, 103), (0, 1), (1, 3), (3, 66), (66, 103)]:
        assert np.array_equal(encode_chain(parts[begin:end], chain, threads), whole[begin:end])


def test_the_first_of_equal_codes_is_taken():
    assert encode_chain(normal((3, 4)), Chain.of(np.zeros((2, 256, 4)))).tolist() == [[0, 0]] * 3


def test_no_rows_have_no_codes():
    assert encode_chain(normal((0, 4)), Chain.of(normal((2, 256, 4)))).shape == (0, 2)


def test_another_width_is_refused():
    with pytest.raises(ValueError, match=r"rows \(2, 5\): expected \(n, 4\)"):
        encode_chain(normal((2, 5)), Chain.of(normal((2, 256, 4))))


@pytest.mark.parametrize(("p", "s", "n"), SIZES)
def test_codes_on_a_gpu(device, p, s, n, monkeypatch):
    from compressae.kernels.chain import gpu

    monkeypatch.setattr("compressae.kernels.chain.gpu._BYTES", 1)  # Batches of 16 rows.
    parts, codebooks = normal((n, p * s)), normal((p, 256, 2 * s), 1) * 0.7
    placed = (torch.from_numpy(a).to(device) for a in (parts, codebooks))
    codes = gpu.encode_chain(*placed)
    assert codes.dtype == torch.uint8 and codes.shape == (n, p)
    best = errors(parts, reference.encode(parts, codebooks), codebooks)
    assert (errors(parts, codes.cpu().numpy(), codebooks) <= 1.0001 * best + 1e-5).all()
    assert gpu.encode_chain(torch.zeros(0, p * s), torch.from_numpy(codebooks)).shape == (0, p)
