import numpy as np
import pytest
from code_forms import make_codes
from hypothesis import given, settings
from hypothesis import strategies as st

from compressae import CompresSAE, InputError
from compressae.coding.budget import allot, check_budget, check_importance
from compressae.retrieval.codes.size import parse_bytes
from compressae.retrieval.io.embeddings import unit_rows

N, D, H = 900, 16, 64


@pytest.mark.parametrize(
    ("said", "meant"),
    [(4000, 4000), ("4000", 4000), ("4 GB", 4_000_000_000), ("1.5KB", 1500), ("2 MiB", 2 << 20),
     ("48 B/row", 4800), ("0.5 kB / row", 50_000), (" 7B ", 7)],
)  # fmt: skip
def test_budgets_are_read(said, meant):
    assert parse_bytes(said, 100) == meant


@pytest.mark.parametrize("said", ["", "-4", "0", "four", "4 XB", "4 B/item", "4 iB", "1e9", None])
def test_other_budgets_are_refused(said):
    with pytest.raises(InputError, match="'48 B/row'"):
        parse_bytes(said, 100)


@st.composite
def problems(draw):
    """Falls of the error, row lengths and a budget between the least and the most."""
    n, most = draw(st.integers(1, 300)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    gains = np.abs(rng.standard_normal((n, most))) / np.arange(1, most + 1)
    if draw(st.booleans()):
        gains = np.round(gains, 1)  # Mass ties, zeros among them.
    lengths = np.cumsum(np.concatenate([[draw(st.integers(1, 40))], rng.integers(0, 4, most)]))
    low, high = n * int(lengths[1]), n * int(lengths[-1])
    weights = rng.exponential(size=n) * (rng.random(n) > 0.2) if draw(st.booleans()) else None
    return gains.astype(np.float16), lengths, draw(st.integers(low, high)), weights


@given(problems())
@settings(max_examples=400)
def test_never_a_byte_over_and_less_than_a_step_left(problem):
    gains, lengths, budget, weights = problem
    check_budget(budget, len(gains), lengths, 0)
    counts = allot(gains, lengths, budget, check_importance(weights, len(gains)))
    assert counts.dtype == np.uint8 and counts.min() >= 1 and counts.max() <= gains.shape[1]
    spent = int(lengths[counts].sum())
    assert spent <= budget
    if (counts < gains.shape[1]).any():
        assert budget - spent < max(np.diff(lengths)[1:].max(), 1)


def test_steps_go_where_weight_times_gain_is_largest():
    gains = np.array([[1, 0.8, 0.1, 0.1], [1, 0.4, 0.3, 0.2], [1, 0.05, 0.04, 0.03]], np.float16)
    lengths = np.array([1, 3, 5, 7, 9])
    even = np.ones(3, np.float32)
    assert allot(gains, lengths, 9 + 2, even).tolist() == [2, 1, 1]
    assert allot(gains, lengths, 9 + 7, even).tolist() == [2, 3, 1]
    last = np.array([0.01, 0.01, 1], np.float32)
    assert allot(gains, lengths, 9 + 6, last).tolist() == [1, 1, 4]
    assert allot(gains, lengths, 27, even).tolist() == [4, 4, 4]


def test_budgets_beyond_what_rows_can_take_are_refused():
    lengths = np.array([1, 3, 5])
    check_budget(37, 10, lengths, 7)
    check_budget(57, 10, lengths, 7)
    with pytest.raises(InputError, match="36 bytes for 10 rows; one nonzero a row takes 37"):
        check_budget(36, 10, lengths, 7)
    with pytest.raises(InputError, match="2 nonzeros in every row take 57"):
        check_budget(58, 10, lengths, 7)


def test_weights_are_numbers_of_rows():
    assert (check_importance(None, 3) == 1).all()
    assert not np.signbit(check_importance([-0.0, 1, 2], 3)).any()
    for wrong in (np.ones(9), -np.ones(10), np.full(10, np.nan), np.ones((10, 1)), ["a"] * 10):
        with pytest.raises(InputError, match="expected 10 finite numbers of 0 or more"):
            check_importance(wrong, 10)


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, 8, seed=1)


@pytest.fixture(scope="module")
def table():
    """Rows of two kinds: near one latent, and spread."""
    rng = np.random.default_rng(0)
    decoder = CompresSAE(D, H, 8, seed=1).decoder.detach().numpy()
    easy = decoder[rng.integers(0, H, N // 2)] + 0.05 * rng.standard_normal((N // 2, D))
    return np.concatenate([easy, rng.standard_normal((N - N // 2, D))]).astype(np.float32)


@pytest.mark.parametrize("budget", ["7 B/row", "10.5 B/row", 8000, "9 KB"])
@pytest.mark.parametrize("residual_bytes", [0, 2])
def test_codes_keep_to_their_budget(model, table, budget, residual_bytes):
    total = parse_bytes(budget, N)
    codes = make_codes(model, table, budget=budget, residual_bytes=residual_bytes)
    assert total * 0.99 < codes.nbytes <= total
    assert codes.settings["budget"] == total


def test_rows_that_are_harder_to_reconstruct_get_more(model, table):
    nonzeros = make_codes(model, table, budget="8 B/row").rows.nonzeros
    assert nonzeros[N // 2 :].mean() > 1.5 * nonzeros[: N // 2].mean()


def test_weights_move_nonzeros_to_rows_that_matter(model, table):
    weights = np.ones(N)
    weights[::2] = 20
    codes = make_codes(model, table, budget="8 B/row", importance=weights)
    even = make_codes(model, table, budget="8 B/row")
    decoder = model.decoder.detach().numpy()
    errors = [
        ((unit_rows(table) - c.reconstruct(decoder)) ** 2).sum(1)[::2].mean() for c in (codes, even)
    ]
    assert codes.rows.nonzeros[::2].mean() > even.rows.nonzeros[::2].mean() + 0.5
    assert errors[0] < errors[1]


def test_a_budget_that_no_codes_meet_is_refused(model, table):
    with pytest.raises(InputError, match="one nonzero a row takes"):
        make_codes(model, table, budget="3 B/row")
    with pytest.raises(InputError, match="64 nonzeros in every row take"):
        make_codes(model, table, budget="500 B/row")
