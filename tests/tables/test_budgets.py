"""Widths under a budget: never one entry over, and the budget used."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressae.retrieval.errors import InputError
from compressae.tables import BudgetedTable, power_widths, uniform_widths, widths_of_shares


def draw(random, n, family):
    """Frequencies or shares of the shapes that BET draws, and of awkward ones."""
    return [
        lambda: random.pareto(random.uniform(0.01, 20), n),
        lambda: np.abs(random.normal(0, random.uniform(0, 20), n)),
        lambda: random.exponential(random.uniform(0.01, 5), n),
        lambda: random.lognormal(0, random.uniform(0, 0.5), n),
        lambda: random.integers(0, 3, n),
        lambda: np.zeros(n),
        lambda: 10.0 ** random.uniform(-300, 300, n),
        lambda: np.eye(1, n)[0],
    ][family]()


def check(widths, n, d_max, entries, least, shares):
    assert widths.shape == (n,) and widths.dtype == np.int64
    assert widths.sum() == min(entries, n * d_max)  # Never over; and all of it.
    assert widths.min() >= least and widths.max() <= d_max
    order = np.argsort(shares, kind="stable")
    ranked = np.asarray(shares)[order]
    falls = np.diff(widths[order]) < 0
    assert not (falls & (ranked[1:] > ranked[:-1])).any()  # More is never given less.


@given(
    st.integers(1, 60), st.integers(1, 128), st.floats(0, 1.1), st.integers(0, 2),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=250)
def test_two_thousand_budgets_are_met_exactly(n, d_max, share, least, seed):
    least = min(least, d_max)
    entries = max(n * least, int(share * n * d_max))
    random = np.random.default_rng(seed)
    for family in range(8):
        shares = draw(random, n, family)
        widths = widths_of_shares(shares, d_max, entries, least)
        check(widths, n, d_max, entries, least, shares)
    frequencies, power = draw(random, n, 4), random.choice([0, 0.3, 1, 2])
    widths = power_widths(frequencies, d_max, entries, power, least)
    check(widths, n, d_max, entries, least, frequencies**power)
    widths = uniform_widths(n, d_max, entries, frequencies)
    check(widths, n, d_max, entries, 0, frequencies)


@pytest.mark.parametrize("entries", [70_840, 453_369, 906_739, 4_533_696, 10**9])
def test_a_catalogue_of_gowallas_size(entries):
    frequencies = np.random.default_rng(0).zipf(1.3, 70_839)
    widths = power_widths(frequencies, 64, entries)
    check(widths, 70_839, 64, entries, 1, frequencies)
    assert BudgetedTable(widths, 64).num_parameters == min(entries, 70_839 * 64)


def test_widths_are_in_proportion_between_the_bounds():
    assert widths_of_shares([1, 2, 3, 4], 100, 100).tolist() == [10, 20, 30, 40]
    # The largest is capped; what it leaves goes to the others in proportion.
    assert widths_of_shares([1, 2, 30], 10, 19).tolist() == [3, 6, 10]
    assert widths_of_shares([0, 0, 1], 4, 6, least=0).tolist() == [1, 1, 4]
    assert widths_of_shares([0, 0, 1], 4, 6).tolist() == [1, 1, 4]
    assert widths_of_shares([0.6, 0.6, 0.6], 4, 4, least=0).tolist() == [2, 1, 1]
    assert power_widths([1, 4, 16], 100, 70, power=0.5).tolist() == [10, 20, 40]
    assert power_widths([1, 4, 16], 100, 9, power=0).tolist() == [3, 3, 3]


def test_uniform_widths_give_the_rest_to_the_most_frequent():
    assert uniform_widths(4, 8, 10).tolist() == [3, 3, 2, 2]
    assert uniform_widths(4, 8, 10, [1, 5, 2, 5]).tolist() == [2, 3, 2, 3]
    assert uniform_widths(4, 2, 100).tolist() == [2, 2, 2, 2]
    assert uniform_widths(4, 8, 0).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: widths_of_shares([1, 1], 4, 1), "1 entries for 2 rows of 1 at least: expected 2"),
        (lambda: widths_of_shares([1, -1], 4, 8), "shares: expected finite numbers of 0 or more"),
        (lambda: widths_of_shares([1, np.nan], 4, 8), "finite"),
        (lambda: widths_of_shares([[1]], 4, 8), r"shares \(1, 1\)"),
        (lambda: widths_of_shares(["a"], 4, 8), "shares: expected numbers"),
        (lambda: widths_of_shares([], 4, 8), "0 rows"),
        (lambda: widths_of_shares([1], 0, 8), "1 to 0 entries"),
        (lambda: widths_of_shares([1], 4, 8, least=5), "5 to 4 entries"),
        (lambda: power_widths([1], 4, 8, power=-1), "power -1"),
        (lambda: power_widths([1], 4, 8, power=np.inf), "power inf"),
        (lambda: power_widths([-1], 4, 8), "frequencies"),
        (lambda: uniform_widths(3, 4, 7.0), "entries 7.0: expected a whole number; round it down"),
        (lambda: power_widths([1, 2], 4, 0.1 * 40), "entries 4.0: expected a whole number"),
        (lambda: widths_of_shares([1, 2, 3.5], 8, 7, 0.5), "least 0.5: expected a whole number"),
        (lambda: uniform_widths(3, 4, -1), "-1 entries for 3 rows of 0 at least"),
        (lambda: uniform_widths(3, 4, 2, [1, 2]), r"frequencies \(2,\): expected 3 numbers"),
    ],
)
def test_budgets_that_cannot_be_met_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
