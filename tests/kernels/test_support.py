import numba
import numpy as np
import pytest

from compressae.kernels.pursuit import reference as pursuit
from compressae.kernels.support import Dictionary, cpu, reference, select_latents
from compressae.retrieval.io.embeddings import unit_rows


def rows(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def errors(x, weights, supports):
    """Squared errors of the least-squares fits."""
    return np.array(
        [
            ((row - columns.T @ np.linalg.lstsq(columns.T, row, rcond=None)[0]) ** 2).sum()
            for row, columns in zip(x.astype(float), weights[supports].astype(float), strict=True)
        ]
    )


def are_distinct(supports, h):
    assert supports.dtype == np.int32 and supports.min() >= 0 and supports.max() < h
    return all(len(set(row)) == supports.shape[1] for row in supports.tolist())


@pytest.mark.parametrize(
    ("n", "d", "h", "k"),
    [(1, 1, 1, 1), (7, 5, 9, 2), (20, 24, 65, 6), (67, 33, 64, 2), (40, 16, 30, 4)],
)
def test_matches_the_reference(n, d, h, k):
    x, weights = rows((n, d), 0), rows((h, d), 1)
    supports = select_latents(x, Dictionary(weights), k)
    assert are_distinct(supports, h)
    expected = reference.select_latents(x, weights, k)
    assert (supports == expected).all(1).mean() >= 0.97  # Near ties may fall either way.


@pytest.mark.parametrize(("d", "share"), [(32, 1.0), (160, 1.01)], ids=["of all", "of a few"])
def test_thousands_of_latents(d, share):
    """Rows of many dimensions look at 512 of 2,000 latents in later steps, at little cost."""
    x, weights = rows((40, d), 3), rows((2000, d), 2)
    ours = errors(x, weights, select_latents(x, Dictionary(weights), 10))
    exact = errors(x, weights, by_projection(x, weights, 10))
    assert ours.mean() <= (share + 0.001) * exact.mean()


def by_projection(x, weights, k):
    """Equal to the reference, in a time that allows thousands of latents."""
    unit = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float64)
    supports = np.empty((len(x), k), np.int64)
    for i, row in enumerate(x.astype(np.float64)):
        beside, left = unit.copy(), row.copy()
        for s in range(k):
            lengths = (beside**2).sum(1)
            gains = np.where(lengths > 1e-9, (beside @ left) ** 2 / np.maximum(lengths, 1e-9), -1)
            gains[supports[i, :s]] = -1
            j = supports[i, s] = int(gains.argmax())
            q = beside[j] / np.linalg.norm(beside[j])
            left -= (q @ left) * q
            beside -= np.outer(beside @ q, q)
    return supports


@pytest.mark.parametrize("counts", [[2, 3, 4], [9], [1] * 9], ids=str)
def test_stages_are_those_of_matching_pursuit(counts):
    x, weights = rows((60, 24), 16), unit_rows(rows((200, 24), 17))
    supports = select_latents(x, Dictionary(weights), 9, counts=counts)
    expected = pursuit.pursue(x, weights, counts, 1e-6)[0]
    assert are_distinct(supports, 200)
    same = np.sort(supports, axis=1) == np.sort(expected, axis=1)
    assert same.all(1).mean() >= 0.95  # Near ties may fall either way.


@pytest.mark.parametrize("beam", [2, 4, 9])
def test_a_beam_leaves_less_error(beam):
    x, weights = rows((150, 24), 4), rows((300, 24), 5)
    dictionary = Dictionary(weights)
    greedy = errors(x, weights, select_latents(x, dictionary, 8))
    supports = select_latents(x, dictionary, 8, beam)
    assert are_distinct(supports, 300)
    kept = errors(x, weights, supports)
    assert kept.mean() < 0.97 * greedy.mean()
    assert (kept <= greedy + 1e-3 * (x**2).sum(1)).mean() > 0.95


def test_a_beam_betters_steps_after_the_second():
    """Two of three steps are greedy, and the last one is the best in any case."""
    x, weights = rows((30, 6), 6), rows((20, 6), 7)
    dictionary = Dictionary(weights)
    greedy = select_latents(x, dictionary, 3)
    np.testing.assert_array_equal(select_latents(x, dictionary, 3, beam=5), greedy)


def test_a_longer_support_starts_with_the_shorter_one():
    x, weights = rows((50, 16), 8), rows((700, 16), 9)
    dictionary = Dictionary(weights)
    first = select_latents(x, dictionary, 4)
    longer = select_latents(x, dictionary, 9)
    np.testing.assert_array_equal(first, longer[:, :4])


@pytest.mark.parametrize("beam", [1, 3])
def test_rows_of_zeros_and_equal_latents_get_distinct_ones(beam):
    weights = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    x = np.concatenate([np.zeros((2, 4), np.float32), np.eye(4, dtype=np.float32)])
    for k in (1, 5, 12):
        supports = select_latents(x, Dictionary(weights), k, beam)
        assert are_distinct(supports, 12)
        assert (supports[2:, 0] // 3 == np.arange(4)).all()


@pytest.mark.parametrize("beam", [1, 3])
def test_other_rows_and_threads_do_not_matter(beam):
    """Nor does whether the Gram matrix is there or its rows come when they are needed."""
    x, weights = rows((200, 24), 10), rows((900, 24), 11)
    whole = select_latents(x, Dictionary(weights), 9, beam, threads=1)
    np.testing.assert_array_equal(select_latents(x, Dictionary(weights), 9, beam, threads=3), whole)
    shared = Dictionary(weights)
    for start, stop in ((0, 1), (1, 60), (60, 70), (70, 200)):
        part = select_latents(x[start:stop], shared, 9, beam)
        np.testing.assert_array_equal(part, whole[start:stop])


def test_lengths_of_rows_and_latents_do_not_matter():
    x, weights = rows((30, 12), 12), rows((80, 12), 13)
    scaled = weights * np.random.default_rng(0).uniform(0.01, 100, (80, 1)).astype(np.float32)
    supports = select_latents(x, Dictionary(weights), 5)
    same = select_latents(1000 * x, Dictionary(scaled), 5) == supports
    assert same.all(1).mean() > 0.9


def test_products_are_exact():
    """Of int16 numbers, an odd number of columns, rows and latents that fill no panel."""
    x, weights = rows((6, 7), 14), rows((70, 7), 15)
    dictionary = Dictionary(weights)
    numbers = np.zeros((8, 8), np.int16)
    cpu.to_int16(x, numbers, 0, 6)
    latents, panels, gram, _ = dictionary.arrays
    products = np.full((8, 128), np.nan, np.float32)
    multiply(numbers, panels, np.float32(1), products)
    exact = numbers.astype(np.int64) @ latents.astype(np.int64).T
    np.testing.assert_array_equal(products, exact.astype(np.float32))
    assert not dictionary.prepare(17, threads=2)  # A quarter of the latents is 17.5.
    assert dictionary.prepare(1, threads=2)  # Calls add up.
    whole = latents.astype(np.int64) @ latents.astype(np.int64).T
    np.testing.assert_allclose(gram, np.minimum(whole / 32767, 32767), atol=0.6)


@numba.njit
def multiply(numbers, panels, scale, products):
    cpu._multiply(numbers, panels, scale, products)


def test_no_rows():
    assert select_latents(np.empty((0, 3), np.float32), Dictionary(rows((5, 3), 0)), 2).shape == (
        0,
        2,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(k=0), "k = 0: expected 1 to 5"),
        (dict(k=6), "k = 6: expected 1 to 5"),
        (dict(k=1, beam=0), "beam = 0: expected 1 or more"),
        (dict(k=3, counts=[1, 1]), r"counts = \[1, 1\]: expected 3 in all"),
        (dict(k=2, counts=[1, 1], beam=2), r"counts = \[1, 1\]: .*no beam"),
    ],
    ids=["no latents", "more than there are", "no support", "stages of fewer", "stages and a beam"],
)
def test_refuses(options, said):
    with pytest.raises(ValueError, match=said):
        select_latents(rows((2, 3), 0), Dictionary(rows((5, 3), 1)), **options)


def test_refuses_another_width_and_too_many_latents():
    with pytest.raises(ValueError, match="rows of 4 columns: expected 3"):
        select_latents(rows((2, 4), 0), Dictionary(rows((5, 3), 1)), 1)
    assert Dictionary.fits(16_384) and not Dictionary.fits(32_768)
    with pytest.raises(ValueError, match="32768 latents: expected a Gram matrix of at most 1 GiB"):
        Dictionary(np.zeros((32_768, 2), np.float32))
