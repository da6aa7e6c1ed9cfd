"""BET: actions that meet their budget, a predictor that learns, a search that goes on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compressae.retrieval.errors import InputError
from compressae.tables import ActionSampler, FitnessPredictor, WidthSearch, power_widths
from compressae.tables.bet.actions import FAMILIES, _shares
from compressae.tables.bet.searching import CHOICES, PUBLIC_CHOICES

pytestmark = pytest.mark.usefixtures("one_thread")

GROUPS, D_MAX, ENTRIES = (120, 180), 32, 2_000


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(1, 128),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=400)
def test_two_thousand_actions_meet_their_budgets_exactly(groups, d_max, seed):
    rng = np.random.default_rng(seed)
    n = sum(groups)
    frequencies = [
        rng.integers(0, 4, n), np.zeros(n), rng.pareto(0.3, n), 10.0 ** rng.uniform(-300, 300, n),
    ][seed % 4]  # fmt: skip
    for share in rng.uniform(0, 1.2, 5):
        entries = max(n, int(share * n * d_max))
        sampler = ActionSampler(frequencies, groups, d_max, entries)
        action = sampler.draw(rng)
        assert action.widths.dtype == np.int64 and action.widths.shape == (n,)
        assert action.widths.sum() == min(entries, n * d_max)  # Never over; and all of it.
        assert action.widths.min() >= 1 and action.widths.max() <= d_max
        ends = np.cumsum(groups)[:-1]
        parts = zip(np.split(action.widths, ends), np.split(frequencies, ends), strict=True)
        for (widths, seen), drawn in zip(parts, action.drawn, strict=True):
            assert widths.sum() == drawn["entries"]
            order = np.argsort(seen, kind="stable")
            falls = np.diff(widths[order]) < 0
            assert not (falls & (np.diff(seen[order]) > 0)).any()  # More is never given less.


def test_groups_share_the_budget_by_a_uniform_split_and_all_families_are_drawn():
    sampler = ActionSampler(np.ones(300), GROUPS, D_MAX, ENTRIES)
    rng = np.random.default_rng(0)
    drawn = [sampler.draw(rng).drawn for _ in range(1_000)]
    users = np.array([parts[0]["entries"] for parts in drawn])
    # U(0, 1) of the budget, clipped to what leaves every row one entry.
    expected = np.clip(np.linspace(0, 1, 1_000) * ENTRIES, 120, ENTRIES - 180)
    assert np.abs(np.sort(users) - expected).max() < 0.06 * ENTRIES
    for group in range(2):
        families = [parts[group]["family"] for parts in drawn]
        assert min(families.count(family) for family in FAMILIES) > 200
        for family, largest in FAMILIES.items():
            found = [p[group]["parameter"] for p in drawn if p[group]["family"] == family]
            assert stats.kstest(np.array(found) / largest, "uniform").pvalue > 1e-4


@pytest.mark.parametrize(
    ("family", "parameter", "same"),
    [
        ("power", 0.7, stats.powerlaw(0.7)),
        ("normal", 1.5, stats.truncnorm(0, 1.5)),
        ("exponential", 3.0, stats.truncexpon(3.0)),
        ("lognormal", 0.4, stats.lognorm(0.4)),
    ],
)
def test_the_families_are_scipys(family, parameter, same):
    uniform = np.linspace(0, 0.999, 50)
    np.testing.assert_allclose(_shares(family, parameter, uniform)[1:], same.ppf(uniform)[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3], (1, 1), 4, 6), "groups of 1, 1 rows: expected sizes of 1 or more that sum to"),
        (([1, 2, 3], (0, 3), 4, 6), "groups of 0, 3 rows"),
        (([1, 2, 3], (), 4, 6), "groups of"),
        (([1, 2, 3], (1, 2), 4, 2), "2 entries for 3 rows of 1 at least: expected 3 or more"),
        (([1, 2, -3], (1, 2), 4, 6), "frequencies: expected finite numbers of 0 or more"),
        (([1, 2, 3], (1, 2), 0, 6), "3 rows of 1 to 0 entries"),
    ],
)
def test_actions_that_cannot_be_drawn_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ActionSampler(*arguments)


def sampler(entries=ENTRIES):
    frequencies = np.random.default_rng(0).zipf(1.7, 300).clip(max=1_000)
    return ActionSampler(frequencies, GROUPS, D_MAX, entries)


def test_unsorted_actions_do_not_follow_frequency():
    frequencies = np.arange(300.0)
    draw = ActionSampler(frequencies, GROUPS, D_MAX, ENTRIES, by_frequency=False).draw
    drawn = [draw(np.random.default_rng(seed)).widths for seed in range(200)]
    assert all(widths.sum() == ENTRIES and widths.min() >= 1 for widths in drawn)
    mean = np.mean(drawn, 0)
    for group in (slice(0, 120), slice(120, 300)):
        assert abs(stats.spearmanr(mean[group], frequencies[group]).statistic) < 0.3


def goodness(widths):
    """A fitness that knows what it wants: frequent rows wide, with falling returns."""
    frequencies = sampler().frequencies
    return float((frequencies * np.log2(1 + widths)).sum() / frequencies.sum() / 5)


def test_the_prediction_is_its_definition_whatever_the_order_of_rows():
    seen = np.array([5.0, 1, 1, 20, 5, 1])
    widths = np.array([4, 1, 1, 8, 1, 0])
    torch.manual_seed(0)
    predictor = FitnessPredictor(seen, 8)
    rows = predictor.of_row(torch.tensor(seen / 20).float()[:, None])
    sets = []
    for size in (0, 1, 4, 8):
        mean = rows[torch.tensor(widths == size)].mean(0)
        sets.append(predictor.of_set(torch.cat([mean, torch.tensor([size / 8])])))
    expected = predictor.of_table(torch.stack(sets).mean(0)).item()
    other = np.array([2, 2, 2, 2, 2, 2])
    torch.testing.assert_close(
        predictor.embed([predictor.sets(other), predictor.sets(widths)])[1],
        torch.stack(sets).mean(0),
    )
    found = predictor.predict([predictor.sets(other), predictor.sets(widths)])
    assert found[1] == pytest.approx(expected, rel=1e-5) and found[0] != pytest.approx(expected)
    # Rows 1, 2 and 5 are as frequent; so are 0 and 4, which have different widths.
    swapped = widths[[4, 5, 1, 3, 0, 2]]
    assert predictor.predict([predictor.sets(swapped)])[0] == pytest.approx(expected, rel=1e-5)
    moved = widths[[0, 1, 2, 4, 3, 5]]
    assert predictor.predict([predictor.sets(moved)])[0] != pytest.approx(expected, rel=1e-5)
    with pytest.raises(InputError, match="expected 0 to 8"):
        predictor.sets(np.full(6, 9))
    with pytest.raises(InputError, match="1 widths for 6 rows: expected one a row"):
        predictor.sets(np.array([3]))
    with pytest.raises(InputError, match="0 rows of 0 to 8 entries"):
        FitnessPredictor([], 8)


def test_the_predictor_learns_and_the_search_finds_more_than_chance():
    search = WidthSearch(sampler(), goodness, seed=1)
    trials = search.run(40)
    rng = np.random.default_rng(7)
    unseen = [sampler().draw(rng).widths for _ in range(200)]
    found = search.predictor.predict([search.predictor.sets(widths) for widths in unseen])
    true = [goodness(widths) for widths in unseen]
    assert stats.spearmanr(found, true).statistic > 0.6
    fitness = {choice: [t.fitness for t in trials if t.choice == choice] for choice in CHOICES}
    assert np.mean(fitness["greedy"][12:]) > np.mean(true) + np.std(true)
    assert np.mean(fitness["nearest"]) > np.mean(fitness["random"])
    best = search.best(5)
    assert [t.fitness for t in best] == sorted((t.fitness for t in trials), reverse=True)[:5]
    assert best[0].fitness > np.quantile(true, 0.98)
    assert all(trial.widths.sum() == ENTRIES for trial in trials)


@pytest.mark.parametrize("choices", [PUBLIC_CHOICES, ("random",)])
def test_choices_may_be_others(choices):
    search = WidthSearch(sampler(), goodness, candidates=5, updates=1, choices=choices)
    assert [t.choice for t in search.run(6)] == [choices[t % len(choices)] for t in range(6)]


@pytest.mark.parametrize("nearest_by", ["widths", "embeddings"])
def test_the_nearest_is_that_of_the_definition(nearest_by):
    search = WidthSearch(
        sampler(), goodness, 5, candidates=20, choices=("random", "nearest"), nearest_by=nearest_by
    )
    best = search.run(1)[0].widths
    rng = np.random.default_rng([5, 1])
    drawn = [sampler().draw(rng).widths for _ in range(20)]
    if nearest_by == "widths":
        distances = [abs(widths - best).sum() for widths in drawn]
    else:
        of = search.predictor
        embedded = [of.embed([of.sets(widths)])[0].detach() for widths in (best, *drawn)]
        distances = [float((one - embedded[0]).norm()) for one in embedded[1:]]
    np.testing.assert_array_equal(search.run(2)[1].widths, drawn[int(np.argmin(distances))])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"choices": ()}, "choices none: expected some of"),
        ({"choices": ("nearest", "random")}, "the first not nearest"),
        ({"choices": ("best",)}, "choices best: expected some of"),
        ({"nearest_by": "ids"}, "nearest_by 'ids': expected"),
    ],
)
def test_other_choices_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        WidthSearch(sampler(), goodness, **wrong)


def test_choices_follow_the_iteration():
    trials = WidthSearch(sampler(), goodness, candidates=5, updates=1).run(11)
    assert [trial.choice for trial in trials[:6]] == [*CHOICES, "greedy"]
    # The nearest of 5: the same numbers drawn again, and the distance to the best of four.
    rng = np.random.default_rng([0, 4])
    drawn = [sampler().draw(rng).widths for _ in range(5)]
    best = max(trials[:4], key=lambda trial: trial.fitness).widths
    distances = [np.abs(widths - best).sum() for widths in drawn]
    np.testing.assert_array_equal(trials[4].widths, drawn[int(np.argmin(distances))])
    rng = np.random.default_rng([0, 3])
    np.testing.assert_array_equal(trials[3].widths, sampler().draw(rng).widths)


def test_the_same_widths_are_not_among_the_best_twice():
    rows = 10
    narrow = ActionSampler(np.ones(rows), (rows,), 4, rows)  # One table alone meets this budget.
    search = WidthSearch(narrow, lambda widths: 1.0, candidates=2, updates=1)
    search.run(3)
    assert len(search.best(5)) == 1


SHORT = dict(seed=3, candidates=9, updates=10)


@pytest.fixture(scope="module")
def whole():
    """A search that never stopped."""
    told = []
    search = WidthSearch(sampler(), goodness, **SHORT)
    search.run(9, report=lambda *now: told.append(now))
    assert [now[:2] for now in told] == [(i, 9) for i in range(1, 10)]
    assert "greedy fitness" in told[0][2]
    return search


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_going_on_equals_not_stopping(tmp_path, stop, whole):
    torch.manual_seed(5)  # The search has random numbers of its own.
    WidthSearch(sampler(), goodness, **SHORT).run(stop, tmp_path / "state")
    again = WidthSearch(sampler(), goodness, **SHORT)
    again.resume(tmp_path / "state")
    assert len(again.trials) == stop
    again.run(9, tmp_path / "state")
    for one, other in zip(whole.trials, again.trials, strict=True):
        np.testing.assert_array_equal(one.widths, other.widths)
        assert (one.drawn, one.choice, one.fitness) == (other.drawn, other.choice, other.fitness)
    for name, value in whole.predictor.state_dict().items():
        assert torch.equal(again.predictor.state_dict()[name], value), name


def test_searches_of_other_settings_are_refused(tmp_path):
    def search(entries=ENTRIES, context=None, **rest):
        return WidthSearch(sampler(entries), goodness, updates=1, context=context, **rest)

    search(context={"epochs": 2}).run(1, tmp_path / "state")
    for other, message in (
        (search(2_001, context={"epochs": 2}), "entries = 2000, but 2001 was asked for"),
        (search(context={"epochs": 3}), "epochs = 2, but 3 was asked for"),
        (search(context={"epochs": 2}, seed=1), "seed = 0, but 1 was asked for"),
    ):
        with pytest.raises(InputError, match=f"checkpoint of {message}"):
            other.resume(tmp_path / "state")
    with pytest.raises(InputError, match="no such folder"):
        search().resume(tmp_path / "none")


def test_bad_searches_are_refused():
    with pytest.raises(InputError, match="0 candidates"):
        WidthSearch(sampler(), goodness, candidates=0)
    with pytest.raises(InputError, match="fitness nan in iteration 0: expected a finite number"):
        WidthSearch(sampler(), lambda widths: np.nan).run(1)


def test_a_catalogue_of_gowallas_size_takes_seconds():
    rng = np.random.default_rng(0)
    groups, n = (29_858, 40_981), 70_839
    frequencies = rng.zipf(1.6, n).clip(5, 1_500)
    large = ActionSampler(frequencies, groups, 128, int(0.05 * n * 128))
    drawn = [large.draw(rng).widths for _ in range(20)]
    assert {int(widths.sum()) for widths in drawn} == {453_369}
    predictor = FitnessPredictor(frequencies, 128)
    sets = [predictor.sets(widths) for widths in drawn]
    assert max(len(table.sizes) for table in sets) < 10_000  # Not one entry a row.
    assert np.isfinite(predictor.predict(sets)).all()
    even = power_widths(frequencies, 128, large.entries, power=0)
    assert np.isfinite(predictor.predict([predictor.sets(even)])).all()
