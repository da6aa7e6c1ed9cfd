"""Dictionary learning: the run behind recipe "pursuit"."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from compressae import TrainConfig, compress, load_sample, train
from compressae.coding.coder import pursuit_schedule
from compressae.kernels.decode import decode
from compressae.kernels.pursuit import pursue
from compressae.retrieval.codes.quantizer import fit_error_weighting
from compressae.retrieval.io.embeddings import as_embeddings, unit_rows
from compressae.training.checkpoint import recorded_whitening
from compressae.training.pursuit import PursuitRun, choose_whitening

CONFIG = TrainConfig(latents=48, nonzeros=3, steps=60, batch=128, seed=2, whitening=0.4)


@pytest.fixture(scope="module")
def table():
    """Rows made of 3 of 48 hidden directions, and a little noise."""
    rng = np.random.default_rng(0)
    hidden = unit_rows(rng.standard_normal((48, 24)).astype(np.float32))
    ids = np.argsort(rng.random((1500, 48)), axis=1)[:, :3]
    values = rng.choice([-1, 1], (1500, 3)) * rng.uniform(0.5, 1.5, (1500, 3))
    rows = np.einsum("nk,nkd->nd", values, hidden[ids]) + 0.01 * rng.standard_normal((1500, 24))
    return rows.astype(np.float32)


def error(weights, x, k=3):
    ids, values = pursue(x, weights, pursuit_schedule(k))
    return float(((x - decode(ids, values, weights)) ** 2).sum(1).mean())


def test_it_finds_a_better_dictionary_than_an_autoencoder_of_more_steps(table):
    x = unit_rows(table)
    ours = train(table, CONFIG)
    other = train(
        table, TrainConfig(latents=48, nonzeros=3, recipe="autoencoder", steps=200, batch=128)
    )
    errors = [error(model.decoder.detach().numpy(), x) for model in (ours, other)]
    start = error(PursuitRun(as_embeddings(table), CONFIG).weights, x)
    assert errors[0] < 0.4 * errors[1] and errors[0] < 0.3 * start


def test_encoder_and_decoder_are_one_matrix_of_unit_rows(table):
    model = train(table, CONFIG, device="cpu")
    decoder = model.decoder.detach().numpy()
    np.testing.assert_array_equal(decoder, model.encoder.detach().numpy())
    np.testing.assert_allclose(np.linalg.norm(decoder, axis=1), 1, atol=1e-5)
    assert not model.encoder_bias.detach().numpy().any()
    assert model.settings["recipe"] == "pursuit" and model.settings["device"] == "cpu"


@pytest.mark.parametrize(("share", "left"), [(0.5, 24), (0.99, 3)], ids=["half", "all but k"])
def test_each_step_leaves_other_latents_out(table, share, left):
    run = PursuitRun(as_embeddings(table), replace(CONFIG, latent_dropout=share))
    used = []
    for _ in range(3):
        run.advance()
        used.append(set(np.unique(run.ids[run.seen])) - set().union(*used))
    assert len(used[0]) == left and used[1] and used[2]


def test_with_dropout_fewer_errors_of_unseen_rows_come_of_memorising():
    """Rows without structure, two a latent: what is learned beyond their spectrum is memorised."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1256, 32)) * np.arange(1, 33) ** -0.5
    x = unit_rows(x.astype(np.float32))
    config = TrainConfig(latents=128, nonzeros=3, steps=60, decoder_bits=32)
    gaps = []
    for share in (0.0, 0.3):
        weights = train(x[:256], replace(config, latent_dropout=share)).decoder.detach().numpy()
        gaps.append(error(weights, x[256:]) - error(weights, x[:256]))
    assert gaps[1] < 0.95 * gaps[0]


def test_whitening_evens_out_the_directions_and_is_undone_in_the_model():
    rng = np.random.default_rng(4)
    turn = np.linalg.qr(rng.standard_normal((24, 24)))[0]
    table = (rng.standard_normal((3000, 24)) * np.arange(1, 25) ** -1.0 @ turn).astype(np.float32)
    x, spread = unit_rows(table), []
    for power in (0.0, 0.25, 0.5):
        run = PursuitRun(as_embeddings(table), replace(CONFIG, whitening=power))
        variance = np.linalg.eigvalsh(run.x.T @ run.x)
        spread.append(variance[-1] / variance[0])
        run.weights = run.x[:48].copy()  # As if these rows were learned.
        learned = run.model.decoder.detach().numpy()
        assert ((learned * x[:48]).sum(1) > 0.98).all()  # In 4 bits.
    assert spread[0] > 5 * spread[1] > 20 * spread[2]


def test_codes_of_a_whitened_dictionary_are_closer():
    x = unit_rows(load_sample().embeddings.take(np.arange(14_000)))
    errors = []
    for power in (0.0, 0.4):
        config = TrainConfig(latents=256, nonzeros=4, steps=40, batch=2250, whitening=power)
        model = train(x[:9000], config)
        codes = compress(model, x[9000:], residual_bytes=8)
        left = x[9000:] - codes.reconstruct(model.decoder.detach().numpy())
        errors.append(float(((left @ codes.quantizer.error_weighting) ** 2).sum(1).mean()))
    assert errors[1] < 0.995 * errors[0], errors


def clusters(n, d, each, within):
    """Rows around n / each centres, and as far from them as says ``within``."""
    rng = np.random.default_rng(6)
    scale = np.arange(1, d + 1) ** -0.5
    centres = np.repeat(rng.standard_normal((n // each, d)), each, axis=0)
    return ((centres + within * rng.standard_normal((n, d))) * scale).astype(np.float32)


def test_a_trial_tells_where_whitening_does_harm():
    """Rows of a cluster have a direction in common, which whitening makes hard to see."""
    sample = unit_rows(load_sample().embeddings.take(np.arange(5000)))
    config = TrainConfig(latents=512, nonzeros=4, steps=40, batch=1250)
    tables = {0.4: sample, 0.0: clusters(4000, 512, 20, 1.0)}
    chosen = {p: choose_whitening(as_embeddings(x), config) for p, x in tables.items()}
    assert chosen == {0.4: 0.4, 0.0: 0.0}
    few_a_step = replace(config, batch=32, steps=1500)
    assert choose_whitening(as_embeddings(tables[0.0]), few_a_step) == 0.0
    short = replace(config, steps=39)
    assert choose_whitening(as_embeddings(tables[0.0]), short) == 0.4


def test_what_was_chosen_is_recorded_and_resumed(table, tmp_path, monkeypatch):
    asked = []

    def choose(items, config, device):
        asked.append(config)
        return 0.0

    def stop(now):
        if now.step == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr("compressae.training.loop.choose_whitening", choose)
    config = replace(CONFIG, whitening=None)
    with pytest.raises(KeyboardInterrupt):
        train(table, replace(CONFIG, whitening=0), progress=stop, checkpoint=tmp_path / "whole")
    assert recorded_whitening(tmp_path / "whole") == 0 and not asked

    with pytest.raises(KeyboardInterrupt):
        train(table, config, progress=stop, checkpoint=tmp_path / "state")
    resumed = train(table, config, checkpoint=tmp_path / "state", resume=True)
    assert resumed.settings["whitening"] == 0 and len(asked) == 1
    plain = train(table, replace(config, whitening=0.0))
    assert torch.equal(resumed.decoder, plain.decoder) and len(asked) == 1


@pytest.mark.parametrize("dense", [0, 32], ids=["sparse products", "formed SᵀS"])
def test_an_update_is_the_least_squares_dictionary(table, monkeypatch, dense):
    """With enough steps of its solver, the update solves SᵀS W + ridge W = SᵀX + ridge W₀."""
    monkeypatch.setattr("compressae.training.pursuit._DENSE", dense)
    monkeypatch.setattr("compressae.training.pursuit._SOLVER_STEPS", 200)
    run = PursuitRun(as_embeddings(table), CONFIG)
    run.ids, run.values = pursue(run.x, run.weights, [1, 1, 1])
    run.seen[:] = True
    before = run.weights.astype(np.float64)
    run._solve()
    s = np.zeros((len(table), 48))
    np.put_along_axis(s, run.ids.astype(np.int64), run.values.astype(np.float64), 1)
    expected = np.linalg.solve(s.T @ s + 0.05 * np.eye(48), s.T @ run.x + 0.05 * before)
    np.testing.assert_allclose(run.weights, expected, atol=2e-3)


def test_unused_latents_become_residuals_until_late(table):
    run = PursuitRun(as_embeddings(table), CONFIG)
    run.weights[:5] = unit_rows(np.ones((5, 24), np.float32) * 1e-3)  # One direction five times.
    run.advance()
    dead = [run.dead_latents()]
    for _ in range(10):
        run.advance()
        dead.append(run.dead_latents())
    assert dead[-1] == 0
    run.step = 59
    run.seen[:] = False
    before = run._uses()
    run.advance()
    assert (before == 0).all() and np.isfinite(run.weights).all()


def test_the_loss_is_reported_of_each_batch(table):
    seen = []
    train(table, CONFIG, progress=seen.append)
    assert [now.step for now in seen] == list(range(1, 61))
    assert seen[-1].loss < 0.3 * seen[0].loss and seen[-1].cosine > seen[0].cosine
    assert all(0 < now.cosine <= 1 and 0 <= now.dead_latents <= 48 for now in seen)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_figures_are_of_rows_as_they_are(power):
    rng = np.random.default_rng(5)
    table = (rng.standard_normal((1000, 24)) * np.arange(1, 25) ** -1.0).astype(np.float32)
    run = PursuitRun(as_embeddings(table), replace(CONFIG, whitening=power, decoder_bits=32))
    run.batch = 1000
    decoder = run.model.decoder.detach().numpy()
    error, cosine = run.advance()
    # The figures of the chosen latents' least squares, which values of whitened rows miss a little.
    x, ids = unit_rows(table), run.ids
    best = np.stack([
        decoder[i].T @ np.linalg.lstsq(decoder[i].T, row, rcond=None)[0]
        for i, row in zip(ids, x, strict=True)
    ])  # fmt: skip
    least = ((x - best) ** 2).sum(1).mean()
    assert 0.999 * least < error < (1.001 + power) * least
    largest = np.linalg.norm(best, axis=1).mean()
    assert largest * (1 - 0.4 * power) - 1e-3 < cosine < largest + 1e-3


def test_large_tables_are_sampled(table, monkeypatch):
    monkeypatch.setattr("compressae.training.pursuit.SAMPLE_ROWS", 500)
    run = PursuitRun(as_embeddings(table), CONFIG)
    assert run.x.shape == (500, 24) and run.batch == 125
    assert len(np.unique(run.x, axis=0)) == 500


@pytest.mark.parametrize("setting", ["learning_rate", "warmup", "decay", "wide_weight"])
def test_settings_of_an_optimiser_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} with recipe 'pursuit', which has none"):
        TrainConfig(**{setting: 1})


@pytest.mark.parametrize(
    "group", [np.arange(1600) % 8, np.arange(1600) // 200], ids=["turns", "runs"]
)
def test_rows_that_judge_a_trial_are_drawn(group, monkeypatch):
    """Neither every eighth nor the first: in a table of groups they would be of one kind."""
    table = np.random.default_rng(7).standard_normal((1600, 16), dtype=np.float32)
    table[np.arange(1600), group] += 100  # Which group a row is of.
    kinds = []

    def spy(x):
        kinds.append(np.unique(x[:, :8].argmax(1)))
        return fit_error_weighting(x)

    monkeypatch.setattr("compressae.training.pursuit.fit_error_weighting", spy)
    choose_whitening(as_embeddings(table), TrainConfig(latents=32, nonzeros=2))
    assert len(kinds) == 1 and len(kinds[0]) == 8
