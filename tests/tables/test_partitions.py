"""Complementary partitions: chosen, checked against brute force, exact for large ids."""

from math import gcd, prod

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compressae.retrieval.errors import InputError
from compressae.tables import (
    CompositionalTable,
    Partitions,
    PathTable,
    find_collision,
    partition,
)
from compressae.tables.partitioner import Partitioner

RULES = ("quotient-remainder", "mixed-radix", "chinese-remainder")


def all_classes(rule, n):
    return np.stack(rule.classes(np.arange(n)))


def first_collisions(classes):
    """Every pair of ids that no partition tells apart, by looking at all pairs."""
    n = classes.shape[1]
    same = (classes[:, :, None] == classes[:, None, :]).all(0)
    return {(i, j) for i in range(n) for j in range(i + 1, n) if same[i, j]}


@given(
    st.sampled_from([*RULES, "hashing"]),
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.integers(1, 60),
)
@settings(max_examples=400)
def test_arithmetic_partitions_against_brute_force(kind, sizes, n):
    rule = Partitions(kind, tuple(sizes))
    classes = all_classes(rule, n)
    assert all((row < size).all() for row, size in zip(classes, sizes, strict=True))
    check(find_collision(rule, n), first_collisions(classes))


@given(st.integers(1, 30), st.integers(1, 3), st.integers(0, 2**32 - 1), st.integers(1, 8))
@settings(max_examples=400)
def test_given_partitions_against_brute_force(n, parts, seed, most):
    classes = np.random.default_rng(seed).integers(0, most, (parts, n))
    check(find_collision(list(classes), n), first_collisions(classes))


def check(found, wanted):
    if found is None:
        assert wanted == set()
    else:
        assert tuple(sorted(found)) in wanted


@given(st.sampled_from(RULES), st.integers(1, 3000), st.integers(1, 4), st.integers(1, 400))
@settings(max_examples=400)
def test_chosen_partitions_are_complementary_and_within_the_rows(kind, n, parts, rows):
    parts = 2 if kind == "quotient-remainder" else parts
    lean = partition(n, kind, parts)
    assert find_collision(lean, n) is None and len(lean.sizes) == parts
    if kind == "chinese-remainder":
        assert all(gcd(a, b) == 1 for i, a in enumerate(lean.sizes) for b in lean.sizes[:i])
    else:  # No one row fewer would do: even digits have the largest product for their sum.
        total = sum(lean.sizes) - 1
        even = [total // parts + (j < total % parts) for j in range(parts)]
        assert prod(even) < n
    try:
        found = partition(n, kind, parts, rows=rows)
    except InputError as error:
        assert f"{rows} rows: too few" in str(error)
        assume(False)
    assert sum(found.sizes) <= rows and find_collision(found, n) is None


@pytest.mark.parametrize(
    ("n", "kind", "parts", "wanted"),
    [
        (100, "quotient-remainder", 2, (10, 10)),
        (101, "quotient-remainder", 2, (11, 10)),
        (1000, "mixed-radix", 3, (10, 10, 10)),
        (10**7, "quotient-remainder", 2, (3163, 3162)),
        (1, "mixed-radix", 2, (1, 1)),
        (64, "mixed-radix", 1, (64,)),
    ],
)
def test_lean_sizes(n, kind, parts, wanted):
    assert partition(n, kind, parts).sizes == wanted


@pytest.mark.parametrize("kind", RULES)
def test_classes_of_large_ids_are_exact(kind):
    # In float32, numbers above 2^24 are rounded, and quotients with them.
    n = 3 * 10**7
    rule = partition(n, kind, 2)
    a, b = rule.sizes
    # Just below a multiple of a divisor a rounded quotient is one too large.
    multiples = torch.arange(2**24 // a, n // a) * a
    ids = torch.cat((torch.arange(2**24 - 5, 2**24 + 5), multiples - 1, multiples))
    first, second = Partitioner(n, rule)(ids)
    assert first.tolist() == [i % a for i in ids.tolist()]
    digit = kind != "chinese-remainder"
    assert second.tolist() == [(i // a if digit else i % b) for i in ids.tolist()]


def test_all_of_twenty_million_ids_get_rows_of_their_own():
    n = 2 * 10**7
    first, second = Partitioner(n, partition(n))(torch.arange(n))
    together = first * (int(second.max()) + 1) + second
    assert torch.bincount(together).max() == 1
    table = CompositionalTable(n, 1, combine="concat", partitions=Partitions("mixed-radix", (n,)))
    ids = torch.tensor([2**24, 2**24 + 1, n - 1])
    assert torch.equal(table(ids), table.tables[0][ids])


def test_an_error_names_two_ids_that_collide():
    with pytest.raises(InputError, match=r"not complementary: ids 0 and 12 are in"):
        CompositionalTable(20, 4, Partitions("quotient-remainder", (4, 3)))
    with pytest.raises(InputError, match=r"ids 0 and 12 are in"):  # lcm(4, 6), not 24.
        PathTable(20, 4, Partitions("chinese-remainder", (4, 6)))
    with pytest.raises(InputError, match=r"ids 1 and 3 are in"):
        CompositionalTable(4, 4, [[0, 1, 0, 1], [0, 0, 1, 0]])
    with pytest.raises(InputError, match=r"ids 0 and 5 are in"):
        CompositionalTable(20, 4, Partitions("hashing", (5,)))
    assert find_collision(Partitions("chinese-remainder", (4, 6)), 12) is None


@pytest.mark.parametrize(
    ("given_ones", "message"),
    [
        ([], "no partition"),
        ([[0, 1, 2]], r"partition 0: \(3,\)"),
        ([[0, 1, 2, 3], [0, 0, 0, -1]], "partition 1"),
        ([[0.0, 1.0, 2.0, 3.0]], "torch.float32"),
    ],
)
def test_classes_that_do_not_fit_are_refused(given_ones, message):
    with pytest.raises(InputError, match=message):
        CompositionalTable(4, 2, given_ones)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="partition 'hashing'"):
        partition(10, "hashing")
    with pytest.raises(InputError, match="3 partitions, quotient-remainder"):
        partition(10, "quotient-remainder", 3)
    with pytest.raises(InputError, match=r"5 rows: too few for 2 tables .*; expected 7"):
        partition(10, rows=5)
    with pytest.raises(InputError, match="partitions 'radix'"):
        Partitions("radix", (3, 4))
    with pytest.raises(InputError, match=r"partitions of \(3, 0\) classes"):
        Partitions("mixed-radix", (3, 0))


@pytest.mark.parametrize("combine", ["concat", "add", "product"])
def test_rows_are_combined_as_the_paper_says(combine):
    table = CompositionalTable(12, 5, Partitions("quotient-remainder", (4, 3)), combine)
    left, right = table.tables
    for i, row in enumerate(table.rows()):
        a, b = left[i % 4], right[i // 4]
        wanted = {"concat": torch.cat((a, b)), "add": a + b if len(a) == len(b) else None}
        wanted["product"] = a * b if len(a) == len(b) else None
        assert torch.equal(row, wanted[combine])
    assert table.num_parameters == {"concat": 4 * 3 + 3 * 2}.get(combine, 7 * 5)


def test_given_partitions_choose_the_rows():
    table = CompositionalTable(4, 3, [np.array([1, 0, 1, 0]), torch.tensor([0, 0, 2, 1])], "add")
    left, right = table.tables
    assert torch.equal(table.rows(), left[[1, 0, 1, 0]] + right[[0, 0, 2, 1]])
    assert table.num_parameters == 2 * 3 + 3 * 3 and table.nbytes == 15 * 4 + 8 * 4
    state = table.state_dict()
    other = CompositionalTable(4, 3, [[0, 1, 1, 0], [0, 0, 1, 2]], "add")
    other.load_state_dict(state)
    assert torch.equal(other.rows(), table.rows())


@pytest.mark.parametrize("combine", ["concat", "add", "product"])
@pytest.mark.parametrize("kind", RULES)
def test_a_budget_is_kept_and_used(kind, combine):
    for entries in (2_000, 4_321, 7_000):
        table = CompositionalTable.within(1000, 16, entries, kind, 2, combine, std=0.1)
        assert 0.97 * entries < table.num_parameters <= entries
    with pytest.raises(InputError, match="too few"):
        CompositionalTable.within(1000, 16, 100, kind, 2, combine)


def test_distinct_ids_have_distinct_rows():
    for combine in ("concat", "add", "product"):
        rows = CompositionalTable(200, 6, combine=combine).rows()
        assert len(torch.unique(rows, dim=0)) == 200


def test_a_path_is_the_base_row_through_the_maps_of_its_classes():
    table = PathTable(24, 3, Partitions("mixed-radix", (6, 2, 2)), hidden=5)
    for parameter in table.parameters():
        parameter.data.normal_()
    for i, row in enumerate(table.rows()):
        z = table.base[i % 6]
        for j, c in enumerate((i // 6 % 2, i // 12)):
            inside = torch.relu(table.inner[j][c] @ z + table.inner_bias[j][c])
            z = table.outer[j][c] @ inside + table.outer_bias[j][c]
        torch.testing.assert_close(row, z)
    assert table.num_parameters == 6 * 3 + 4 * (2 * 3 * 5 + 5 + 3)


@pytest.mark.parametrize("given", [[np.arange(3)], [np.arange(5), [0]], [np.zeros((5, 1), int)]])
def test_collisions_are_looked_for_in_classes_of_all_ids(given):
    with pytest.raises(InputError, match=r"partition [01]: \(.*\); expected \(5,\), the class of"):
        find_collision(given, 5)
