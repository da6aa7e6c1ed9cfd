"""Compression for dot products: lengths in the gain byte, errors weighted by real queries."""

import numpy as np
import pytest
import scipy.sparse
from factor_tables import N, factors

from compressae import InputError, TrainConfig, compress, encode, fit_quantizer, train
from compressae.coding.coder import PARALLEL_WEIGHT
from compressae.coding.plan import plan
from compressae.evaluation.drift import check, measure_reference
from compressae.retrieval.codes.quantizer import fit_error_weighting, fit_length_gains


@pytest.fixture(scope="module")
def table():
    return factors()


@pytest.fixture(scope="module")
def model(table):
    return train(table[0], TrainConfig(latents=128, nonzeros=6, steps=8, similarity="dot"))


def test_rows_take_the_same_bytes_as_for_cosine(model, table):
    items = table[0][1:-1]
    for form in (dict(), dict(residual_bytes=4), dict(budget="12 B/row")):
        dot, cosine = (compress(model, items, **form, similarity=s) for s in ("dot", "cosine"))
        weights = [codes.settings["parallel_weight"] for codes in (dot, cosine)]
        assert weights == [0, PARALLEL_WEIGHT]
        assert abs(dot.nbytes - cosine.nbytes) <= 8 and dot.similarity == "dot"
        np.testing.assert_array_equal(compress(model, items, **form).data, dot.data)


def test_lengths_are_kept_to_a_few_per_cent(model, table):
    items = table[0]
    rows = compress(model, items, residual_bytes=12).reconstruct(model.projection.decoder)
    lengths, own = np.linalg.norm(rows, axis=1), np.linalg.norm(items, axis=1)
    long = own > np.quantile(own, 0.3)
    share = (rows * items).sum(1)[long] / own[long] ** 2
    assert np.abs(share - 1).mean() < 0.03
    assert lengths[0] == lengths[-1] == 0


def test_residual_codes_make_up_for_rounded_lengths(model, table, monkeypatch):
    """Of gains some 11 % apart, in place of 1.5 %."""
    items = table[0]
    lengths = np.linalg.norm(items, axis=1)
    long = lengths > np.quantile(lengths, 0.3)

    def error(residual_bytes):
        codes = compress(model, items, residual_bytes=residual_bytes)
        assert len(np.unique(codes.quantizer.gains)) <= 256 // step + 1
        return np.square(items - codes.reconstruct(model.projection.decoder))[long].sum()

    def every_eighth(*given):
        gains = fit_length_gains(*given)
        return np.where(gains > 0, gains[np.arange(256) // 8 * 8 + 4], 0)

    step, forms = 1, (0, 6)
    fine = [error(form) for form in forms]
    monkeypatch.setattr("compressae.coding.coder.fit_length_gains", every_eighth)
    step = 8
    lost, left = (error(form) - own for form, own in zip(forms, fine, strict=True))
    assert lost > 4 and left < 0.25 * lost


def test_rows_of_one_length_keep_their_gains(model, table):
    """Levels lie where gains times lengths do, not where lengths do."""
    items = table[0][1:-1] / np.linalg.norm(table[0][1:-1], axis=1, keepdims=True)
    for residual_bytes in (0, 6):
        codes = compress(model, items, residual_bytes=residual_bytes, similarity="dot")
        assert len(np.unique(codes.gains())) > 100


@pytest.mark.parametrize("residual_bytes", [0, 4])
def test_rows_whose_gain_is_beyond_the_largest_are_refused(model, table, residual_bytes):
    """A row that its few nonzeros hardly reach needs a gain beyond its length."""
    items = table[0][1:-1]
    like = fit_quantizer(
        model, items, nonzeros=1, residual_bytes=residual_bytes, parallel_weight=1, similarity="dot"
    )
    units = items / np.linalg.norm(items, axis=1, keepdims=True)
    own = compress(model, items, like=like).gains()
    assert (own < like.quantizer.gains[-8]).all()  # Those after leave room for longer rows.
    with pytest.raises(
        InputError, match="a row that takes a gain of .*compress the whole table again"
    ):
        compress(model, units * 1.09 * like.quantizer.gains[-1], like=like)


def test_rows_shorter_than_any_keep_their_direction(model, table):
    items = table[0][1:-1]
    like = fit_quantizer(model, items, residual_bytes=12)
    short = items[:50] / np.linalg.norm(items[:50], axis=1, keepdims=True) * 1e-4
    rows = compress(model, short, like=like).reconstruct(model.projection.decoder)
    cosines = (rows * short).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(short, axis=1)
    assert cosines.min() > 0.9 and cosines.mean() > 0.97
    assert np.linalg.norm(rows, axis=1).max() < 1.2 * like.quantizer.gains[1]


def test_directions_are_coded_as_for_cosine(model, table):
    items = table[0][1:-1]
    ids = [encode(model, items, similarity=s).indices for s in ("dot", "cosine")]
    np.testing.assert_array_equal(*ids)


@pytest.mark.parametrize("power", [0, 1, 3])
def test_length_gains_are_fine_where_long_rows_are_many(power):
    lengths = np.exp(np.random.default_rng(0).standard_normal(4000) * power / 2)
    gains = fit_length_gains(lengths, float(lengths.max()))
    assert (np.diff(gains) >= 0).all() and gains[-1] == pytest.approx(4 * lengths.max())
    nearest = gains[np.abs(gains - lengths[:, None]).argmin(1)]
    weight = lengths**2
    error = (weight * np.abs(nearest / lengths - 1)).sum() / weight.sum()
    assert error < 0.004 * (1 + power)


@pytest.mark.parametrize("deviation", [0.1, 0.3])
def test_length_gains_leave_about_the_least_error(deviation):
    """That of 239 levels for normal logarithms (Panter and Dite 1951): σ² √3 π / (2 · 239²)."""
    logs = np.random.default_rng(0).standard_normal(20_000) * deviation
    gains = fit_length_gains(np.exp(logs), float(np.exp(logs.max())))
    nearest = gains[np.searchsorted((gains[1:] + gains[:-1]) / 2, np.exp(logs))]
    weight = np.exp(2 * logs)  # As the fit weights them: still normal, of the same deviation.
    error = (weight * (np.log(nearest) - logs) ** 2).sum() / weight.sum()
    least = deviation**2 * np.sqrt(3) * np.pi / (2 * 239**2)
    assert 0.8 * least < error < 1.2 * least


def test_one_far_longer_row_leaves_the_others_their_lengths():
    lengths = np.append(np.exp(np.random.default_rng(0).standard_normal(4000) * 0.2), 1e6)
    gains = fit_length_gains(lengths, 1e6)
    nearest = gains[np.abs(gains - lengths[:, None]).argmin(1)]
    assert np.abs(nearest / lengths - 1).mean() < 0.01


def test_a_model_for_cosine_gives_codes_of_either_kind(table):
    items = table[0][1:-1]
    model = train(items, TrainConfig(latents=64, nonzeros=4, steps=4))
    assert model.similarity == "cosine"
    assert compress(model, items).similarity == "cosine"
    assert compress(model, items, similarity="dot").similarity == "dot"


def test_rows_of_zeros_are_left_out_of_training_and_refused_for_cosine(model, table):
    assert model.settings["rows"] == N and model.similarity == "dot"
    for function in (compress, encode):
        with pytest.raises(InputError, match="all zeros"):
            function(model, table[0], similarity="cosine")
    with pytest.raises(InputError, match="only rows of zeros"):
        compress(model, np.zeros((300, 16), np.float32))
    with pytest.raises(InputError, match="0 rows that are not zero"):
        train(np.zeros((300, 16), np.float32), TrainConfig(latents=8, nonzeros=2, similarity="dot"))


def test_errors_are_weighted_by_the_queries_to_come(table):
    """Queries in a plane of few of the items' directions: errors elsewhere cost nothing."""
    items = table[0][1:-1]
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((500, 16)).astype(np.float32) * 0.02
    queries[:, -4:] += rng.standard_normal((500, 4))
    model = train(items, TrainConfig(latents=64, nonzeros=3, steps=6, similarity="dot"))
    errors = {}
    for name, sample in (("own", None), ("real", queries[:250])):
        codes = compress(model, items, nonzeros=3, residual_bytes=4, queries=sample)
        rows = codes.reconstruct(model.projection.decoder)
        errors[name] = np.square(queries[250:] @ (rows - items).T).mean()
    assert errors["real"] < 0.8 * errors["own"]
    with pytest.raises(InputError, match="rows of 3 columns; expected 16"):
        compress(model, items, queries=queries[:, :3])


def test_the_weighting_of_other_queries_is_scaled_by_the_rows(table):
    items, users = table
    unit = items[1:-1] / np.linalg.norm(items[1:-1], axis=1, keepdims=True)
    weighting = fit_error_weighting(users, unit)
    assert np.square(unit @ weighting).sum(1).mean() == pytest.approx(1, rel=1e-3)


def test_a_budget_goes_to_long_rows_and_to_important_ones(model, table):
    items = table[0][1:-1]
    lengths = np.linalg.norm(items, axis=1)
    long = lengths > np.median(lengths)
    counts = compress(model, items, budget="12 B/row").nonzeros
    assert counts[long].mean() > 1.3 * counts[~long].mean()
    even = compress(model, items, budget="12 B/row", importance=1 / lengths**2).nonzeros
    assert even[long].mean() < 1.15 * even[~long].mean()


def test_codes_to_match_bring_their_similarity(model, table):
    like = compress(model, table[0])
    assert compress(model, table[0][:20], like=like).similarity == "dot"
    for own in (dict(similarity="dot"), dict(queries=table[1])):
        with pytest.raises(InputError, match="which has its own; leave them out"):
            compress(model, table[0][:20], like=like, **own)


@pytest.mark.parametrize("values", ["float32", "float16", "int8"])
def test_plain_codes_hold_lengths_in_their_values(model, table, values):
    codes = encode(model, table[0], values)
    assert codes.similarity == "dot" and isinstance(codes.to_scipy(), scipy.sparse.csr_array)
    norms = codes.norms()
    assert norms[0] == norms[-1] == 0
    own = np.linalg.norm(table[0], axis=1)
    assert np.corrcoef(norms, own)[0, 1] > 0.95


def test_check_compares_dot_products(table):
    model = train(table[0], TrainConfig(latents=64, nonzeros=4, steps=4, similarity="dot"))
    later = table[0] * 0.5
    assert measure_reference(model, table[0]).quality.rows == N - 2  # None of zeros.
    assert check(model, later, reference=table[0]).verdict == "fits"
    odd = np.random.default_rng(9).standard_normal((400, 16)).astype(np.float32)
    assert check(model, odd, reference=table[0]).retrain


def test_a_plan_for_dot_products_is_measured_by_users():
    items, users = factors(2400, users=300)
    plans = plan(
        items, 100_000, "30 B/row", latents=(64,), queries=users, lists=False, similarity="dot"
    )
    assert plans[0].recall > 0.7
