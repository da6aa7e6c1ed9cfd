"""Arguments of compress and encode that do not go together, and what is recorded of others."""

import numpy as np
import pytest

from compressae import CompresSAE, InputError, compress, encode, encode_like, fit_quantizer
from compressae.retrieval.codes.packed import PackedCodes
from compressae.retrieval.codes.sparse import SparseCodes
from compressae.retrieval.io.embeddings import unit_rows

N, D, H, K = 300, 12, 64, 5


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, K, seed=1)


def test_compress_packs_and_encode_gives_plain_codes(model, table):
    assert isinstance(compress(model, table), PackedCodes)
    assert compress(model, table).settings == {
        "refit": True, "nonzeros": K, "values": "int2", "residual_bytes": 0,
        "similarity": "cosine", "parallel_weight": 0.3,
    }  # fmt: skip
    assert isinstance(encode(model, table), SparseCodes)
    assert encode(model, table).settings == {
        "refit": True, "nonzeros": K, "values": "float32", "similarity": "cosine",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(value_type="int5"), "values 'int5': expected one of int4, int3, int2"),
        (dict(value_type="int8"), "values 'int8': expected one of int4, int3, int2"),
        (dict(importance=np.ones(N)), "importance without a budget"),
        (dict(budget="9 B/row", nonzeros=3), "give one of them"),
        (dict(nonzeros=0), "0 nonzeros: expected 1 to 64"),
        (dict(nonzeros=65), "65 nonzeros: expected 1 to 64"),
        (dict(residual_bytes=13), "13 residual bytes: expected 0 to 12"),
        (dict(residual_bytes=-1), "-1 residual bytes: expected 0 to 12"),
        (dict(budget="9 cows"), "budget '9 cows'"),
        (dict(budget="9 B/row", importance=np.ones(3)), "expected 300 finite numbers"),
    ],
)
def test_refuses(model, table, arguments, said):
    with pytest.raises(InputError, match=said):
        compress(model, table, **arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(value_type="int2"), "values 'int2': expected one of float32, float16, int8"),
        (dict(nonzeros=0), "0 nonzeros: expected 1 to 64"),
        (dict(nonzeros=65), "65 nonzeros: expected 1 to 64"),
    ],
)
def test_encode_refuses(model, table, arguments, said):
    with pytest.raises(InputError, match=said):
        encode(model, table, **arguments)


def test_sharing_a_quantiser_refuses_settings_and_other_models(model, table):
    codes = compress(model, table)
    for arguments in (dict(value_type="int2"), dict(nonzeros=3), dict(residual_bytes=2)):
        with pytest.raises(InputError, match="which has its own; leave them out"):
            compress(model, table, like=codes, **arguments)
    other = CompresSAE(D, H, K, seed=2)
    with pytest.raises(InputError, match="give codes of the same model"):
        compress(other, table, like=codes)


def test_codes_like_those_of_a_budget_keep_to_one_too(model, table):
    codes = compress(model, table, budget="9 B/row")
    again = compress(model, table[:50], like=codes, budget="9 B/row")
    assert again.nbytes <= 450 and again.quantizer is codes.quantizer
    for alone in (compress(model, table[:50], like=codes), encode_like(model, table[:50], codes)):
        assert alone.counts is not None and alone.nbytes <= np.ceil(codes.nbytes / 6) + 8


def test_rows_beside_unpacked_codes_take_their_gains(model, table):
    codes = compress(model, table, nonzeros=2)
    own = codes.unpack()
    scores = [
        (unit_rows(table) * rows.reconstruct(model.projection.decoder)).sum(1).mean()
        for rows in (own, encode_like(model, table, own), compress(model, table, like=codes))
    ]
    assert scores[1] == pytest.approx(scores[0], rel=0.04) and scores[2] == scores[0]


def test_rows_are_encoded_like_plain_codes(model, table):
    codes = encode(model, table, "int8")
    more = encode_like(model, table[:50], codes)
    assert isinstance(more, SparseCodes) and more.value_type == "int8"
    codes.check_compatible(more)
    with pytest.raises(InputError, match="give codes of the same model"):
        encode_like(CompresSAE(D, H, K, seed=2), table[:50], codes)


def test_a_budget_is_refused_before_any_row_is_coded(model, table):
    """… with the user's own number, whatever the model's k."""
    least = "budget: 900 bytes for 300 rows; one nonzero a row takes 944"
    most = "budget: 2700000 bytes for 300 rows; 64 nonzeros"
    for budget, said in ((900, least), ("9 kB/row", most)):
        with pytest.raises(InputError, match=said):
            compress(model, table, budget=budget, progress=lambda *_: pytest.fail("coded"))
    with pytest.raises(InputError, match="finite numbers"):
        compress(model, table, budget="9 B/row", importance=np.full(300, np.nan),
                       progress=lambda *_: pytest.fail("coded"))  # fmt: skip
    assert compress(CompresSAE(D, 400, 300), table, budget="20 B/row").nbytes <= 6000


def test_an_encoders_own_values_are_scaled_to_unit_length(model, table):
    codes = encode(model, table, refit=False)
    near = codes.to_scipy() @ model.decoder.detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), 1, atol=1e-5)


def test_few_rows_have_no_residual_codes_yet_pack(model, table):
    with pytest.raises(InputError, match="10 rows: residual codes are trained on at least 256"):
        compress(model, table[:10], residual_bytes=2)
    for n in (1, 2, 10):
        assert len(compress(model, table[:n])) == n


def test_more_latents_than_packed_ids_can_name(table):
    model = CompresSAE(D, (1 << 17) + 1, 2)
    with pytest.raises(InputError, match="packed codes name at most 131072"):
        compress(model, table[:5])
    assert encode(model, table[:5], "int8").latents == (1 << 17) + 1


def test_more_nonzeros_than_a_byte_counts(table):
    model = CompresSAE(D, 300, 2)
    with pytest.raises(InputError, match="packed rows hold at most 255"):
        compress(model, table, nonzeros=256)
    assert compress(model, table[:5], nonzeros=255).rows.nonzeros.tolist() == [255] * 5


def test_progress_ends_with_all_rows_done(model, table):
    for work, arguments in ((compress, {}), (compress, dict(budget="9 B/row")), (encode, {})):
        seen = []
        work(model, table, progress=lambda done, to_do: seen.append((done, to_do)), **arguments)
        assert seen[-1][0] == seen[-1][1] and seen == sorted(seen)


def test_the_unit_length_of_rows_does_not_matter(model, table):
    one, two = compress(model, table), compress(model, table * 7)
    assert (one.data == two.data).mean() > 0.99


def test_a_beam_leaves_less_error(table):
    model = CompresSAE(D, H, 8, seed=3)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    errors = []
    for beam in (1, 6):
        codes = compress(model, table, "int4", beam=beam)
        rest = unit - codes.reconstruct(model.decoder.detach().numpy())
        errors.append((rest**2).sum(1).mean())
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(beam=0), "a beam of 0: expected 1 or more"),
        (dict(beam=2, budget="9 B/row"), "a beam of 2 and a budget"),
    ],
)
def test_a_beam_is_refused(model, table, arguments, said):
    with pytest.raises(InputError, match=said):
        compress(model, table, **arguments)
    wide = CompresSAE(2, 23_200, 1)
    with pytest.raises(InputError, match="a beam of 2: latents are chosen by one on the CPU"):
        compress(wide, table[:, :2], beam=2)


def test_too_many_latents_for_their_products_are_coded_too():
    """… by orthogonal matching pursuit; 23,200² products would take more than 1 GiB."""
    wide = CompresSAE(6, 23_200, 2, seed=0)
    rows = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    codes = compress(wide, rows, "int4")
    rest = rows - codes.reconstruct(wide.decoder.detach().numpy())
    assert (rest**2).sum(1).mean() < 0.05


def test_importance_beside_codes_of_a_budget(model, table):
    """Rows of more weight get more nonzeros, whichever kind of quantiser is shared."""
    weights = np.where(np.arange(N) < N // 2, 9.0, 1.0)
    for like in (
        compress(model, table, budget="9 B/row"),
        fit_quantizer(model, table, budget="9 B/row"),
    ):
        nonzeros = compress(model, table, like=like, importance=weights).nonzeros
        assert nonzeros[: N // 2].mean() > nonzeros[N // 2 :].mean() + 1
