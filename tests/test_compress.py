"""Arguments of compress that do not go together, and what is recorded of those that do."""

import numpy as np
import pytest

from compressae import CompresSAE, InputError
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.packed import PackedCodes

N, D, H, K = 300, 12, 64, 5


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, K, seed=1)


def test_values_decide_the_form_and_int2_is_the_default(model, table):
    assert isinstance(model.compress(table), PackedCodes)
    assert model.compress(table).settings == {
        "refit": True, "nonzeros": K, "values": "int2", "residual_bytes": 0,
    }  # fmt: skip
    assert isinstance(model.compress(table, "int8"), SparseCodes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(values="int5"), "values 'int5': expected one of float32"),
        (dict(values="int8", residual_bytes=4), "these are for packed values"),
        (dict(values="float32", budget="9 B/row"), "these are for packed values"),
        (dict(refit=False), "packed values are always fitted"),
        (dict(weights=np.ones(N)), "weights without a budget"),
        (dict(budget="9 B/row", nonzeros=3), "give one of them"),
        (dict(nonzeros=0), "0 nonzeros: expected 1 to 64"),
        (dict(nonzeros=65), "65 nonzeros: expected 1 to 64"),
        (dict(residual_bytes=13), "13 residual bytes: expected 0 to 12"),
        (dict(residual_bytes=-1), "-1 residual bytes: expected 0 to 12"),
        (dict(budget="9 cows"), "budget '9 cows'"),
        (dict(budget="9 B/row", weights=np.ones(3)), "expected 300 finite numbers"),
    ],
)
def test_refuses(model, table, arguments, said):
    with pytest.raises(InputError, match=said):
        model.compress(table, **arguments)


def test_sharing_a_quantiser_refuses_settings_and_other_models(model, table):
    codes = model.compress(table)
    for arguments in (dict(values="int2"), dict(nonzeros=3), dict(residual_bytes=2)):
        with pytest.raises(InputError, match="which has its own; leave them out"):
            model.compress(table, like=codes, **arguments)
    other = CompresSAE(D, H, K, seed=2)
    with pytest.raises(InputError, match="give codes of the same model"):
        other.compress(table, like=codes)


def test_codes_like_those_of_a_budget_keep_to_one_too(model, table):
    codes = model.compress(table, budget="9 B/row")
    with pytest.raises(InputError, match="give a budget"):
        model.compress(table[:50], like=codes)
    again = model.compress(table[:50], like=codes, budget="9 B/row")
    assert again.nbytes <= 450 and again.quantizer is codes.quantizer
    with pytest.raises(InputError, match="SparseCodes; expected PackedCodes"):
        model.compress(table, like=model.compress(table, "int8"))


def test_a_budget_is_refused_before_any_row_is_coded(model, table):
    """… with the user's own number, whatever the model's k."""
    least = "budget: 900 bytes for 300 rows; one nonzero a row takes 944"
    most = "budget: 2700000 bytes for 300 rows; 64 nonzeros"
    for budget, said in ((900, least), ("9 kB/row", most)):
        with pytest.raises(InputError, match=said):
            model.compress(table, budget=budget, progress=lambda *_: pytest.fail("coded"))
    with pytest.raises(InputError, match="finite numbers"):
        model.compress(table, budget="9 B/row", weights=np.full(300, np.nan),
                       progress=lambda *_: pytest.fail("coded"))  # fmt: skip
    assert CompresSAE(D, 400, 300).compress(table, budget="20 B/row").nbytes <= 6000


def test_an_encoders_own_values_are_scaled_to_unit_length(model, table):
    codes = model.compress(table, "float32", refit=False)
    near = codes.to_scipy() @ model.decoder.detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), 1, atol=1e-5)


def test_few_rows_have_no_residual_codes_yet_pack(model, table):
    with pytest.raises(InputError, match="10 rows: residual codes are trained on at least 256"):
        model.compress(table[:10], residual_bytes=2)
    for n in (1, 2, 10):
        assert len(model.compress(table[:n])) == n


def test_more_latents_than_packed_ids_can_name(table):
    model = CompresSAE(D, (1 << 17) + 1, 2)
    with pytest.raises(InputError, match="packed codes name at most 131072"):
        model.compress(table[:5])
    assert model.compress(table[:5], "int8").latents == (1 << 17) + 1


def test_more_nonzeros_than_a_byte_counts(table):
    model = CompresSAE(D, 300, 2)
    with pytest.raises(InputError, match="packed rows hold at most 255"):
        model.compress(table, nonzeros=256)
    assert model.compress(table[:5], nonzeros=255).rows.nonzeros.tolist() == [255] * 5


def test_progress_ends_with_all_rows_done(model, table):
    for arguments in ({}, dict(budget="9 B/row"), dict(values="int8")):
        seen = []
        model.compress(table, progress=lambda done, to_do: seen.append((done, to_do)), **arguments)
        assert seen[-1][0] == seen[-1][1] and seen == sorted(seen)


def test_the_unit_length_of_rows_does_not_matter(model, table):
    one, two = model.compress(table), model.compress(table * 7)
    assert (one.data == two.data).mean() > 0.99
