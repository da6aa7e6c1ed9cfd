"""Packed codes and their quantiser: sizes, scores, files, prefixes."""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from code_forms import make_codes

from compressae import CompresSAE, InputError, compress, fit_quantizer
from compressae.coding.coder import PARALLEL_WEIGHT, Coder
from compressae.kernels import packed
from compressae.retrieval import CompressedIndex
from compressae.retrieval.codes import PackedCodes, load_codes
from compressae.retrieval.codes.fitted import FittedQuantizer
from compressae.retrieval.codes.quantizer import (
    RowQuantizer,
    fit_error_weighting,
    fit_levels,
    fit_scaled_gains,
    id_bits,
)
from compressae.retrieval.codes.residual import fit_residual
from compressae.retrieval.io.embeddings import unit_rows

N, D, H, K = 700, 12, 100, 5


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, K, seed=1)


@pytest.fixture(scope="module")
def decoder(model):
    return model.decoder.detach().numpy()


def kinds():
    """Arguments of codes of every form."""
    return [
        dict(values="int2"), dict(values="int3", nonzeros=1), dict(values="int4", nonzeros=7),
        dict(residual_bytes=3), dict(budget="7 B/row"), dict(budget="10 B/row", residual_bytes=4),
    ]  # fmt: skip


def test_bytes_of_a_row_are_ids_values_gain_and_residual(model, table):
    for values, k, m, expected in [
        ("int2", 5, 0, (5 * (7 + 2) + 7) // 8 + 1),
        ("int4", 5, 0, (5 * (7 + 4) + 7) // 8 + 1),
        ("int3", 8, 4, 10 + 1 + 4),
    ]:
        codes = make_codes(model, table, values, nonzeros=k, residual_bytes=m)
        assert codes.nbytes == N * expected + 4  # Four spare bytes at the end.
        assert codes.shape == (N, H)


@pytest.mark.parametrize("kind", kinds())
def test_files_give_the_same_codes(model, table, decoder, tmp_path, kind):
    codes = make_codes(model, table, **kind)
    codes.save(tmp_path / "codes")
    loaded = load_codes(tmp_path / "codes")
    assert isinstance(loaded, PackedCodes) and loaded.settings == codes.settings
    assert (len(loaded), loaded.nbytes, loaded.model_id) == (N, codes.nbytes, model.model_id)
    np.testing.assert_array_equal(loaded.data, codes.data)
    np.testing.assert_array_equal(loaded.reconstruct(decoder), codes.reconstruct(decoder))


@pytest.mark.parametrize("kind", kinds())
def test_scores_are_dot_products_with_the_remembered_rows(model, table, decoder, kind):
    codes = make_codes(model, table, **kind)
    queries = unit_rows(np.random.default_rng(1).standard_normal((6, D)).astype(np.float32))
    expected = queries @ codes.reconstruct(decoder).T
    for query, want in zip(queries, expected, strict=True):
        tables = codes.query_tables(query[None])[0]
        np.testing.assert_allclose(codes.scores(decoder @ query, tables), want, atol=2e-5)
    index = CompressedIndex(model.projection, codes, projection_type="float32")
    hits = index.search(queries, 20, candidates="all")
    np.testing.assert_array_equal(hits.ids, np.argsort(-expected, axis=1, kind="stable")[:, :20])
    two_stages = index.search(queries, 20, query_nonzeros=H)
    assert (two_stages.ids == hits.ids).mean() > 0.95


def test_more_bytes_remember_more(model, table, decoder):
    def error(**kind):
        return (
            (unit_rows(table) - make_codes(model, table, **kind).reconstruct(decoder)) ** 2
        ).mean()

    assert error(values="int4") < error(values="int3") < error(values="int2")
    assert error(nonzeros=8) < error(nonzeros=5) < error(nonzeros=2)
    assert error(residual_bytes=6) < error(residual_bytes=2) < error()


def test_packed_values_are_near_the_float_ones_of_the_same_latents(model, table, decoder):
    twin = CompresSAE(D, H, K, seed=1)
    twin.settings = {"recipe": "pursuit"}  # Whose plain codes are of pursuit too.
    exact, codes = make_codes(twin, table, "float32"), make_codes(twin, table, "int4").unpack()
    np.testing.assert_array_equal(codes.indices, exact.indices)
    far = np.abs(codes.values - exact.values).reshape(N, K)
    sizes = np.abs(exact.values).reshape(N, K)
    assert (np.diff(sizes, axis=1) <= 1e-6).all()  # Descending.
    assert (far.mean(0) < 0.15 * sizes.mean(0)).all()


def test_a_prefix_is_what_is_left_of_each_row(model, table):
    for kind in (dict(nonzeros=7), dict(budget="8 B/row")):
        codes = make_codes(model, table, **kind)
        for k in (1, 3):
            short = codes.prefix(k)
            whole, cut = codes.unpack(), short.unpack()
            for i in range(0, N, 23):
                kept = min(k, len(whole.row(i)[0]))
                np.testing.assert_array_equal(cut.row(i)[0], whole.row(i)[0][:kept])
                np.testing.assert_array_equal(cut.row(i)[1], whole.row(i)[1][:kept])
            assert short.nbytes < codes.nbytes and short.settings["nonzeros"] == k
            again = short.prefix(1)
            np.testing.assert_array_equal(again.data, codes.prefix(1).data)
    for k in (0, codes.quantizer.nonzeros + 1):
        with pytest.raises(InputError, match=f"{k} nonzeros: expected 1 to"):
            codes.prefix(k)
    with pytest.raises(InputError, match="cannot be cut; encode again with 2 nonzeros"):
        make_codes(model, table, residual_bytes=2).prefix(2)


def test_codes_that_share_a_quantiser_are_the_rows_of_one_table(model, table, decoder):
    whole = make_codes(model, table, residual_bytes=3)
    part = make_codes(model, table[100:200], like=whole)
    rows = whole.data[:-4].reshape(N, -1)
    same = (part.data[:-4].reshape(100, -1) == rows[100:200]).all(1)
    assert same.mean() > 0.95  # Batches of other sizes may round a near tie otherwise.
    assert part.settings == whole.settings and part.quantizer is whole.quantizer


def test_parts_that_do_not_fit_are_refused(model, table):
    codes = make_codes(model, table)
    with pytest.raises(InputError, match="do not fit rows of"):
        PackedCodes(codes.data[:-1], None, codes.quantizer)
    with pytest.raises(InputError, match="do not fit rows of"):
        PackedCodes(codes.data[:4], None, codes.quantizer)
    ragged = make_codes(model, table, budget="7 B/row")
    with pytest.raises(InputError, match="do not fit rows of"):
        PackedCodes(ragged.data, ragged.counts[:-1], ragged.quantizer)
    with pytest.raises(InputError, match="a row of 255 nonzeros"):
        PackedCodes(ragged.data, np.full(N, 255, np.uint8), ragged.quantizer)
    settings, arrays = codes.artifact_settings(), codes.arrays()
    with pytest.raises(InputError, match=f"{N} rows; expected 3"):
        PackedCodes.from_parts(settings | {"rows": 3}, arrays)
    arrays["quantizer.metric"] = arrays["quantizer.metric"][:3, :3]
    with pytest.raises(InputError, match="do not fit together; encode the table again"):
        PackedCodes.from_parts(settings, arrays)
    endless = np.empty((1 << 32, 256, 0), np.float32)  # Of no bytes: 4 GB were reserved for a row.
    with pytest.raises(InputError, match="do not fit together; encode the table again"):
        PackedCodes.from_parts(settings, codes.arrays() | {"quantizer.codebooks": endless})
    for lacking in ("quantizer.gains", "data"):
        with pytest.raises(InputError, match="encode the table again"):
            PackedCodes.from_parts(
                settings, {n: a for n, a in codes.arrays().items() if n != lacking}
            )
    with pytest.raises(InputError, match="made is missing.*; encode the table again"):
        PackedCodes.from_parts({n: v for n, v in settings.items() if n != "made"}, codes.arrays())
    with pytest.raises(InputError, match="expected at most 25 bits together"):
        PackedCodes.from_parts(settings | {"latents": 1 << 24}, codes.arrays())
    broken = codes.arrays() | {"quantizer.gains": np.full(256, np.nan, np.float32)}
    with pytest.raises(InputError, match="NaN or infinity in its arrays"):
        PackedCodes.from_parts(settings, broken)
    damaged = codes.data.copy()
    damaged[:] = 255  # Latent 127 of 100.
    with pytest.raises(InputError, match="latent 127 of 100"):
        PackedCodes(damaged, None, codes.quantizer).unpack()
    nothing = PackedCodes(damaged, None, codes.quantizer).scores(
        np.zeros(H, np.float32), np.empty((0, 256), np.float32)
    )
    assert (nothing == 0).all()  # Nothing is read beyond the query.


def test_plain_codes_are_not_packed_ones(model, table, tmp_path):
    make_codes(model, table, "int8").save(tmp_path / "codes")
    with pytest.raises(InputError, match="holds no PackedCodes; open it with .*load_codes"):
        PackedCodes.load(tmp_path / "codes")


@pytest.mark.parametrize(
    ("latents", "bits"), [(1, 1), (2, 1), (3, 2), (64, 6), (65, 7), (16384, 14), (65537, 17)]
)
def test_id_bits(latents, bits):
    assert id_bits(latents) == bits


def test_the_metric_weighs_what_queries_weigh():
    rng = np.random.default_rng(0)
    queries = unit_rows(rng.standard_normal((500, 6)).astype(np.float32) * [5, 4, 3, 2, 1, 0.001])
    metric = fit_error_weighting(queries)
    np.testing.assert_allclose(metric, metric.T, atol=1e-6)
    diagonal = np.diag(metric)
    assert (np.diff(diagonal) < 0.02).all() and diagonal[0] > 5 * diagonal[-1] > 0
    lengths = np.linalg.norm(queries @ metric, axis=1)
    assert np.mean(lengths**2) == pytest.approx(1, abs=1e-3)


def test_levels_are_lloyds_and_their_bits_go_where_they_help():
    rng = np.random.default_rng(0)
    wide, narrow = rng.choice([-1.0, 1.0], 4000) * 10, rng.standard_normal(4000) * 0.01
    uniform = rng.uniform(-8, 8, 4000)
    values = np.stack([wide, uniform, narrow], 1).astype(np.float32)
    levels, bits = fit_levels(values, 2, 3)
    assert bits.sum() == 6 and bits[1] == bits.max() and bits[2] == 1
    np.testing.assert_allclose(levels[0, :2], [-10, 10], atol=1e-3)
    mine = levels[1, : 1 << bits[1]]
    np.testing.assert_allclose(np.diff(mine), 16 / len(mine), rtol=0.15)  # Uniform: even steps.
    assert np.isinf(levels[2, 2:]).all()
    assert fit_levels(values, 1, 3)[1].tolist() == [1, 1, 1]
    assert fit_levels(values, 8, 3)[1].max() == 8


def test_constant_values_need_one_level():
    levels, bits = fit_levels(np.ones((50, 2), np.float32), 4, 2)
    assert np.isfinite(levels[np.arange(2), 0]).all() and (levels[:, 0] == 1).all()
    assert bits.max() <= 8


def test_a_residual_quantiser_turns_and_spreads_the_variance():
    rng = np.random.default_rng(0)
    spread = np.array([8, 4, 2, 1, 0.5, 0.25, 0.1])
    turn = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    rows = (rng.standard_normal((3000, 7)) * spread @ turn).astype(np.float32)
    rotation, codebooks = fit_residual(rows, 3)
    assert rotation.shape == (7, 9) and codebooks.shape == (3, 256, 3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(7), atol=1e-5)
    variance = (rows @ rotation).var(0).reshape(3, 3)
    assert all(np.count_nonzero(part > 1e-6) >= 1 for part in variance)
    strongest = np.argsort(-variance.max(1))
    assert variance.max(1)[strongest[2]] > 3  # The three largest axes lie in three parts.


def test_a_search_holds_the_residuals_arrays_in_8_bits(model, table):
    """d = 12 in three parts of 4, padded to rows of 64; exact, but for the query's 16 bits."""
    quantizer = compress(model, table, residual_bytes=3).quantizer
    assert quantizer.is_scaled
    levels = quantizer.levels.nbytes + quantizer.gains.nbytes + quantizer.scales.nbytes
    assert quantizer.nbytes == levels + (12 * 64 + 4 * 12) + 3 * 256 * 4 + 4 * 3
    x = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
    parts = (x.astype(np.float64) @ quantizer.restore).reshape(5, 3, 4)
    expected = np.einsum("qms,mcs->qmc", parts, quantizer.codebooks)
    np.testing.assert_allclose(quantizer.tables(x), expected, atol=1e-4 * np.abs(expected).max())


def test_arrays_of_an_older_file_are_held_as_they_are(model, table):
    rounded = compress(model, table, residual_bytes=3).quantizer
    noise = np.random.default_rng(0).random(rounded.codebooks.shape, np.float32) / 100
    older = replace(rounded, codebooks=rounded.codebooks + noise)
    x = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
    parts = (x @ older.restore).reshape(5, 3, 4)
    expected = np.einsum("qms,mcs->qmc", parts, older.codebooks)
    np.testing.assert_allclose(older.tables(x), expected, atol=1e-6 * np.abs(expected).max())
    levels = older.levels.nbytes + older.gains.nbytes + older.scales.nbytes
    assert older.nbytes == levels + 4 * (12 * 12 + 3 * 256 * 4 + 3)


def test_a_gain_byte_is_the_nearest_of_its_256():
    gains, none = np.linspace(0.9, 1.4, 256, dtype=np.float32), np.empty((2, 0), np.float32)
    quantizer = RowQuantizer(
        4, np.eye(2, dtype=np.float32), np.zeros((1, 2), np.float32), np.ones(1, np.int64), gains,
        none, none, np.empty((0, 256, 0), np.float32), np.ones(256, np.float32),
    )  # fmt: skip
    wanted = np.array([0.5, 0.9, 1.0, 1.2345, 1.4, 2], np.float32)
    found = gains[quantizer.encode_gain(wanted)]
    np.testing.assert_allclose(found, np.clip(wanted, 0.9, 1.4), atol=0.5 / 255)


def test_the_fitted_gains_and_scales_are_the_pairs_of_least_error():
    rng = np.random.default_rng(0)
    gains, scales = 1 + rng.standard_normal(5000) / 100, 0.3 + rng.standard_normal(5000) / 20
    own, others = fit_scaled_gains(gains, scales, energy=0.9)
    assert own.shape == others.shape == (256,) and len(set(zip(own, others, strict=True))) == 256

    def error(count):
        columns = (gains, np.unique(own)), (scales, np.unique(others))
        if count:
            pairs = zip((gains, scales), count, strict=True)
            columns = [(c, np.quantile(c, (np.arange(n) + 0.5) / n)) for c, n in pairs]
        nearest = [np.abs(c[:, None] - given).min(1) for c, given in columns]
        return float((nearest[0] ** 2 + 0.9 * nearest[1] ** 2).mean())

    assert all(error(None) < error((1 << b, 256 >> b)) for b in range(9))
    one = fit_scaled_gains(np.full(9, 1.0), np.full(9, 0.0), energy=1)  # Rows that are all alike.
    assert (one[0] == 1).all() and (one[1] == 0).all()


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("budget", [None, "9 B/row"])
def test_a_gain_byte_is_the_pair_of_gain_and_scale_of_least_error(
    model, table, decoder, budget, weight
):
    """The error along the row counts more, but not in rows to add to codes of before."""
    codes = make_codes(model, table, residual_bytes=3, nonzeros=None, budget=budget)
    assert codes.settings["parallel_weight"] == PARALLEL_WEIGHT == 0.3
    if not weight:
        settings = {k: v for k, v in codes.settings.items() if k != "parallel_weight"}
        codes = compress(model, table, like=replace(codes, settings=settings))
    quantizer = codes.quantizer
    assert quantizer.is_scaled
    numbers, residual = packed.heads(codes.rows)[:, -1], codes.residual_codes()
    nonzeros = codes.unpack().to_scipy() @ decoder / codes.gains()[:, None]
    parts = quantizer.decode_residual(residual)
    x, a = unit_rows(table), quantizer.error_weighting
    errors = []
    for gain, scale in zip(quantizer.gains, quantizer.scales, strict=True):
        error = x - gain * (nonzeros + scale * parts)
        errors.append(((error @ a) ** 2).sum(1) + weight * (error * x).sum(1) ** 2)
    errors = np.stack(errors, 1)
    chosen = errors[np.arange(N), numbers]
    np.testing.assert_allclose(chosen, errors.min(1), rtol=1e-3, atol=1e-6)
    one_scale = errors[:, np.abs(quantizer.scales - quantizer.scales.mean()).argmin()]
    assert chosen.mean() < 0.9 * one_scale.mean() and len(np.unique(numbers)) > 30
    expected = (quantizer.gains * quantizer.scales)[numbers, None] * parts
    rows = codes.unpack().to_scipy() @ decoder + expected
    np.testing.assert_allclose(codes.reconstruct(decoder), rows, atol=1e-5)
    coder = Coder(model, a, pursuit=True, device=torch.device("cpu"), parallel_weight=weight)
    given = [torch.from_numpy(y @ a) for y in (x, nonzeros.astype(np.float32), parts)]
    products = torch.stack(coder.products(*given), 1)
    np.testing.assert_array_equal(quantizer.encode_scaled_gain(products), numbers)


@pytest.mark.parametrize("weight", [-0.1, 101, "much", True, None, float("nan")])
def test_a_weight_in_a_file_that_is_none_is_refused(model, table, tmp_path, weight):
    codes = make_codes(model, table)
    settings = {**codes.settings, "parallel_weight": weight}
    with pytest.raises(InputError, match="parallel_weight is .*expected a number from 0 to 100"):
        PackedCodes.from_parts(
            {**codes.artifact_settings(), "made": settings},
            codes.row_arrays() | codes.shared_arrays(),
        )
    replace(codes.fitted, settings=settings).save(tmp_path / "quantizer")
    named = "quantizer: parallel_weight is .*fit the quantiser again|NaN is no number"
    with pytest.raises(InputError, match=named):
        FittedQuantizer.load(tmp_path / "quantizer")
    if weight is not None:
        with pytest.raises(InputError, match="^fit_quantizer: parallel_weight is .*or None"):
            fit_quantizer(model, table, parallel_weight=weight)


def test_a_weight_of_any_kind_of_number(model, table):
    fitted = [
        fit_quantizer(model, table, parallel_weight=w)
        for w in (0.5, np.float32(0.5), np.float64(0.5), 1, np.int64(1))
    ]
    assert [type(f.settings["parallel_weight"]) for f in fitted] == [float] * 5
    arrays = [f.quantizer.arrays()["gains"] for f in fitted]
    assert all((gains == arrays[0]).all() and gains.dtype == np.float32 for gains in arrays[:3])
    assert (arrays[3] == arrays[4]).all() and (arrays[3] != arrays[0]).any()


def test_queries_near_a_row_find_its_score(model, table, decoder):
    """A gain of least squares alone would make each row's product with itself too small."""
    codes = make_codes(model, table, nonzeros=2)
    settings = {k: v for k, v in codes.settings.items() if k != "parallel_weight"}
    older = compress(model, table, like=replace(codes, settings=settings))
    x = unit_rows(table)
    bias, before = (1 - (x * c.reconstruct(decoder)).sum(1).mean() for c in (codes, older))
    assert 0 < bias < 0.85 * before


def test_residuals_of_any_length_are_coded_alike(decoder, model):
    """Rows whose nonzeros leave a tenth, and rows whose nonzeros leave half: each as one scale of
    the same directions."""
    rng = np.random.default_rng(3)
    noise = unit_rows(rng.standard_normal((N, D)).astype(np.float32))
    share = np.where(np.arange(N) % 2, 0.1, 0.5).astype(np.float32)[:, None]
    rows = decoder[rng.integers(0, H, N)] * (1 - share) + share * noise
    codes = make_codes(model, rows, nonzeros=1, residual_bytes=6)
    scales = (codes.quantizer.scales)[packed.heads(codes.rows)[:, -1]]
    assert np.median(scales[::2]) > 3 * np.median(scales[1::2])
    left = np.linalg.norm(unit_rows(rows) - codes.reconstruct(decoder), axis=1)
    assert np.median(left[1::2]) < 0.3 * np.median(left[::2])


def test_a_budgets_scales_are_for_rows_of_few_nonzeros_too(model, table, decoder):
    codes = make_codes(model, table, budget="10 B/row", residual_bytes=4)
    most = codes.quantizer.nonzeros
    equal = make_codes(model, table, nonzeros=most, residual_bytes=4)
    assert codes.quantizer.scales.max() > 2 * equal.quantizer.scales.max()
    few = codes.nonzeros <= most // 3
    left = np.linalg.norm(unit_rows(table) - codes.reconstruct(decoder), axis=1)
    assert few.sum() > 50 and left[few].mean() < 1.5 * left[~few].mean()


def test_rows_that_nonzeros_leave_nothing_of(model, decoder):
    codes = make_codes(model, np.tile(decoder[:1], (300, 1)), nonzeros=1, residual_bytes=2)
    found = codes.reconstruct(decoder)
    np.testing.assert_allclose(found, np.tile(decoder[:1], (300, 1)), atol=1e-4)


def test_dot_products_and_codes_without_residuals_have_no_scales(model, table):
    lengths = np.linspace(0.5, 2, N, dtype=np.float32)[:, None]
    dots = make_codes(model, table * lengths, similarity="dot", residual_bytes=3)
    for codes in (dots, make_codes(model, table), make_codes(model, table).prefix(2)):
        assert not codes.quantizer.is_scaled and "scales" not in codes.quantizer.arrays()
    with pytest.raises(InputError, match="do not fit together"):
        replace(dots.quantizer, scales=np.full(256, 0.5, np.float32))


def test_rows_of_one_dimension_and_long_ones_are_coded_without_warnings():
    signs = np.where(np.arange(400) % 3, 1, -1).astype(np.float32)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = CompresSAE(1, 2, 1)
        codes = make_codes(one, signs, residual_bytes=1)
        np.testing.assert_allclose(
            codes.reconstruct(one.decoder.detach().numpy()), signs, atol=1e-3
        )
        rows = np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32) * 1e25
        codes = make_codes(CompresSAE(4, 8, 2), rows, similarity="dot", residual_bytes=2)
        assert np.isfinite(codes.gains()).all()


def test_codes_with_and_without_scales_do_not_mix(model, table):
    codes = make_codes(model, table, residual_bytes=3)
    ones = np.ones(256, np.float32)
    quantizer = replace(codes.quantizer, scales=ones, gains=np.sort(codes.quantizer.gains))
    for a, b in itertools.permutations((codes, replace(codes, quantizer=quantizer))):
        with pytest.raises(InputError, match="another model or quantiser"):
            a.check_compatible(b)


@pytest.mark.parametrize("scales", [np.ones(255), np.full(256, np.nan), np.full(256, np.inf)])
def test_damaged_scales_are_refused(model, table, scales):
    codes = make_codes(model, table, residual_bytes=3)
    arrays = codes.quantizer.arrays() | {"scales": scales.astype(np.float32)}
    with pytest.raises(InputError, match="encode the table again"):
        RowQuantizer.from_arrays(H, arrays)


@pytest.mark.parametrize("kind", kinds())
def test_rows_can_be_taken_joined_and_read_in_part(model, table, kind):
    """Rows that differ in k lie at places of their own."""
    codes = make_codes(model, table, **kind)
    whole = codes.unpack().to_scipy().toarray()
    rows = np.random.default_rng(0).integers(0, N, 300)
    taken = codes.take(rows)
    np.testing.assert_array_equal(taken.unpack().to_scipy().toarray(), whole[rows])
    np.testing.assert_array_equal(taken.residual_codes(), codes.residual_codes()[rows])
    joined = codes.take(np.arange(5)).join([taken, codes])
    expected = np.concatenate([whole[:5], whole[rows], whole])
    np.testing.assert_array_equal(joined.unpack().to_scipy().toarray(), expected)
    np.testing.assert_allclose(codes.norms(), np.linalg.norm(whole, axis=1), rtol=1e-5)
    assert codes.largest >= np.abs(whole).max() > 0.3 * codes.largest
    query = np.random.default_rng(1).standard_normal(H).astype(np.float32)
    np.testing.assert_allclose(codes.dots(query, rows), whole[rows] @ query, atol=1e-5)
    for start, stop in ((0, 1), (63, 65), (64, 64 + 130), (N - 1, N)):
        indptr, ids, values, factors = codes.read(start, stop)
        dense = np.zeros((stop - start, H), np.float32)
        owner = np.repeat(np.arange(stop - start), np.diff(indptr))
        dense[owner, ids] = values * factors[owner]
        np.testing.assert_array_equal(dense, whole[start:stop])
        np.testing.assert_array_equal(codes.gains(start, stop), codes.gains()[start:stop])
